"""What a question to *consult* lacks, by rules, and how it is asked back: image, place, side, duration.

Each is asked once in a conversation; whoever does not answer gets an answer all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from infimed.serving.applications.urgent import plain


@dataclass(frozen=True)
class Want:
    """Something that a question needs. asks: the question back, in English and Chinese."""

    key: str
    asks: dict[str, str]


IMAGE: Final = Want("image", {"en": "Please attach the image that you mean.", "zh": "请上传您所说的图像。"})  # fmt: skip
PLACE: Final = Want("place", {"en": "Where in the body is it?", "zh": "具体在身体的哪个部位？"})
SIDE: Final = Want("side", {"en": "Which side is it: left, right or both?", "zh": "是左侧、右侧还是双侧？"})  # fmt: skip
DURATION: Final = Want("duration", {"en": "How long have you had it?", "zh": "持续多久了？"})
WANTS: Final = (IMAGE, PLACE, SIDE, DURATION)
LEAD: Final = {
    "en": "Before I can say more, please tell me:",
    "zh": "在回答之前，请告诉我：",
}

_KINDS: Final = (
    r"(?:x-?rays?|scans?|ct|mri|images?|pictures?|photos?|films?|radiographs?|ultrasounds?|slides?)"
)
_SHOWN: Final = re.compile(
    rf"\b(?:this|these|attached|the attached|my|here is (?:a|an|the|my)) (?:\w+ ){{0,2}}{_KINDS}\b"
    r"|(?:这张|这个|这份|我的|附上的?|附件)(?:[^，。？！]{0,4})(?:片子|图像|图片|图|照片|影像|ct|x光|核磁|b超)"
)
_SYMPTOM: Final = re.compile(
    r"\b(?:pains?|painful|aches?|aching|hurts?|hurting|sore|cough\w*|fever\w*|swelling|swollen|rash\w*|itch\w*|numb\w*|dizz\w*"
    r"|headaches?|vomit\w*|nause\w*|diarrh\w*|lumps?|stiff\w*|tired|fatigue\w*|burning|tingling)\b"
    r"|[痛疼痒肿]|咳嗽|发烧|发热|皮疹|发麻|麻木|头晕|恶心|呕吐|腹泻|拉肚子|肿块|乏力"
)
_PAIN: Final = re.compile(r"\b(?:pains?|painful|aches?|aching|hurts?|hurting|sore|swelling|swollen|rash\w*|itch\w*|numb\w*|lumps?|stiff\w*|burning|tingling)\b|[痛疼痒肿]|皮疹|发麻|麻木|肿块")  # fmt: skip
_BODY: Final = re.compile(
    r"\b(?:head\w*|face|eyes?|ears?|nose|mouth|teeth|tooth\w*|jaw|throat|neck|shoulders?|arms?|elbows?|wrists?|hands?|fingers?|thumbs?|chest"
    r"|breasts?|ribs?|back\w*|spine|abdom\w*|stomach|belly|flanks?|kidneys?|pelvi\w*|groin|hips?|buttocks?|legs?|thighs?|knees?|calf|calves|shins?"
    r"|ankles?|feet|foot|heels?|toes?|skin|scalp|joints?|muscles?|lungs?|heart)\b"
    r"|手(?!术|机|册|段|续)|(?<!伤)口|[头脸面眼耳鼻嘴牙喉颈脖肩臂肘腕指胸乳肋背腰腹肚胃肾髋臀腿膝踝脚足趾皮肤骨肺心]|关节|肌肉|全身|身上"
)
_PAIRED: Final = re.compile(
    r"\b(?:eyes?|ears?|shoulders?|arms?|elbows?|wrists?|hands?|breasts?|flanks?|kidneys?|hips?|legs?|thighs?|knees?|calf|calves|shins?|ankles?|foot|feet|heels?)\b"
    r"|眼(?!镜|下|看|前)|耳|肩|胳膊|手臂|肘|腕|手(?!术|机|册|段|续)|乳(?!液|糖|制)|肾|髋|腿|膝|踝|脚(?!本)"
)
_SIDED: Final = re.compile(r"\b(?:left|right|both|bilateral\w*|either|each side|one side|two)\b|[左右]|两侧|双|两边|两[只条个]|一侧")  # fmt: skip
_NUMBER: Final = r"(?:\d+|a|an|one|two|three|four|five|six|seven|eight|nine|ten|twelve|few|several|some|many|couple(?: of)?|half an?)"
_LASTING: Final = re.compile(
    rf"\b{_NUMBER}[ -]?(?:seconds?|minutes?|hours?|days?|nights?|weeks?|months?|years?)\b|\bsince\b|\byesterday\b|\btoday\b|\bthis (?:morning|afternoon|evening|week|month)\b"
    r"|\btonight\b|\blast (?:night|week|month|year|\w+day)\b|\bfor (?:days|weeks|months|years|a while|ages|long)\b|\bago\b|\bjust now\b|\bsudden\w*\b|\bchronic\w*\b|\brecently\b|\balways\b"
    r"|[0-9一二两三四五六七八九十几半数多]+\s*个?(?:多)?(?:秒|分钟|小时|天|日|周|星期|礼拜|月|年)|昨[天晚日]|今[天早晚日]|前天|上[个]?[周月]|去年|最近|近来|刚才|刚刚|突然|以来|一直|从小|好久|很久"
)


def wanting(said: Sequence[str], answers: Sequence[str], images: int) -> list[Want]:
    """What the newest message of the user lacks.

    Args:
        said: the user's messages, in order. answers: what was answered; nothing is asked twice.
        images: how many are attached.
    """
    newest, all_said = plain(said[-1]), plain("\n".join(said))
    lacking = []
    if not images and _SHOWN.search(newest):
        lacking.append(IMAGE)
    if _SYMPTOM.search(newest):
        if _PAIN.search(newest) and not _BODY.search(all_said):
            lacking.append(PLACE)
        if _PAIRED.search(newest) and not _SIDED.search(all_said):
            lacking.append(SIDE)
        if not _LASTING.search(all_said):
            lacking.append(DURATION)
    asked = "\n".join(answers)
    return [want for want in lacking if not any(text in asked for text in want.asks.values())]


def ask_back(lacking: Sequence[Want], language: str) -> str:
    """The message that asks for it."""
    return "\n".join([LEAD[language], *(f"- {want.asks[language]}" for want in lacking)])
