"""Words the rules know: modalities, sides, sexes, negation, body regions, findings.

English and the commonest Chinese terms. Lists are deliberately short and unambiguous: a word that
has two meanings in medical prose ("MR" is also mitral regurgitation, "cervical" is also the spine)
is left out, because a missed defect costs one record and a false alarm costs trust.
Change a list: raise `LEXICON_VERSION`, so that old signals are measured again.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from infimed.curation.shortcuts import Cued, remembered

LEXICON_VERSION: Final = 3

_I = re.IGNORECASE

MODALITIES: Final[dict[str, re.Pattern[str]]] = {
    "CT": re.compile(
        r"\b(?:CT|CTA|HRCT|CECT|NECT|CAT scans?)\b|\bcomput(?:ed|erized|erised) tomogra\w+|计算机断层",
        _I,
    ),
    "MR": re.compile(
        r"\bMRIs?\b|\bMRA\b|\bMRCP\b|\bmagnetic resonance\b|\bFLAIR\b|\bT[12][- ]?(?:weighted|W|WI|MRI)\b"
        r"|磁共振|核磁",
        _I,
    ),
    "XR": re.compile(
        r"\bx[- ]?rays?\b|\bradiographs?\b|\broentgeno(?:gram|graph)\w*|\bCXR\b|\bplain films?\b"
        r"|\bmammogra(?:m|ms|phy)\b|\bfluoroscop\w+|X线|X光|胸片",
        _I,
    ),
    "US": re.compile(
        r"\bultraso(?:und|nogra(?:m|ms|phy|phic))s?\b|\bsonogra(?:m|ms|phy|phic)\b|\bUSG\b"
        r"|\bechocardiogra\w+|超声",
        _I,
    ),
    "PT": re.compile(r"\bPET\b|\bpositron emission\b|\bscintigra\w+|\bSPECT\b"),
    "OP": re.compile(r"\bfundus (?:photo\w*|images?|camera)\b|\bretinal photogra\w+|眼底照", _I),
    "SM": re.compile(
        r"\bhisto(?:logy|logic|logical|pathology|pathologic|pathological) (?:slides?|sections?|images?)\b"
        r"|\bphotomicrograph\w*|\bH ?& ?E\b|\bha?ematoxylin\b|病理切片",
        _I,
    ),
    "ES": re.compile(
        r"\b(?:endoscop(?:y|ic)|colonoscop(?:y|ic)|bronchoscop(?:y|ic)) (?:images?|views?)\b", _I
    ),
}
"""Family of modality -> how text names it."""

MODALITY_CODES: Final[dict[str, str]] = {
    "ct": "CT", "mr": "MR", "mri": "MR", "dx": "XR", "cr": "XR", "xr": "XR", "rf": "XR", "xa": "XR",
    "mg": "XR", "xray": "XR", "radiograph": "XR", "radiography": "XR", "mammography": "XR",
    "fluoroscopy": "XR", "us": "US", "ultrasound": "US", "sonography": "US", "echo": "US",
    "pt": "PT", "pet": "PT", "nm": "PT", "op": "OP", "fundus": "OP", "sm": "SM", "gm": "SM",
    "histology": "SM", "histopathology": "SM", "pathology": "SM", "microscopy": "SM", "es": "ES",
    "endoscopy": "ES", "ecg": "ECG",
}  # fmt: skip
"""Word of a modality fact -> family."""

REGIONS: Final[dict[str, re.Pattern[str]]] = {
    "head": re.compile(r"\b(?:brain|cranial|head|cerebral)\b|头颅|脑部", _I),
    "chest": re.compile(r"\b(?:chest|thora(?:x|cic))\b|胸部", _I),
    "abdomen": re.compile(r"\b(?:abdom(?:en|inal))\b|腹部", _I),
}
"""Body region -> how text names it as the object of a scan."""

REGION_CODES: Final[dict[str, str]] = {
    "head": "head", "brain": "head", "skull": "head", "chest": "chest", "thorax": "chest",
    "lung": "chest", "abdomen": "abdomen", "abd": "abdomen", "abdominal": "abdomen",
}  # fmt: skip

SCAN_WORD: Final = re.compile(
    r"\b(?:CTA?|HRCT|MRI|scans?|radiographs?|x[- ]?rays?|ultrasound|tomogra\w+|films?)\b", _I
)

LEFT: Final = re.compile(
    r"\bleft\b(?! (?:in place|behind|untreated|over|alone|open|him|her|the))|左", _I
)
RIGHT: Final = re.compile(
    r"(?<!is )(?<!are )\bright\b(?! (?:after|before|away|now|angles?|here|there|answers?))|(?:is|are) right\b(?=[ -]\w)|右",
    _I,
)
BOTH_SIDES: Final = re.compile(r"\b(?:bilateral(?:ly)?|both|either)\b|双侧|两侧", _I)

YES: Final = re.compile(
    r"\s*(?:yes|yeah|yep|true|correct)\b|\s*(?:是的|有的|对的|是|有|对)(?=$|[\s，。,.！!])", _I
)
NO: Final = re.compile(
    r"\s*(?:no|nope|false|incorrect)\b(?!\.\s*\d)|\s*(?:不是|没有|不|否|无)(?=$|[\s，。,.！!])", _I
)

NEGATION: Final = re.compile(
    r"\b(?:no|not|without|absent|absence of|negative for|free of|denies|never|none|neither|nor|n't"
    r"|rules? out|ruled out|resolved)\b|n't\b|未见|没有|无|不|未",
    _I,
)

FEMALE_ORGANS: Final = Cued(
    r"\b(?:uterus|uterine|ovary|ovaries|ovarian|fallopian|endometri\w+|myometri\w+|vagina|vaginal"
    r"|cervix uteri|placenta\w*|fibroid uterus|hysterectomy)\b|子宫|卵巢",
    "uter", "ovar", "fallopian", "metri", "vagina", "placenta", "hysterectomy",
)  # fmt: skip
MALE_ORGANS: Final = Cued(
    r"\b(?:prostate|prostatic|prostatectomy|testis|testes|testicle\w*|testicular|scrot(?:um|al)"
    r"|penis|penile|seminal vesicles?|epididymis)\b|前列腺|睾丸",
    "prosta", "test", "scrot", "peni", "seminal", "epididymis",
)  # fmt: skip
STATED_SEX: Final = Cued(
    r"\b\d{1,3}[- ]?(?:years?|months?|weeks?|days?|yrs?|y)[- ]?(?:old)?[, ]+(?:\w+[, ]+){0,2}?"
    r"(?P<sex>female|woman|girl|lady|male|man|boy|gentleman)\b"
    r"|\b(?:this|the|an?|a) (?P<sex2>female|male) patient\b|\bin an? (?P<sex3>man|woman)\b",
    "male", "man", "girl", "lady", "boy",
)  # fmt: skip
STATED_AGE: Final = Cued(
    r"\b(?P<age>\d{1,3})[- ]?(?:years?|yrs?)[- ]old\b|(?P<zh>\d{1,3})岁", "old"
)

IMAGE_WORDS: Final = re.compile(
    r"\b(?:this|the|these|above|shown|given|attached|following|each) (?:\w+ ){0,3}?"
    r"(?:images?|pictures?|scans?|films?|figures?|photographs?|radiographs?|x[- ]?rays?|slices?|slides?"
    r"|MRIs?|CTs?)\b|\b(?:in|on) (?:figure|fig\.?) \d|\bseen here\b|这张|图中|图像|图片",
    _I,
)
NUMBERED_IMAGE: Final = Cued(
    r"\b(?:image|picture|photo)s? (?:no\.? ?|number |#)?(?P<number>\d{1,2})\b(?!\s*(?:mm|cm|%|/|x|of))"
    r"|\b(?P<word>second|third|fourth) (?:image|picture|scan|radiograph)\b",
    "image", "picture", "photo", "second", "third", "fourth",
)  # fmt: skip
ORDINALS: Final[dict[str, int]] = {"second": 2, "third": 3, "fourth": 4}

HEDGES: Final = re.compile(
    r"\b(?:recommend\w*|follow[- ]?up|compar\w+|correlat\w+|confirm\w*|prior|previous\w*|suggest\w*"
    r"|further|versus|vs|subsequent\w*|underwent|later|unlike|rather than|instead|not|no|also|both"
    r"|fus(?:ed|ion)|guided|biopsy|could|would|should|may|might|or|alternative\w*)\b",
    _I,
)
"""Words near which a second modality is mentioned without being shown."""

FINDING_TERMS: Final = re.compile(
    r"\b(?:pleural effusions?|pericardial effusions?|effusions?|pneumothora(?:x|ces)|consolidations?"
    r"|atelectas[ie]s|cardiomegaly|pneumonia|fractures?|mass(?:es)?|nodules?|cysts?|tumou?rs?"
    r"|ha?emorrhages?|infarct(?:s|ion)?|subdural ha?ematomas?|ha?ematomas?|oedema|edema|hydronephrosis"
    r"|calcifications?|granulomas?|calcul(?:us|i)|metastas[ie]s|aneurysms?|microaneurysms?|exudates?"
    r"|cotton-wool spots?|free fluid|necrosis|ha?emangiomas?|lacunes?|mitotic figures?"
    r"|lymphadenopathy|stenosis|thromb(?:us|osis)|abscess(?:es)?|ascites|malignant glands?"
    r"|lymphocytic infiltrates?)\b",
    _I,
)

MEDICAL: Final = re.compile(
    r"\b(?:\w+(?:itis|oma|omas|osis|oses|ectomy|otomy|ostomy|opathy|graphy|graphic|scopy|emia|aemia"
    r"|megaly|plasia|algia|cardia|pnoea|pnea|trophy|trophic|plegia|sclerosis|cyte|cytes|cytic)"
    r"|patients?|clinical\w*|diagnos\w+|symptom\w*|disease\w*|disorder\w*|syndrome\w*|therap\w+|treat\w*"
    r"|lesions?|tumou?rs?|mass(?:es)?|nodules?|cysts?|cancers?|malignan\w+|benign|metasta\w+|infect\w+"
    r"|inflam\w+|effusions?|fractures?|ha?emorrhag\w+|bleed\w*|infarct\w*|ischa?emi\w+|o?edema\w*"
    r"|lungs?|pulmonary|pleura\w*|chest|thora\w+|heart|cardi\w+|aort\w+|vessels?|vascul\w+|arter\w+"
    r"|veins?|venous|liver|hepat\w+|kidneys?|renal|spleen|splenic|pancrea\w+|bowel|colon\w*|stomach"
    r"|gastr\w+|append\w+|abdom\w+|pelvi\w+|bladder|gallbladder|biliary|brain|cerebr\w+|cerebell\w+"
    r"|ventric\w+|cort(?:ex|ical|exes)|lobes?|skull|spin\w+|vertebra\w*|bones?|ribs?|joints?|muscles?"
    r"|skin|eyes?|retina\w*|macula\w*|optic|tissues?|cells?|nucle(?:us|i|ar)|glands?|blood|lymph\w*"
    r"|organs?|anatom\w+|CT|MRI|MRA|PET|FLAIR|DWI|T1|T2|x[- ]?rays?|radiogra\w+|radiolog\w+|ultraso\w+"
    r"|sonogra\w+|scans?|imaging|tomogra\w+|contrast|axial|sagittal|coronal|PA|AP|hyper\w+|hypo\w+"
    r"|opaci\w+|lucen\w+|densit\w+|attenuation|signal|echogenic\w*|stenosis|thromb\w+|embol\w+|abscess\w*"
    r"|air|fluid|mediastin\w+|diaphragm\w*|trachea\w*|bronch\w+|costophrenic|hila?r?|sulc\w+|gyr\w+"
    r"|drugs?|doses?|mg|surg\w+|biops\w+|histolog\w+|patholog\w+|pain|fever|cough|medic\w+|doctor|nurse"
    r"|hospital|health\w*|acute|chronic|congenital|abnormal\w*|normal|nerve\w*|neur\w+|matter|gastro\w+"
    r"|esophag\w+|oesophag\w+|subcostal|macula\w*|calc(?:ulus|uli|ified)|pregnan\w+|fetal|fetus"
    r"|midbrain|midline|brainstem|pons|atri(?:al|um|a)|valv\w+|mitral|tricuspid|coronary|cusps?|lumen"
    r"|stents?|catheters?"
    r"|endocardi\w+|herni\w+|gallstones?|bile|duct\w*|orbit\w*|styloid|perito\w+|oment\w+|airways?|alveol\w+"
    r"|consolidations?|humer\w+|femor\w+|tibia\w*|artifacts?|artefacts?|sections?|plane|MCA|CSF|fissure"
    r"|spots?|aneurysms?|microaneurysms?|lacunes?|cavoatrial|calcific\w+|viral|parasit\w+|bacteri\w+"
    r"|syring\w+|hemidiaphragm\w*|nipples?|MR|XR|US|DSA"
    r"|platelets?|(?:neutro|eosino|baso)phil\w*|ha?emoglobin\w*|smears?|cytoplasm\w*|mitotic|epitheli\w+"
    r"|(?:epi)?derm(?:is|al|at\w+)|na?ev(?:us|i)|melan\w+|rash(?:es)?|psoria\w+|eczema\w*|ulcer\w*|wounds?"
    r"|drusen|cornea\w*|polyp\w*|endoscop\w+|dent(?:al|ition)|tooth|teeth|caries|mandib\w+|gingiv\w+"
    r"|molars?|tonsil\w*|malaria\w*|plasmodium|fung(?:us|al|i)|hyphae|stain(?:s|ed|ing)?|specimens?|ECG"
    r"|infant|uter\w+|prostat\w+|breast\w*|thyroid\w*|tuberc\w+|pneumo\w+|diabet\w+|hypertens\w+)\b",
    _I,
)
"""Medical vocabulary by stem; its absence is only ever a note."""

MEDICAL_ZH: Final = re.compile(
    r"[癌瘤炎肺肝肾脑心胃肠脾胰骨血肿腹胸]|磁共振|病变|器官|疾病|症状|治疗"
)


EVERYDAY_ZH: Final = re.compile(
    r"披萨|葡萄酒|汽车|火车|房子|海滩|天气|晴朗|山丘|村庄|木棍|花园|桌子|椅子|足球|比赛|公司|股票|餐厅|手机|电脑|飞机|自行车|猫|狗|红色的车"
)
"""Everyday things in Chinese."""


def modality_family(value: object) -> str:
    """Family of a modality fact ("MR", "brain_mri", "chest radiograph"); '' when unknown."""
    return _modality_family(value) if isinstance(value, str) else ""


@functools.lru_cache(maxsize=1 << 12)
def _modality_family(value: str) -> str:
    words = re.split(r"[^a-z]+", value.casefold().replace("x-ray", "xray").replace("x ray", "xray"))
    found = {MODALITY_CODES[word] for word in words if word in MODALITY_CODES}
    return found.pop() if len(found) == 1 else ""


def region_family(value: object) -> str:
    """Body region of an anatomy fact ("HEAD", "chest"); '' when unknown."""
    return _region_family(value) if isinstance(value, str) else ""


@functools.lru_cache(maxsize=1 << 12)
def _region_family(value: str) -> str:
    found = {REGION_CODES[w] for w in re.split(r"[^a-z]+", value.casefold()) if w in REGION_CODES}
    return found.pop() if len(found) == 1 else ""


@remembered
def sides(text: str) -> str:
    """Which sides a text names: '', 'L', 'R' or 'LR' (both, bilateral)."""
    left, right = bool(LEFT.search(text)), bool(RIGHT.search(text))
    if BOTH_SIDES.search(text) or (left and right):
        return "LR"
    return "L" if left else "R" if right else ""


_LAST_YES_NO: Final = re.compile(
    r"\b(?:so|thus|therefore|hence),? (?P<said>yes|no)\s*\.?\s*$", re.IGNORECASE
)


def reply_polarity(text: str) -> str:
    """'yes' or 'no' of a reply that begins with it or concludes with it ("On the left, so yes.")."""
    last = _LAST_YES_NO.search(text)
    return polarity(text) or (last["said"].lower() if last else "")


def polarity(text: str) -> str:
    """'yes' or 'no' when the text begins with it, else ''."""
    if NO.match(text):
        return "no"
    return "yes" if YES.match(text) else ""


def sex_of(value: object) -> str:
    """'female', 'male' or '' from a fact or a word."""
    if not isinstance(value, str):
        return ""
    word = value.strip().casefold()
    if word in ("f", "female", "woman", "girl", "lady"):
        return "female"
    return "male" if word in ("m", "male", "man", "boy", "gentleman") else ""
