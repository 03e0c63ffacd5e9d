"""Known words, everyday words and function words of other languages; and which words are misspelt.

A word is called misspelt only when it is unknown *and* one small error away from a common word: the
error of a scanner (rn for m, 1 for l, c for e) or one letter missing, doubled or exchanged. A rare
word that resembles no common one is left alone: medical language is full of them.

The word list is in the package (`words.txt.gz`, made by `scripts/make_vocabulary.py`). Cost: about
20 microseconds for a word not seen before, nothing for a repeated one.
"""

from __future__ import annotations

import bisect
import functools
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_FILE: Final = Path(__file__).parent / "words.txt.gz"


def _words(text: str) -> list[str]:
    """The words of a block of text."""
    return text.split()


RADIOLOGY: Final = frozenset(
    _words("""
    costophrenic hemidiaphragm hemidiaphragms haemangioma haemangiomas oedema paracolic
    lacune lacunes lacunar microaneurysm microaneurysms cardiomegaly sulci sulcus gyri
    gyrus hyperintense hypointense hyperdense hypodense isodense hyperechoic hypoechoic
    anechoic isoechoic haematoma subdural epidural granuloma calculus exudate exudates
    flair attenuation hypoattenuating hyperattenuating deviated mediastinum mediastinal
    hilum hila hilar opacity opacities opacification lucency lucencies radiolucent
    radiopaque pneumothorax pneumothoraces hydropneumothorax pneumoperitoneum
    pneumomediastinum atelectasis atelectatic bronchogram bronchograms cavitary cavitation
    reticular reticulonodular interlobular septal fissure tracheal carina sternotomy
    clavicle clavicles scapula humerus femur tibia fibula radius ulna vertebral vertebra
    spinous pedicle pedicles foramen foramina basal ganglia thalamus thalamic caudate
    putamen pons pontine cerebellum cerebellar vermis ventricles falx tentorium sella
    suprasellar parietal occipital frontal temporal gyral leptomeningeal periventricular
    subcortical subarachnoid intraventricular intraparenchymal extraaxial intraaxial
    duodenum jejunum ileum cecum caecum appendix appendiceal sigmoid rectum haustra
    mesentery mesenteric omentum omental retroperitoneal perinephric pararenal splenic
    hepatic portal gastrohepatic pancreatic biliary gallbladder cholelithiasis
    cholecystitis nephrolithiasis hydronephrosis hydroureter calyces calyx ureter ureters
    adnexal endometrial myometrial parenchyma parenchymal echotexture echogenic
    echogenicity doppler sagittal coronal axial weighted gadolinium diffusion angiogram
    angiography venography tomography radiograph radiographs sonogram subcostal
    intercostal eosinophilic hyperchromatic anucleate pleomorphic mitotic mitoses stroma
    stromal glandular adenocarcinoma lymphocytic infiltrate infiltrates histology
    histological macula macular fovea foveal papilla drusen cotton wool blot arteriole
    venule exophytic homogeneous heterogeneous crescentic ill defined well circumscribed
    lobulated spiculated serpiginous nodular haemorrhage haemorrhages tumour tumours
    colour greyish centre metre anaemia ischaemia ischaemic oesophagus oesophageal
    paediatric gynaecological orthopaedic leukaemia diarrhoea foetal visualise visualised
    localise localised characterise characterised enlarged unremarkable
    """)
)
"""Words of imaging reports that general medical text rarely has."""

EVERYDAY: Final = frozenset(
    _words("""
    dog dogs cat cats horse bird car cars truck bus train trains boat bicycle street road
    roads house houses beach lake river mountain mountains hill hills snow snowy forest
    tree trees grass garden park flower flowers sky cloud clouds cloudy sunny sunset
    weather pizza wine beer cake bread cheese table chair chairs sofa window windows
    curtains kitchen restaurant shop shops station platform sign guitar piano music
    football soccer tennis team match player players ball game goal scored revenue market
    markets company companies profit sales quarterly stock price prices customer customers
    phone laptop computer movie film star village city town building buildings bridge
    airport airplane plane hat shirt shoes dress umbrella boy girl children friends people
    man woman stick mouth parked plays wooden red blue yellow green brown white stands
    sits runs sleeps walk walks animal animals colour color
    """)
)
"""Words of everyday pictures; some occur in clinical text too, so one alone means nothing."""

_STRONG_EVERYDAY: Final = EVERYDAY - frozenset(
    _words("""
    film star man woman boy girl people children mouth table window windows match red blue
    yellow green brown white plane sign market tree trees stick building walk walks runs
    colour color station snow bird cat beer wine dog dogs bread cheese shoes platform hat
    price prices phone friends stands house
    """)
)

FOREIGN: Final[dict[str, frozenset[str]]] = {
    "fr": frozenset(
        _words("""
    les des une est dans pour qui sur avec pas sont aux cette sans du et le la ou visible
    """)
    ),
    "de": frozenset(
        _words("""
    der die das ist und nicht ein eine im auf mit zu den von dem beidseits sind bei wird
    """)
    ),
    "es": frozenset(
        _words("""
    el los las una es en del con por para se que no esta al un y de la observa
    """)
    ),
    "it": frozenset(
        _words("""
    il lo gli una che non per con della nel nella si vede questa sono di alla del
    """)
    ),
    "pt": frozenset(
        _words("""
    uma não os as com do da no na que foi mostra em um para são ao pela
    """)
    ),
}
"""Commonest function words; a text that is rich in those of one language and poor in English ones is foreign."""
ENGLISH: Final = frozenset(
    _words("""
    the of and in is a to with there are no on this was for by an at from as it or what
    which be has not that how where
    """)
)
_AMBIGUOUS: Final = frozenset(
    _words("""
    no a in on as is do me an am so die de
    """)
)
"""Function words of two languages, English being one."""

_LOOKS_LIKE: Final = {
    "1": "li", "0": "o", "5": "s", "8": "b", "6": "b", "9": "g", "7": "t", "2": "z", "|": "l", "@": "a", "!": "i",
    "$": "s", "3": "e", "4": "a",
}  # fmt: skip
_PAIRS: Final = (
    ("rn", "m"), ("m", "rn"), ("cl", "d"), ("d", "cl"), ("vv", "w"), ("w", "vv"), ("ii", "n"), ("li", "h"),
    ("lc", "k"), ("nn", "m"), ("ri", "n"),
)  # fmt: skip
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_ALPHA = re.compile(r"[a-z]+")
_FUNCTION_WORDS: Final = (
    "the",
    "and",
    "for",
    "are",
    "was",
    "not",
    "any",
    "with",
    "this",
    "that",
    "is",
    "in",
    "of",
    "on",
    "to",
    "at",
    "it",
    "no",
    "yes",
)
_CONFUSED: Final = {
    "l": "i", "i": "lt", "o": "cea", "e": "co", "c": "eo", "n": "rhu", "r": "n", "u": "vn", "v": "uy", "h": "bn", "b": "h",
    "t": "fil", "f": "t", "a": "oe", "y": "v", "g": "q", "q": "g", "s": "e",
}  # fmt: skip
_SUFFIXES: Final = ("s", "es", "ed", "d", "ing", "ly", "al", "ic", "ally", "er", "ness")


@functools.lru_cache(maxsize=1)
def word_lists() -> tuple[frozenset[str], frozenset[str]]:
    """(common words, all known words)."""
    text = gzip.decompress(_FILE.read_bytes()).decode("ascii")
    common, _, known = text.partition("\n\n")
    often = frozenset(common.split()) | RADIOLOGY
    return often, often | frozenset(known.split()) | EVERYDAY | ENGLISH


def known_word(word: str) -> bool:
    """Whether a lower-case word is known, in any common inflection or in British spelling."""
    _, known = word_lists()
    if word in known:
        return True
    for suffix in _SUFFIXES:
        stem = word.removesuffix(suffix)
        if (
            stem != word
            and len(stem) > 3
            and (stem in known or stem + "e" in known or stem + "y" in known)
        ):
            return True
    if word.endswith("ies") and word[:-3] + "y" in known:
        return True
    if word.endswith(("re", "res")) and word.replace("re", "er") in known:
        return True
    if word.endswith("ae") and word[:-1] in known:
        return True
    plain = word.replace("ae", "e").replace("oe", "e").replace("our", "or").replace("is", "iz")
    return plain != word and plain in known


@functools.lru_cache(maxsize=1 << 16)
def misspelt(token: str) -> bool:
    """Whether a token is unknown and one small error away from a common word."""
    bare = token.strip(".,;:?()[]\"'“”‘’").removesuffix("'s").removesuffix("’s")
    if len(bare) < 2 or len(bare) > 24 or not bare.isascii():
        return False
    word = bare.lower()
    if _ALPHA.fullmatch(word):
        if bare.isupper() or known_word(word):
            return False
        return _near_common(word, name=bare[0].isupper() and bare[1:].islower())
    if (bare.isupper() and len(bare) < 4) or not any(c in _LOOKS_LIKE for c in word):
        return False
    if sum(c.isalpha() for c in word) * 2 < len(word) or not all(
        c.isalpha() or c in _LOOKS_LIKE for c in word
    ):
        return False
    return any(_readable(candidate) for candidate in _as_letters(word))


def _readable(word: str) -> bool:
    common, _ = word_lists()
    return word in _FUNCTION_WORDS if len(word) < 4 else word in common


def _as_letters(word: str) -> list[str]:
    """The word with every digit or sign read as a letter that looks like it."""
    made = [""]
    for c in word:
        made = [start + letter for start in made[:8] for letter in _LOOKS_LIKE.get(c, c)]
    return made


def _near_common(word: str, name: bool) -> bool:
    """Whether one error leads to a common word; of what may be a `name`, only look-alike letters."""
    common, _ = word_lists()
    if len(word) < 4:
        return any(
            word[:i] + other + word[i + 1 :] in _FUNCTION_WORDS[:9]
            for i, c in enumerate(word)
            for other in _CONFUSED.get(c, "")
            if len(word) == 3
        )
    for old, new in _PAIRS:
        if old in word:
            at = word.find(old)
            while at >= 0:
                if _known_target(word[:at] + new + word[at + len(old) :]):
                    return True
                at = word.find(old, at + 1)
    for i, c in enumerate(word):
        for other in _CONFUSED.get(c, ""):
            if _known_target(word[:i] + other + word[i + 1 :]):
                return True
    if name:
        return False
    if len(word) < 6:
        # A letter is missing: only from a word that is not itself an abbreviation.
        return any(
            word[:i] + letter + word[i:] in common
            for i in range(1, len(word))
            for letter in _LETTERS
            if len(word) == 5 or any(c in "aeiou" for c in word)
        )
    for i in range(len(word)):
        if word[:i] + word[i + 1 :] in common:
            return True
        if i and word[: i - 1] + word[i] + word[i - 1] + word[i + 1 :] in common:
            return True
        head, tail = word[:i], word[i:]
        if any(head + letter + tail in common for letter in _LETTERS):
            return True
    return False


def _known_target(word: str) -> bool:
    common, _ = word_lists()
    return word in common or (len(word) > 4 and word.removesuffix("s") in common)


def foreign_language(words: Sequence[str]) -> str:
    """'fr', 'de', 'es', 'it' or 'pt' where a text's function words are of that language, else ''."""
    if len(words) < 6:
        return ""
    english = sum(word in ENGLISH for word in words)
    best, share = "", 0
    for name, own in FOREIGN.items():
        found = [word for word in words if word in own and word not in _AMBIGUOUS]
        if len(set(found)) >= 3 and len(found) > share:
            best, share = name, len(found)
    return best if share >= 0.15 * len(words) and share > 2 * english else ""


def everyday_words(words: Sequence[str]) -> int:
    """How many words belong to everyday pictures; 0 unless one of them has no clinical use."""
    found = [word for word in words if word in EVERYDAY]
    return (
        len(found) if any(word in _STRONG_EVERYDAY for word in found) or len(set(found)) >= 3 else 0
    )


@functools.lru_cache(maxsize=1)
def _sorted_common() -> list[str]:
    return sorted(word_lists()[0])


@functools.lru_cache(maxsize=1 << 12)
def begins_common_word(word: str) -> bool:
    """Whether a longer common word begins with `word`."""
    words = _sorted_common()
    at = bisect.bisect_right(words, word)
    return at < len(words) and words[at].startswith(word)
