"""Urgent signs in a user's own words, English and Chinese, by rules that anyone can read.

No model decides here, so no model can overlook what is written below. A sign that is denied in its own clause ("no
chest pain", 没有胸痛) is none. In doubt a sign counts: a needless warning costs a minute. The rules know words
and not medicine: what they do not list is not thereby harmless, and the texts shown to users say so.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sign:
    """A sign and the words for it, as regular expressions over small letters.

    Attributes:
        name: as it is shown, in English and Chinese.
    """

    key: str
    name: dict[str, str]
    english: str
    chinese: str


@dataclass(frozen=True)
class Said:
    """A sign that a user named. said: the words."""

    sign: Sign
    said: str


_MY: Final = r"(?:my|the|his|her|their|your|our)"
_STRONG: Final = r"(?:severe|sudden|terrible|unbearable|excruciating|intense|extreme|worst)"
SIGNS: Final = (
    Sign(
        "chest_pain",
        {"en": "chest pain", "zh": "胸痛"},
        r"chest(?: \w+)? (?:pains?|pressure|tightness|discomfort)|(?:pain|pressure|tightness|squeezing|heaviness)"
        rf" (?:in|on|across) (?:{_MY} )?(?:left |right |whole )?chest|chest (?:is |feels |really )*"
        r"(?:hurts?|hurting|aches|tight|heavy|painful)|(?:having|had|has|have) a heart attack",
        r"胸[口部]?(?:中央|正中)?(?:很|非常|特别|突然|剧烈|压榨样|又)?(?:疼痛|痛|疼|闷)|心绞痛|心[口脏](?:绞)?[痛疼]|心肌梗[死塞]|心梗",
    ),
    Sign(
        "breathing",
        {"en": "trouble breathing", "zh": "呼吸困难"},
        r"(?:can ?not|can't|cant|unable to|barely|hardly|struggl\w+ to|hard to|difficult to) (?:breathe|catch (?:my|his|her|their) breath)"
        r"|short(?:ness)? of breath|(?:trouble|difficulty|problems?) (?:with )?breathing|gasping for (?:air|breath)"
        r"|lips (?:are |turned |turning |went )*blue|choking",
        r"呼吸(?:很|非常|特别|极其|有点|突然)?(?:困难|急促|不畅)|[喘透]不[过上]气|上不来气|无法呼吸|不能呼吸|气[短急]|憋气|嘴唇(?:发|变)[紫青]|窒息",
    ),
    Sign(
        "stroke",
        {"en": "signs of a stroke", "zh": "卒中征象"},
        r"(?:face|mouth|smile)(?: is| has|'s)?(?: \w+)? (?:droop\w*|crooked)|droop\w* (?:face|mouth)|slurr\w+ (?:\w+ )?(?:speech|words)|speech is slurred"
        r"|(?:suddenly )?(?:can ?not|can't|cant|unable to) (?:speak|talk|move (?:my|his|her|one|the) (?:left |right |whole )?(?:arm|leg|hand|side|face))"
        rf"|{_STRONG} (?:weakness|numbness|confusion)|(?:weak(?:ness)?|numb(?:ness)?|paraly\w+) (?:on|in|of|down) (?:one|(?:{_MY} )?(?:left|right|whole)) (?:\w+ )?side"
        r"|one side of (?:my|his|her|the) (?:body|face) (?:is |went |feels )*(?:weak|numb|paraly\w+|limp)|(?:having|had) a stroke",
        r"嘴[角巴]?(?:突然)?(?:歪|斜)|口角歪斜|面瘫|口齿不清|说话(?:突然)?(?:含糊|不清)|(?:突然)?说不出话|偏瘫|半身不遂"
        r"|(?:一侧|半边|左侧|右侧|左边|右边|半身|单侧)(?:的)?(?:身体|肢体|胳膊|手脚|脸)?(?:突然)?(?:发)?(?:无力|麻木|麻|瘫痪|不能动|动不了)|中风|脑卒中|脑梗",
    ),
    Sign(
        "bleeding",
        {"en": "heavy or internal bleeding", "zh": "大出血或内出血"},
        r"(?:will not|won't|wont|can't|cannot|does not|doesn't|can not) stop (?:the )?bleeding|bleeding (?:will not|won't|wont|does not|doesn't|isn't) stop\w*"
        r"|bleeding (?:very |really |so )?(?:heavily|badly|profusely|a lot)|(?:heavy|severe|massive|uncontrolled|profuse) bleeding"
        r"|(?:cough\w*|spit\w*|throw\w*|threw|vomit\w*|bring\w*) (?:up )?(?:\w+ )?blood|blood in (?:my |the |his |her )?vomit|(?:black|tarry|bloody)(?: \w+)? stools?",
        r"大(?:量)?出血|血流不止|出血不止|止不住血|血止不住|[咳咯吐呕]血|便血|黑便|血便",
    ),
    Sign(
        "consciousness",
        {"en": "loss of consciousness or a seizure", "zh": "意识丧失或抽搐"},
        r"pass(?:ed|ing) out|faint(?:ed|ing)|unconscious|(?:lost|losing|loss of) consciousness|collaps(?:ed|ing)|black(?:ed|ing) out"
        r"|seizures?|convuls\w+|unresponsive|(?:won't|will not|can't|cannot) wake (?:up|him|her|them)|not waking up",
        r"昏迷|昏倒|晕倒|晕厥|昏厥|不省人事|失去(?:了)?意识|意识(?:丧失|不清|模糊)|没有反应|叫不醒|抽搐|惊厥|癫痫发作",
    ),
    Sign(
        "headache",
        {"en": "sudden or worst headache, stiff neck", "zh": "突发剧烈头痛或颈强直"},
        rf"worst headache|thunderclap headache|{_STRONG}(?: and \w+)? headache|headache (?:of|in) my life|headache came (?:on )?suddenly"
        r"|stiff neck|neck (?:is |feels )*(?:\w+ )?stiff",
        r"(?:剧烈|突发|突然|爆炸样|雷击样|最严重的?)(?:的)?头[痛疼]|头[痛疼](?:得)?(?:欲裂|剧烈|炸开|像要炸)|(?:脖子|颈部|颈项)(?:僵硬|强直|发硬)",
    ),
    Sign(
        "allergy",
        {"en": "swelling of face, tongue or throat", "zh": "面、舌或喉部肿胀"},
        r"(?:throat|tongue|lips?|face)(?: is| are| has| feels| feel|'s)?(?: \w+)? (?:closing|swell\w*|swollen|tight(?:ening)?)|swollen (?:throat|tongue|lips?|face)"
        r"|swelling of (?:my |the |his |her )?(?:throat|tongue|lips?|face)|anaphyla\w+",
        r"(?:喉咙|咽喉|喉头|舌头|嘴唇|面部|脸)(?:部)?(?:突然|都|很|开始)?(?:肿|水肿|发紧)|过敏性休克|严重过敏",
    ),
    Sign(
        "self_harm",
        {"en": "thoughts of self-harm", "zh": "自伤或轻生念头"},
        r"kill(?:ing)? (?:myself|himself|herself|themselves)|suicid\w+|end(?:ing)? (?:my|his|her|their) (?:own )?life|(?:want|wanted|wants|wish) to die"
        r"|(?:hurt|harm|cut)(?:ing|ting)? (?:myself|himself|herself)|self[- ]harm\w*|better off dead|take my (?:own )?life",
        r"自杀|不想活|想(?:去)?死|轻生|自残|自伤|割腕|结束(?:自己的?)?生命|活不下去",
    ),
    Sign(
        "poisoning",
        {"en": "poisoning or an overdose", "zh": "中毒或用药过量"},
        r"overdos\w+|(?:took|swallowed|taken|ate|drank) (?:too many|a lot of|a whole|all (?:of )?(?:my|his|her|the)|poison|bleach|antifreeze|pesticide|detergent|a battery|\w+ batter\w+)"
        r"|(?:\w+ )?poison(?:ed|ing)",
        r"服毒|(?:一氧化碳|煤气|食物|农药|药物|酒精)?中毒|(?:吃|服|吞)(?:了|下)?(?:太多|过多|过量|一整瓶|整瓶|很多)(?:的)?(?:药|安眠药)|药物过量|过量服药|误[服食吞]|喝(?:了)?(?:农药|漂白|消毒)",
    ),
    Sign(
        "vision",
        {"en": "sudden loss of vision", "zh": "突然视力丧失"},
        r"sudden(?:ly)?(?: \w+)? (?:loss of (?:vision|sight)|vision loss|blind\w*|(?:lost|losing) (?:my |his |her )?(?:vision|sight)|can ?not see|can't see)"
        r"|(?:lost|losing) (?:my |his |her |all |the )?(?:vision|sight)|(?:went|gone) (?:suddenly )?blind|(?:curtain|shadow) (?:over|across|coming down over) (?:my |one |the )?(?:\w+ )?(?:eye|vision)",
        r"突然(?:一只眼|左眼|右眼|眼睛|双眼)?(?:看不见|看不到|失明|看不清)|(?:眼睛|左眼|右眼|双眼|一只眼)突然(?:看不见|看不到|失明|看不清)|视力(?:突然|骤然|急剧)(?:下降|丧失)",
    ),
    Sign(
        "abdomen",
        {"en": "severe abdominal pain", "zh": "剧烈腹痛"},
        rf"{_STRONG}(?: \w+)? (?:abdominal|stomach|belly|tummy|testic\w+|pelvic) pain|(?:abdomen|stomach|belly) (?:is |feels )*(?:rigid|hard as|board)",
        r"(?:剧烈|突发|突然|难以忍受的?)(?:的)?(?:腹|肚子|下腹|上腹|睾丸)(?:部)?[痛疼]|(?:肚子|腹部)[痛疼]得(?:受不了|厉害|打滚|直不起腰)|板状腹",
    ),
    Sign(
        "pregnancy",
        {"en": "bleeding or alarm signs in pregnancy", "zh": "孕期出血或警示征象"},
        r"pregnan\w+[^.;!?]{0,60}\b(?:bleed\w*|waters? broke|(?:no longer|stopped) (?:feel\w* )?(?:the baby )?mov\w*)|bleed\w*[^.;!?]{0,30}\bpregnan\w+",
        r"(?:孕|怀孕)[^。；！？]{0,20}(?:出血|流血|见红|破水|胎动(?:消失|减少))|(?:出血|流血)[^。；！？]{0,10}(?:怀孕|孕)",
    ),
    Sign(
        "cord",
        {"en": "loss of bladder or bowel control, numbness of the groin", "zh": "大小便失禁或会阴麻木"},
        r"(?:lost|losing|loss of|can't|cannot|can not|no) (?:control (?:of|over) )?(?:my |his |her |the )?(?:bladder|bowels?)(?: control| or bowel control)?"
        r"|numb\w* (?:in|around|of) (?:my |the |his |her )?(?:groin|saddle|genitals|buttocks)|saddle (?:anesthesia|anaesthesia|numbness)",
        r"大小便失禁|[大小]便失禁|(?:会阴|鞍区|裆部)(?:部)?(?:麻木|没有?感觉)",
    ),
    Sign(
        "infant_fever",
        {"en": "fever in a baby under three months", "zh": "三个月以下婴儿发热"},
        r"(?:newborn|(?:\d|one|two|three|four|five|six|seven|eight|ten|twelve)[- ]?(?:weeks?|days?)[- ]?old|(?:1|2|one|two)[- ]?months?[- ]?old)[^.;!?]{0,60}\b(?:fever\w*|temperature)",
        r"(?:新生儿|出生[^。；！？]{0,4}[天周]|刚满月|满月)[^。；！？]{0,20}(?:发烧|发热|高烧)",
    ),
    Sign(
        "injury",
        {"en": "serious injury", "zh": "严重外伤"},
        r"(?:hit|struck|run over) by a (?:car|truck|bus|train|motorbike)|car (?:accident|crash)|(?:serious|severe|bad) (?:head )?(?:injury|trauma|burns?)|(?:stabbed|shot|electrocuted|drown\w+)"
        r"|bone (?:is )?(?:sticking|coming) out",
        r"车祸|被车撞|高处坠落|从(?:高处|楼上)(?:摔|坠)|(?:严重|重度)(?:头部)?(?:外伤|烧伤|烫伤)|刀伤|枪伤|触电|溺水|骨头(?:露|戳)出",
    ),
)  # fmt: skip

EMERGENCY: Final = {
    "en": "What you describe ({signs}) can be an emergency. Call the emergency number now (112 in Europe, 911 in the "
    "USA, 120 in China) or go to the nearest emergency department; do not drive yourself. Do not wait for an "
    "answer here.",
    "zh": "您描述的情况（{signs}）可能是急症。请立即拨打急救电话（中国120，欧洲112，美国911）或前往最近的急诊，"
    "不要自己开车。请不要等待这里的回答。",
}
NOT_ALONE: Final = {
    "en": "If you think of hurting yourself, you are not alone: call the emergency number or a crisis line now (988 in "
    "the USA, 12356 in China), or go to someone you trust, and stay with them.",
    "zh": "如果您有伤害自己的想法，您并不孤单：请立即拨打急救电话或心理援助热线（中国12356，美国988），或去找您信任的人，不要独处。",
}

_SIMPLE: Final = str.maketrans("難過氣殺暈無沒頭劇癱腦癲癇驚嘔過嚴視內傷輕兒發燒熱腫痺們", "难过气杀晕无没头剧瘫脑癫痫惊呕过严视内伤轻儿发烧热肿痹们")  # fmt: skip
_HARD: Final = re.compile(
    r"[.:;!?\n]|\b(?:but|however|although|though|except|yet|because|due to|since|when|until|unless|instead|then|and (?:i|my|now|then|he|she|his|her))\b"
)
_NOT: Final = re.compile(
    r"\b(?:no|not|never|without|den(?:y|ies|ied)|denying|neither|nor|free of|negative for|absence of"
    r"|(?:do|does|did|have|has|had|is|are|was|were|ai)n'?t)\b"
)
_NOT_DENIED: Final = re.compile(r"^\s*(?:only|just|sure|certain|know|knowing|understand|sleep\w*|able|really sure|doubt|yet sure|stop\w*|matter)\b")  # fmt: skip
_OR: Final = re.compile(r"\b(?:or|nor)\b")
_MOST_WORDS: Final = 8
_REACH: Final = 200
"""Characters that are looked at on either side of a sign."""
_AFTER: Final = re.compile(
    r"^\s*(?:(?:[:=-]|is|was|are)\s*(?:no\b|none|absent|negative|denied|not present|nil)"
    r"|(?:,?\s*(?:which|that))?\s*(?:is|has|have|had|was|are|'s)?\s*(?:now |completely |already |all |since )*"
    r"(?:gone|resolved|disappeared|went away|gone away|stopped)\b)"
)
_BACK: Final = re.compile(r"\b(?:came back|come back|back again|returned|again|but)\b")

_STOP_ZH: Final = re.compile(
    r"[，。；！？,.;!?\n]|但是|但|不过|然而|可是|只是|而是|却|就是|因为|由于"
)
_FILLER: Final = (
    r"(?:有|过|出现|感到|觉得|感觉|发生|任何|什么|明显|伴有|伴随|伴|再|的|严重|剧烈|发|诉|见)*"
)
_NOT_ZH: Final = re.compile(
    rf"(?:没有|没|并无|无|未|否认|从不|从未|不|不再|不伴)(?!明原因|明显诱因|缘无故|故|停|断|止|住|但|仅|光|只|知|清楚|确定|舒服|法|能|了|到|好|得不|管|是不)"
    rf"{_FILLER}(?:[^，。；,;.!?、或和及与]{{1,8}}(?:、|或者|或|和|以及|及|与){_FILLER})*$"
)
_AFTER_ZH: Final = re.compile(
    r"^(?:感|症状)?(?:[:：是]?\s*(?:无|没有|否认|阴性)(?!好|缓|减|停|消|改|办|力)|(?:现在|已经|已)*(?:消失|缓解|好了|没了|好转|不[痛疼]了|停了))"
)


def plain(text: str) -> str:
    """The text as the rules read it: compatibility forms folded, small letters, straight apostrophes, one
    space between words, simplified characters."""
    folded = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'").replace("`", "'")
    return re.sub(r"[^\S\n]+", " ", folded.translate(_SIMPLE))


def _bounded(pattern: str) -> str:
    """Words of at most 20 letters, so that no text without spaces is read in time that grows with its square."""
    return pattern.replace(r"\w+", "[a-z]{1,20}").replace(r"\w*", "[a-z]{0,20}")


_COMPILED: Final = tuple(
    (
        sign,
        re.compile(rf"(?<![a-z])(?:{_bounded(sign.english)})(?![a-z])"),
        re.compile(sign.chinese),
    )
    for sign in SIGNS
)


def urgent_signs(text: str) -> list[Said]:
    """Signs that a text names and does not deny, each once, in the order of `SIGNS`."""
    read = plain(text)
    found = []
    for sign, english, chinese in _COMPILED:
        said = next((hit for hit in english.finditer(read) if not _denied(read, hit)), None)
        said = said or next(
            (hit for hit in chinese.finditer(read) if not _denied_zh(read, hit)), None
        )
        if said is not None:
            found.append(Said(sign, said[0].strip()))
    return found


def _denied(read: str, hit: re.Match[str]) -> bool:
    """Whether a negation before the sign reaches it, or what follows takes it back."""
    before, after = _around(read, hit, _HARD)
    if _AFTER.match(after) and not _BACK.search(after[:60]):
        return True
    for cue in reversed(list(_NOT.finditer(before))):
        between = before[cue.end() :]
        if _NOT_DENIED.match(between) or len(between.split()) > _MOST_WORDS:
            continue
        if "," not in between:
            return True
        return _listed(between, after)
    return False


def _listed(between: str, after: str) -> bool:
    """Whether a comma between a negation and a sign is that of a list: "no fever, chest pain or cough".

    "No fever, chest pain since yesterday" is none, and neither is "no fever or cough, chest pain".
    """
    *items, last = between.split(",")
    if any(_OR.search(item) for item in items):
        return False
    end = _HARD.search(after)
    rest = after[: end.start()] if end else after
    return bool(_OR.search(last)) or bool(
        re.match(r"\s*,?(?:[^,]*,){0,6}[^,]*\b(?:or|nor)\b", rest)
    )


def _denied_zh(read: str, hit: re.Match[str]) -> bool:
    before, after = _around(read, hit, _STOP_ZH)
    return bool(_AFTER_ZH.match(after) or _NOT_ZH.search(before))


def _around(read: str, hit: re.Match[str], stop: re.Pattern[str]) -> tuple[str, str]:
    """What stands before a sign in its clause, and what follows it."""
    before = read[max(0, hit.start() - _REACH) : hit.start()]
    breaks = [one.end() for one in stop.finditer(before)]
    return before[breaks[-1] if breaks else 0 :], read[hit.end() : hit.end() + _REACH]


def escalation(found: list[Said], language: str) -> str | None:
    """What a user is told before anything else; None without signs."""
    if not found:
        return None
    names = ("、" if language == "zh" else ", ").join(said.sign.name[language] for said in found)
    text = EMERGENCY[language].format(signs=names)
    alone = any(said.sign.key == "self_harm" for said in found)
    return f"{text}\n\n{NOT_ALONE[language]}" if alone else text
