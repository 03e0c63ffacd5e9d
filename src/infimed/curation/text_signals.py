"""Text measurements. Pure; about 0.1 ms for a question and its answer.

Every pattern here is linear in the text: no nested repetition, so hostile text cannot stall it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from typing import Final

from infimed.curation import lexicon, vocabulary
from infimed.curation.signals import TextSignals
from infimed.curation.statements import statements
from infimed.data.record import Record
from infimed.matching.text import normalise, normalise_answer

PLACEHOLDER: Final = re.compile(
    r"<(?:image|img|video|audio|xref|fig|figure|ref|unk|pad|mask)(?:[_-]?\d+)?\s*/?>|\[(?:image|img|figure|insert [^\]\n]{1,40}"
    r"|todo|citation needed|ref)\]|<\|[a-z_]{2,30}\|>|\\(?:ref|cite|label)\{|\b(?:fig(?:ure)?|table|ref)\.? ?\?\?"
    r"|\{\{[^}\n]{0,60}\}\}|\{(?:image|answer|question|caption|text|name)\}|\bTODO\b|\bTBD\b|\blorem ipsum\b"
    r"|__(?:dj__|IMAGE|MASK)\w*|XX[A-Z]{3,}XX|<__\w+>",
    re.IGNORECASE,
)
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
_PRESUPPOSED = r"\b(?:in|on|of|from|by) (?:this|the|these|above)\s+(?:[\w-]+\s+){0,3}?"
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
_SHORT_ANSWER_TASKS: Final = frozenset({"closed", "open", "choice"})


def words_of(text: str) -> list[str]:
    """Words of a text; every Chinese character counts as one."""
    return _WORD.findall(text)


def measure_text(record: Record) -> TextSignals:
    """All text signals of a record."""
    question, response = record.question, record.response
    turns = [turn.text for turn in record.messages]
    everything = "\n".join([*turns, *record.choices])
    tokens = words_of(everything)
    modalities = _claimed_modalities(record, question, response)
    longest = max(turns, key=len, default="")
    plain = everything.isascii()
    return TextSignals(
        language=_language(everything, plain),
        question_words=len(words_of(question)),
        response_words=len(words_of(response)),
        words=len(tokens),
        text_chars=sum(map(len, turns)),
        placeholders=sum(1 for _ in PLACEHOLDER.finditer(everything)),
        markup=sum(1 for _ in MARKUP.finditer(everything))
        if "<" in everything or "&" in everything or "\\" in everything
        else 0,
        mojibake=0 if plain else mojibake(everything),
        controls=_controls(everything),
        repeated_trigrams=_repeated_trigrams(words_of(longest)),
        longest_run=_longest_run([token for turn in turns for token in words_of(turn)]),
        odd_words=_odd_words(everything),
        ending=_ending(response, record.task),
        stopped=response.rstrip().endswith(_STOPS),
        answer_polarity=lexicon.polarity(record.answer or ""),
        response_polarity=lexicon.reply_polarity(response),
        question_sides=lexicon.sides(question),
        response_sides=lexicon.sides(response),
        modalities=modalities,
        image_words=lexicon.IMAGE_WORDS.search(everything) is not None,
        max_image_number=_max_image_number(everything),
        medical_terms=sum(map(medical_word, tokens)) + len(lexicon.MEDICAL_ZH.findall(everything)),
        everyday_words=vocabulary.everyday_words([token.casefold() for token in tokens]),
        misspelt=sum(map(vocabulary.misspelt, set(everything.split())))
        + (0 if plain else _odd_chinese(everything)),
        loops=max(_loops(words_of(longest)), _loops(words_of(response))),
        foreign=_foreign(question, response, record.task),
        claims=statements(record, modalities),
        question_key=_key(
            record.task, normalise(question), *sorted(map(normalise_answer, record.choices))
        ),
        answer_key=_key(normalise_answer(record.answer or response)),
        content_key=_key(
            record.task,
            *(f"{t.role}:{normalise(t.text)}" for t in record.messages),
            *record.choices,
        ),
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
    if text.isprintable():
        return 0
    return sum(
        1 for c in text if c not in "\n\t\r" and unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs")
    )


def _repeated_trigrams(tokens: list[str]) -> float:
    if len(tokens) < 12:
        return 0.0
    folded = [token.casefold() for token in tokens]
    grams = list(zip(folded, folded[1:], folded[2:], strict=False))
    return round(1.0 - len(set(grams)) / len(grams), 4)


def _longest_run(tokens: list[str]) -> int:
    best = run = 1 if tokens else 0
    for before, after in itertools.pairwise(tokens):
        alike = before.casefold() == after.casefold() and not after[:1].isdigit()
        run = run + 1 if alike and not _CHINESE.match(after) else 1
        best = max(best, run)
    return best


def _loops(tokens: list[str]) -> int:
    """How many further times the last 1 to 12 words stand directly before themselves."""
    folded = [token.casefold() for token in tokens]
    best = 0
    for size in range(1, min(12, len(folded) // 3) + 1):
        tail = folded[-size:]
        times = 0
        while folded[len(folded) - (times + 2) * size : len(folded) - (times + 1) * size] == tail:
            times += 1
        if times >= 2:
            best = max(best, times)
    return best


def _foreign(question: str, response: str, task: str) -> str:
    """The response's language where it is not that of the question; see `TextSignals.foreign`."""
    if _JAPANESE.search(response):
        return "ja"
    words = [word.casefold() for word in words_of(response)]
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


def _odd_words(text: str) -> float:
    tokens = text.split()
    return round(sum(map(odd_word, tokens)) / len(tokens), 4) if tokens else 0.0


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


def _claimed_modalities(record: Record, question: str, response: str) -> tuple[str, ...]:
    """Families that the text says the image is: presupposed by the question, or stated."""
    claimed = {
        family
        for family, pattern in _PRESUPPOSED_MODALITY.items()
        if pattern.search(question) and not lexicon.HEDGES.search(question)
    }
    if record.task == "dialogue":
        for turn in record.messages:
            if turn.role == "assistant":
                for sentence in _SENTENCES.split(turn.text):
                    if _STATED.match(sentence) and not lexicon.HEDGES.search(sentence):
                        claimed.update(
                            f for f, p in lexicon.MODALITIES.items() if p.search(sentence)
                        )
    elif record.task == "closed":
        match = _IDENTITY.search(question)
        body = _YES_NO.sub("", response)
        if match and body.strip(" .,") and not lexicon.HEDGES.search(body):
            # "No, this is a CT." and "Abdominal CT, so no." say what it is.
            claimed.update(f for f, p in lexicon.MODALITIES.items() if p.search(body))
        if match and lexicon.polarity(record.answer or response) == "yes":
            named = question[match.end() :]
            if not lexicon.HEDGES.search(named):
                claimed.update(f for f, p in lexicon.MODALITIES.items() if p.search(named))
    elif record.task in ("caption", "report") or (
        record.task in ("open", "choice") and _ASKS_KIND.search(question)
    ):
        stated = response if record.task != "choice" else record.answer or ""
        if not lexicon.HEDGES.search(stated):
            claimed.update(f for f, p in lexicon.MODALITIES.items() if p.search(stated))
    return tuple(sorted(claimed))


def _max_image_number(text: str) -> int:
    best = 0
    for match in lexicon.NUMBERED_IMAGE.finditer(text):
        word = match["word"]
        best = max(best, lexicon.ORDINALS[word.lower()] if word else int(match["number"]))
    return best
