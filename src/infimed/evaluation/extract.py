"""Read the answer out of what a model wrote: ordered rules that say which of them fired.

An answer that no rule can read is `unparsed`; it is never guessed and never given chance. All
functions are pure and total: any string gives an `Extraction`.

Order of rules: an explicit mark (``\\boxed{}``, ``<answer>``, the last "answer is") first, then the
text itself. Reasoning in ``<think>`` tags is never read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from infimed.evaluation.metrics.words import normalise

UNPARSED = "unparsed"

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}")
_MARK = re.compile(
    r"(?:\bfinal answer(?: is)?|\b(?:correct )?answer is|\b(?:correct )?answer\s*(?=\**:)|答案\s*(?:是|为|(?=:)))[\s*:]*",
    re.IGNORECASE,
)
# A word ends at a Chinese character too, which \b does not see.
_YES_NO = re.compile(r"(?<![^\W\u3400-\u9fff])(yes|no)(?![^\W\u3400-\u9fff])", re.IGNORECASE)
_BOTH = re.compile(r"\b(?:yes\s*(?:or|/|and)\s*no|no\s*(?:or|/|and)\s*yes)\b", re.IGNORECASE)
_NO_PHRASE = re.compile(r"\bno (?:idea|doubt)\b", re.IGNORECASE)
_CHINESE_NO = ("不是", "不包含", "没有", "不存在", "不可以", "不能", "不会", "不对", "否", "无")
_CHINESE_YES = ("是的", "是", "包含", "有", "存在", "可以", "能", "会", "对")
_CHINESE = re.compile(
    rf"(?:^|[\s,.:;!?。、“\"'])(?:({'|'.join(_CHINESE_NO)})|({'|'.join(_CHINESE_YES)}))"
    r"(?!否|不|法|确定|判断|肯定)"
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was read, or None, and the rule that read it ("unparsed" where none did)."""

    value: str | None
    rule: str


NOTHING = Extraction(None, UNPARSED)


def boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}`` with braces matched; LaTeX text wrappers removed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, at = 1, start + len("\\boxed{")
    begin = at
    while at < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    inner = text[begin : at - 1] if depth == 0 else text[begin:]
    while (plain := _WRAPPED.sub(r"\1", inner)) != inner:
        inner = plain
    return inner.strip()


def _without_thinking(text: str) -> str:
    return (_THINK.sub("", text) if "<" in text else text).strip()


def marked(text: str) -> list[tuple[str, str]]:
    """Explicitly marked answers as (rule, text), strongest first, and last the text itself.

    Full-width letters, brackets and colons become plain ones.
    """
    visible = unicodedata.normalize("NFKC", _without_thinking(text))
    found = []
    inside = boxed(visible)
    if inside is not None:
        found.append(("boxed", inside))
    tags = _ANSWER_TAG.findall(visible) if "<" in visible else ()
    if tags:
        found.append(("answer tag", tags[-1].strip()))
    marks = list(_MARK.finditer(visible))
    if marks:
        found.append(("answer mark", visible[marks[-1].end() :].strip()))
    found.append(("text", visible))
    return [(rule, part) for rule, part in found if part]


def polarity(gold: str) -> str | None:
    """ "yes" or "no" where a gold answer is one, in English or Chinese; None for any other answer."""
    bare = unicodedata.normalize("NFKC", gold).strip().lower().rstrip(".。!")
    if bare in ("yes", "no"):
        return bare
    return "yes" if bare in _CHINESE_YES else "no" if bare in _CHINESE_NO else None


@lru_cache(maxsize=100_000)
def yes_no(text: str) -> Extraction:
    """The first decisive yes or no, on word boundaries: "Yes, but no effusion" is yes.

    Chinese is read where a clause begins with such a word (没有积液 is no); 是否 decides nothing.
    """
    for rule, part in marked(text):
        clean = _NO_PHRASE.sub(" ", _BOTH.sub(" ", part))
        hit = _YES_NO.search(clean)
        if hit:
            bare = not clean[: hit.start()].strip(" \t\n*_\"'(.:")
            place = "first word" if bare else "first decisive word"
            return Extraction(hit.group(1).lower(), place if rule == "text" else rule)
        chinese = _CHINESE.search(clean)
        if chinese:
            value = "no" if chinese.group(1) else "yes"
            return Extraction(value, "chinese" if rule == "text" else rule)
    return NOTHING


def closed(text: str, *, expects_yes_no: bool) -> Extraction:
    """yes/no where the question is answered so, else a short answer."""
    return yes_no(text) if expects_yes_no else short(text)


_LEAD = re.compile(
    r"^\W*(?:option\s+)?\(?([A-Z])\)?\s*(?:$|[.:)、。]|\*\*|\s+(?:is|because|since|as)\b)",
    re.IGNORECASE,
)
_BARE = re.compile(r"^\W*(?:option\s+)?\(?([A-Za-z])\)?\W*$", re.IGNORECASE)
_BLOCK = re.compile(r"\n\s*\n")
_STATED = re.compile(
    r"(?i:therefore|thus|hence|so|choose|select|pick)[,:]?\s+(?:the\s+answer\s+is\s+)?(?i:option\s+)?\(?([A-Z])\)?(?=\W*$|[.,;])",
)
_CORRECT = re.compile(r"\b(?:option\s+)?\(?([A-Z])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b")
_MENTION = re.compile(r"\(([A-Z])\)|(?<![^\W\u3400-\u9fff])([A-Z])(?![^\W\u3400-\u9fff])(?!')")


def letter(text: str, options: Sequence[str]) -> Extraction:
    """The index of the chosen option as text ("0", "1", ...); several letters are unparsed.

    Args:
        options: in the order shown, without letters.
    """
    letters = [chr(ord("A") + index) for index in range(len(options))]
    for rule, part in marked(text):
        found = _letter_in(part, letters, options)
        if found is not None:
            index, how = found
            return Extraction(str(index), how if rule == "text" else rule)
    return NOTHING


def _letter_in(part: str, letters: Sequence[str], options: Sequence[str]) -> tuple[int, str] | None:
    """(option index, rule) in one stretch of text."""
    mentioned = _mentioned(part, letters)
    blocks = [block for block in _BLOCK.split(part) if block.strip()] or [part]
    for block in (blocks[0], blocks[-1]):
        bare = _BARE.match(block)
        if bare and bare.group(1).upper() in letters:
            return letters.index(bare.group(1).upper()), "letter alone"
    exact = [i for i, option in enumerate(options) if normalise(option) == normalise(part)]
    if len(exact) == 1:
        return exact[0], "option text"
    lead = _LEAD.match(blocks[0])
    if lead and lead.group(1) in letters and len(mentioned - {"A"} | {lead.group(1)}) == 1:
        return letters.index(lead.group(1)), "leading letter"
    for pattern, rule in ((_STATED, "stated letter"), (_CORRECT, "stated letter")):
        stated = {hit.group(1) for hit in pattern.finditer(part)} & set(letters)
        if len(stated) == 1:
            return letters.index(stated.pop()), rule
    if len(mentioned) == 1:
        return letters.index(next(iter(mentioned))), "only letter"
    if mentioned:
        return None
    words = f" {normalise(part)} "
    inside = [
        i
        for i, option in enumerate(options)
        if normalise(option) and f" {normalise(option)} " in words
    ]
    # "left lung" also holds "lung": an option inside another named option does not count.
    longest = [
        i
        for i in inside
        if not any(
            j != i and f" {normalise(options[i])} " in f" {normalise(options[j])} " for j in inside
        )
    ]
    return (longest[0], "option named") if len(longest) == 1 else None


def _mentioned(part: str, letters: Sequence[str]) -> set[str]:
    """Option letters that stand alone; "A" as an article ("A mass") does not."""
    found = set()
    for hit in _MENTION.finditer(part):
        name = hit.group(1) or hit.group(2)
        article = (
            name == "A"
            and not hit.group(1)
            and re.match(r"\s+[a-z]", part[hit.end() :]) is not None
        )
        if name in letters and not (
            article and not re.match(r"\s+(?:is|and|or)\b", part[hit.end() :])
        ):
            found.add(name)
    return found


def short(text: str) -> Extraction:
    """A short answer: the marked part, else the first line with words."""
    for rule, part in marked(text):
        for line in part.splitlines():
            if normalise(line):
                return Extraction(line.strip(), "first line" if rule == "text" else rule)
    return NOTHING


def whole(text: str) -> Extraction:
    """Everything the model wrote, reasoning apart; unparsed when it has no word."""
    visible = _without_thinking(text)
    return Extraction(visible, "whole text") if normalise(visible) else NOTHING
