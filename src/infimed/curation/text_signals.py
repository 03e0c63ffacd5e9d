"""Text measurements. Pure; about 0.1 ms for a question and its answer.

One tokenisation serves all of them, and what was read in a short text is kept (`shortcuts`). Every pattern here is linear in the text: no nested repetition, so hostile text cannot stall it.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

from infimed.curation import lexicon, vocabulary
from infimed.curation.shortcuts import Cued, remembered
from infimed.curation.signals import TextSignals
from infimed.curation.statements import statements
from infimed.data.record import Record
from infimed.matching.text import normalise, normalise_answer

PLACEHOLDER: Final = Cued(
    r"<(?:image|img|video|audio|xref|fig|figure|ref|unk|pad|mask)(?:[_-]?\d+)?\s*/?>|\[(?:image|img|figure|insert [^\]\n]{1,40}"
    r"|todo|citation needed|ref)\]|<\|[a-z_]{2,30}\|>|\\(?:ref|cite|label)\{|\b(?:fig(?:ure)?|table|ref)\.? ?\?\?"
    r"|\{\{[^}\n]{0,60}\}\}|\{(?:image|answer|question|caption|text|name)\}|\bTODO\b|\bTBD\b|\blorem ipsum\b"
    r"|__(?:dj__|IMAGE|MASK)\w*|XX[A-Z]{3,}XX|<__\w+>",
    "<", "[", "\\", "??", "{", "todo", "tbd", "lorem", "__", "xx",
)  # fmt: skip
MARKUP: Final = re.compile(
    r"</?(?:p|br|div|span|b|i|u|em|strong|sup|sub|a|td|tr|th|table|ul|ol|li|h[1-6]|font|html|body|script|style|italic|bold)"
    r"(?:\s[^<>]{0,200})?\s*/?>|&(?:nbsp|amp|lt|gt|quot|apos|#\d{1,5}|#x[0-9a-f]{1,4}|micro|deg|plusmn|times);"
    r"|\\(?:textbf|textit|emph|begin|end|frac|mathrm)\{",
    re.IGNORECASE,
)
CONNECTIVES: Final = frozenset(
    [
        "of",
        "the",
        "a",
        "an",
        "and",
        "or",
        "with",
        "in",
        "on",
        "at",
        "to",
        "from",
        "by",
        "for",
        "is",
        "are",
        "was",
        "were",
        "be",
        "which",
        "that",
        "showing",
        "shows",
        "show",
        "demonstrating",
        "demonstrates",
        "revealing",
        "reveals",
        "into",
        "between",
        "than",
        "as",
        "through",
        "within",
        "without",
        "near",
        "involving",
        "measuring",
        "approximately",
        "about",
        "per",
        "their",
        "its",
        "this",
        "these",
    ]
)
_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+(?:['’.-][^\W_\u4e00-\u9fff]+)*")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
_JAPANESE = re.compile(r"[\u3040-\u30ff]")
_DIGIT_INSIDE = re.compile(r"[a-z]{2,}[0-9][a-z]+|^[a-z][0-9]+[a-z]{2,}$", re.IGNORECASE)
_SYMBOL_INSIDE = re.compile(r"[A-Za-z]+[|!@#$^~`\\{}¦§¬]+[A-Za-z]+")
_VOWEL = re.compile(r"[aeiouyàáâäåãèéêëìíîïòóôöøõùúûüæœ]", re.IGNORECASE)
_SAME_LETTER = re.compile(r"([a-z])\1\1\1", re.IGNORECASE)
_UNIT_LIKE = re.compile(r"^\d*(?:mm|cm|kg|mg|ml|mcg|hz|khz|mhz|hrs?|yrs?|x\d+)\d*$", re.IGNORECASE)
_POINTING = r"\b(?:in|on|of|from|by) (?:this|the|these|above)\s+"
_PRESUPPOSED = _POINTING + r"(?:[\w-]+\s+){0,3}?"
_POINTED = re.compile(_POINTING, re.IGNORECASE)
_IDENTITY = re.compile(
    r"\bis (?:this|it|the (?:image|scan|picture|film))(?: image| scan| picture| film)? an? ",
    re.IGNORECASE,
)
_ASKS_KIND = re.compile(
    r"\bmodality\b|\b(?:what|which) (?:kind|type|sort) of (?:image|scan|imaging|study|picture)\b"
    r"|\bimaging (?:technique|method)|什么(?:模态|成像|类型的(?:图|影))",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"\s*(?:yes, |no, )?(?:this|it|the (?:image|scan|picture|film)) (?:is|shows|was) ",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"[.;\n。；]+")
_YES_NO = re.compile(r"\b(?:so |thus |therefore )?(?:yes|no)\b", re.IGNORECASE)
_PRESUPPOSED_MODALITY: Final = {
    family: re.compile(_PRESUPPOSED + "(?:" + pattern.pattern + ")", re.IGNORECASE)
    for family, pattern in lexicon.MODALITIES.items()
}
_STOPS: Final = (".", "!", "?", ")", "]", '"', "”", "。", "！", "？", "）")
_NONE: Final[frozenset[str]] = frozenset()
_SHORT_ANSWER_TASKS: Final = frozenset({"closed", "open", "choice"})


class Words(NamedTuple):
    """Words of a text, and the same in folded case."""

    said: tuple[str, ...]
    folded: tuple[str, ...]


@remembered
def words_of(text: str) -> Words:
    """Words of a text; every Chinese character counts as one."""
    said = tuple(_WORD.findall(text))
    return Words(said, tuple([word.casefold() for word in said]))


_NO_WORDS: Final = Words((), ())


def measure_text(record: Record) -> TextSignals:
    """All text signals of a record. No word crosses a line, so those of the turns are those of the whole."""
    turns = [turn.text for turn in record.messages]
    words = [words_of(text) for text in turns]
    first, last = _places(record)
    question, asked = (turns[first], words[first]) if first >= 0 else ("", _NO_WORDS)
    response, replied = (turns[last], words[last]) if last >= 0 else ("", _NO_WORDS)
    everything = "\n".join([*turns, *record.choices])
    read = _read_all(everything)
    tokens = [token for each in words for token in each.said]
    folded = [token for each in words for token in each.folded]
    run = _longest_run(tokens, folded)
    for choice in record.choices:
        tokens += words_of(choice).said
        folded += words_of(choice).folded
    modalities = _claimed_modalities(record, question, response)
    longest = words[turns.index(max(turns, key=len))].folded if turns else ()
    return TextSignals(
        language=read.language,
        question_words=len(asked.said),
        response_words=len(replied.said),
        words=len(tokens),
        text_chars=sum(map(len, turns)),
        placeholders=read.placeholders,
        markup=read.markup,
        mojibake=read.mojibake,
        controls=read.controls,
        repeated_trigrams=_repeated_trigrams(longest),
        longest_run=run,
        odd_words=read.odd_words,
        ending=_ending(response, record.task),
        stopped=response.rstrip().endswith(_STOPS),
        answer_polarity=lexicon.polarity(record.answer or ""),
        response_polarity=lexicon.reply_polarity(response),
        question_sides=lexicon.sides(question),
        response_sides=lexicon.sides(response),
        modalities=modalities,
        image_words=read.image_words,
        max_image_number=read.max_image_number,
        medical_terms=sum(map(medical_word, tokens)) + read.medical_zh,
        everyday_words=vocabulary.everyday_words(folded),
        misspelt=read.misspelt,
        loops=max(_loops(longest), _loops(replied.folded)),
        foreign=_foreign(question, response, replied.folded, record.task),
        claims=statements(record, modalities),
        question_key=_key(
            record.task, _spelled(question), *sorted(map(_spelled_answer, record.choices))
        ),
        answer_key=_key(_spelled_answer(record.answer or response)),
        content_key=_key(
            record.task,
            *(f"{t.role}:{_spelled(text)}" for t, text in zip(record.messages, turns, strict=True)),
            *record.choices,
        ),
    )


def _places(record: Record) -> tuple[int, int]:
    """Numbers of the first user turn and of the last assistant turn; -1 where there is none."""
    roles = [turn.role for turn in record.messages]
    first = roles.index("user") if "user" in roles else -1
    last = len(roles) - 1 - roles[::-1].index("assistant") if "assistant" in roles else -1
    return first, last


_spelled = remembered(normalise)
_spelled_answer = remembered(normalise_answer)


class _Whole(NamedTuple):
    """What is measured of all turns and choices as one text; see `TextSignals`."""

    language: str
    placeholders: int
    markup: int
    mojibake: int
    controls: int
    odd_words: float
    image_words: bool
    max_image_number: int
    medical_zh: int
    misspelt: int


@remembered
def _read_all(everything: str) -> _Whole:
    plain = everything.isascii()
    tagged = "<" in everything or "&" in everything or "\\" in everything
    tokens = everything.split()
    return _Whole(
        language=_language(everything, plain),
        placeholders=sum(1 for _ in PLACEHOLDER.finditer(everything)),
        markup=sum(1 for _ in MARKUP.finditer(everything)) if tagged else 0,
        mojibake=0 if plain else mojibake(everything),
        controls=_controls(everything),
        odd_words=round(sum(map(odd_word, tokens)) / len(tokens), 4) if tokens else 0.0,
        image_words=lexicon.IMAGE_WORDS.search(everything) is not None,
        max_image_number=_max_image_number(everything),
        medical_zh=0 if plain else len(lexicon.MEDICAL_ZH.findall(everything)),
        misspelt=sum(map(vocabulary.misspelt, set(tokens)))
        + (0 if plain else _odd_chinese(everything)),
    )


def mojibake(text: str) -> int:
    """Sequences that only a wrong decoding produces, and replacement characters."""
    from ftfy.badness import badness

    return int(badness(text)) + text.count("\ufffd") + _gbk_mojibake(text)


def _gbk_mojibake(text: str) -> int:
    """Chinese lines whose GBK bytes are valid UTF-8 for Chinese: UTF-8 that was read as GBK."""
    count = text.count("\u951f\u65a4\u62f7")
    for line in text.split("\n"):
        chinese = "".join(_CHINESE.findall(line))
        if len(chinese) < 3:
            continue
        try:
            meant = chinese[: len(chinese) // 3 * 3].encode("gbk").decode("utf-8", errors="ignore")
        except UnicodeEncodeError:
            continue
        # By chance a random pair of GBK bytes almost never forms several three-byte sequences.
        count += len(_CHINESE.findall(meant)) * 2 >= len(chinese)
    return count


@functools.lru_cache(maxsize=1 << 16)
def medical_word(token: str) -> bool:
    """Whether a word belongs to the medical vocabulary; words repeat, so answers are kept."""
    return lexicon.MEDICAL.search(token) is not None


@functools.lru_cache(maxsize=1 << 16)
def odd_word(token: str) -> bool:
    """Whether no language spells a word so; codes such as T2, SpO2 or FEV1 are not odd."""
    if _SYMBOL_INSIDE.search(token):
        return True
    bare = token.strip(".,;:!?()[]\"'")
    if len(bare) < 4 or not bare.isascii():
        return False
    if _DIGIT_INSIDE.search(bare) and not _UNIT_LIKE.match(bare):
        return bare.islower() or bare.istitle()
    if _SAME_LETTER.search(bare):
        return True
    return len(bare) >= 5 and bare.isalpha() and not bare.isupper() and not _VOWEL.search(bare)


def _key(*parts: str) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8"), digest_size=8).hexdigest()


def _language(text: str, plain: bool) -> str:
    if not plain and len(_CHINESE.findall(text)) * 4 >= len(_LATIN.findall(text)):
        return "zh" if _CHINESE.search(text) else ""
    return "en" if _LATIN.search(text) else ""


def _controls(text: str) -> int:
    if text.replace("\n", "").isprintable():
        return 0
    return sum(
        1 for c in text if c not in "\n\t\r" and unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs")
    )


def _repeated_trigrams(folded: Sequence[str]) -> float:
    if len(folded) < 12:
        return 0.0
    grams = list(zip(folded, folded[1:], folded[2:], strict=False))
    return round(1.0 - len(set(grams)) / len(grams), 4)


def _longest_run(tokens: Sequence[str], folded: Sequence[str]) -> int:
    best = run = 1 if tokens else 0
    for before, after, token in zip(folded, folded[1:], tokens[1:], strict=False):
        alike = before == after and not token[:1].isdigit() and not _CHINESE.match(token)
        run = run + 1 if alike else 1
        best = max(best, run)
    return best


def _loops(folded: Sequence[str]) -> int:
    """How many further times the last 1 to 12 words stand directly before themselves."""
    best = 0
    for size in range(1, min(12, len(folded) // 3) + 1):
        tail = folded[-size:]
        times = 0
        while folded[len(folded) - (times + 2) * size : len(folded) - (times + 1) * size] == tail:
            times += 1
        if times >= 2:
            best = max(best, times)
    return best


def _foreign(question: str, response: str, words: Sequence[str], task: str) -> str:
    """The response's language where it is not that of the question; see `TextSignals.foreign`.

    Args:
        words: of the response, in folded case.
    """
    if response.isascii() and question.isascii():
        return vocabulary.foreign_language(words)
    if _JAPANESE.search(response):
        return "ja"
    asked = _language(question, question.isascii())
    chinese, latin = len(_CHINESE.findall(response)), len(_LATIN.findall(response))
    # One English prompt for captions of any language is usual; an answer follows its question.
    if asked == "en" and chinese >= 4 and chinese > latin and task in _SHORT_ANSWER_TASKS:
        return "zh"
    if asked == "zh" and latin >= 20 and not chinese:
        return vocabulary.foreign_language(words) or "en"
    return vocabulary.foreign_language(words)


def _odd_chinese(text: str) -> int:
    """Chinese characters outside the 6,763 of GB 2312, which print of today hardly ever uses."""
    odd = 0
    if len(_LATIN.findall(text)) > len(_CHINESE.findall(text)):
        return 0
    for character in _CHINESE.findall(text):
        try:
            character.encode("gb2312")
        except UnicodeEncodeError:
            odd += 1
    return odd


def _ending(response: str, task: str) -> str:
    text = response.rstrip()
    if not text:
        return ""
    if text.count("(") > text.count(")") and text.rfind("(") > text.rfind(")"):
        return "bracket"
    if task in _SHORT_ANSWER_TASKS and len(text) < 40:
        return ""
    if text.endswith(("...", "…")):
        return "ellipsis"
    if text.endswith((",", "，", "、", "-", "–")):
        return "comma"
    last = text.rsplit(None, 1)[-1]
    return "connective" if last in CONNECTIVES else ""


@remembered
def _presupposed(question: str) -> frozenset[str]:
    """Families of modality that a question takes for granted ("in this CT")."""
    if not _POINTED.search(question) or _hedged(question):
        return _NONE
    return frozenset(f for f, p in _PRESUPPOSED_MODALITY.items() if p.search(question))


@remembered
def _hedged(text: str) -> bool:
    return lexicon.HEDGES.search(text) is not None


@remembered
def _named(text: str) -> frozenset[str]:
    """Families of modality that a text names, unless it hedges."""
    if _hedged(text):
        return _NONE
    return frozenset(f for f, p in lexicon.MODALITIES.items() if p.search(text))


@remembered
def _identity(question: str) -> str | None:
    """What comes behind "Is this a ..."; None where that is not asked."""
    match = _IDENTITY.search(question)
    return None if match is None else question[match.end() :]


def _claimed_modalities(record: Record, question: str, response: str) -> tuple[str, ...]:
    """Families that the text says the image is: presupposed by the question, or stated."""
    claimed = set(_presupposed(question))
    if record.task == "dialogue":
        for turn in record.messages:
            if turn.role == "assistant":
                for sentence in _SENTENCES.split(turn.text):
                    if _STATED.match(sentence):
                        claimed |= _named(sentence)
    elif record.task == "closed":
        asked = _identity(question)
        if asked is not None:
            body = _YES_NO.sub("", response)
            if body.strip(" .,"):
                # "No, this is a CT." and "Abdominal CT, so no." say what it is.
                claimed |= _named(body)
            if lexicon.polarity(record.answer or response) == "yes":
                claimed |= _named(asked)
    elif record.task in ("caption", "report") or (
        record.task in ("open", "choice") and _ASKS_KIND.search(question)
    ):
        claimed |= _named(response if record.task != "choice" else record.answer or "")
    return tuple(sorted(claimed))


def _max_image_number(text: str) -> int:
    best = 0
    for match in lexicon.NUMBERED_IMAGE.finditer(text):
        word = match["word"]
        best = max(best, lexicon.ORDINALS[word.lower()] if word else int(match["number"]))
    return best
