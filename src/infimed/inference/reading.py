"""Read an explicit answer out of what a model wrote: a marked part, a yes or a no, in English or Chinese.

What no rule can read is `NOTHING`; it is never guessed. All functions are pure and total: any string gives
an `Extraction`. Evaluation's extractors go on from here (`infimed.evaluation.extract`), and serving reads with
the same rules. Reasoning in ``<think>`` tags is never read.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

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


def without_thinking(text: str) -> str:
    """The text without what stands in ``<think>`` tags."""
    return (_THINK.sub("", text) if "<" in text else text).strip()


def marked(text: str) -> list[tuple[str, str]]:
    """Explicitly marked answers as (rule, text), strongest first, and last the text itself.

    Full-width letters, brackets and colons become plain ones.
    """
    visible = unicodedata.normalize("NFKC", without_thinking(text))
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
