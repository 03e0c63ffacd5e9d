"""Identifiers of a person in free text: numbers with their labels, dates, contacts, addresses, names.

After the list of the HIPAA safe harbour (45 CFR 164.514(b)(2)) as far as a pattern can see it, and
the Chinese identity card (GB 11643-1999, with its checksum) and mobile number. Precision comes
first: a bare number is never an identifier, a label, a form or a checksum has to speak for it.
Names without a label are found only when they are known (`KnownNames`). What is found is a kind and
a span; the text itself never leaves this module except as a keyed hash (`evidence_hash`).

Cost: about 10 microseconds for a short text without digits, 100 for a page with many.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Final

KINDS: Final = (
    "name", "id-number", "accession", "ssn", "cn-id", "phone", "email", "address", "date", "age",
)  # fmt: skip
"""What can be found. "age" is an age of 90 and over, which HIPAA counts among the identifiers."""


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """A span of a text, characters [start, end), and what kind of identifier it holds."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What a header says of its patient, held in memory only.

    Attributes:
        words: parts of names in lower case; matched as whole words that begin with a capital.
        literals: numbers, dates and Chinese names as they may be written; matched as they are.
    """

    words: frozenset[str] = field(default_factory=frozenset)
    literals: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: KnownNames) -> KnownNames:
        return KnownNames(self.words | other.words, self.literals | other.literals)

    def __bool__(self) -> bool:
        return bool(self.words or self.literals)

    def __repr__(self) -> str:  # must not show names in a traceback
        return f"KnownNames({len(self.words)} words, {len(self.literals)} literals)"


NOBODY: Final = KnownNames()

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_MONTHS: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
_NUMBER = r"((?=[A-Z0-9-]*\d{3})[A-Z0-9][A-Z0-9-]{3,19})(?!\w|\.\d)"
_LABEL = r"\s*(?:[:#：=]|\bis\b|no\.?|number)?\s*[:#：]?\s*"
_CAPITAL = r"[A-Z][A-Za-zÀ-ÿ'’-]+"
_PERSON = rf"((?:{_CAPITAL}|[A-Z]\.)(?:[,^]?[ ]?(?:{_CAPITAL}|[A-Z]\.?)){{0,3}})"


def _valid_date(match: re.Match[str]) -> bool:
    """Whether the numbers of a match are a day of a calendar in some order."""
    numbers = [int(n) for n in re.findall(r"\d+", match[0])]
    if len(numbers) != 3:
        return False
    a, b, c = numbers
    orders = ((a, b, c),) if a > 31 else ((c, a, b), (c, b, a))
    return any(_is_day(*order) for order in orders)


def _is_day(year: int, month: int, day: int) -> bool:
    year += 0 if year >= 100 else 2000 if year < 30 else 1900
    try:
        return 1880 <= date(year, month, day).year <= 2100
    except ValueError:
        return False


def _valid_ssn(match: re.Match[str]) -> bool:
    area, group, serial = match[0].split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _valid_cn_id(match: re.Match[str]) -> bool:
    """Checksum of GB 11643-1999 (ISO 7064 MOD 11-2) and a real date of birth."""
    text = match[0].upper()
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(text, weights, strict=False))
    if "10X98765432"[total % 11] != text[17]:
        return False
    return _is_day(int(text[6:10]), int(text[10:12]), int(text[12:14]))


def _personal_phone(match: re.Match[str]) -> bool:
    """Toll-free numbers belong to organisations."""
    digits = re.sub(r"\D", "", match[0])
    local = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
    return not (len(local) == 10 and local[:3] in _TOLL_FREE)


_TOLL_FREE: Final = ("800", "822", "833", "844", "855", "866", "877", "888", "900")


@dataclass(frozen=True, slots=True)
class _Pattern:
    """`group` is the part that identifies. What must hold for a match at all is tested first: so many
    digits stand in a row, and one of `needs` occurs (lower case; only asked of ASCII texts, because
    other alphabets have letters that are Latin ones where case is ignored)."""

    kind: str
    regex: re.Pattern[str]
    group: int = 0
    valid: Callable[[re.Match[str]], bool] | None = None
    digits: int = 0
    needs: tuple[str, ...] = ()


def _make(kind: str, regex: str, group: int = 0, flags: int = re.IGNORECASE,
          valid: Callable[[re.Match[str]], bool] | None = None,
          digits: int = 0, needs: tuple[str, ...] = ()) -> _Pattern:  # fmt: skip
    return _Pattern(kind, re.compile(regex, flags), group, valid, digits, needs)


_WITH_DIGITS: Final = (
    _make("cn-id", r"(?<![\dA-Za-z])[1-9]\d{16}[\dX](?![\dA-Za-z])", valid=_valid_cn_id, digits=17),
    _make(
        "id-number",
        r"(?:\bMRN?|\bmedical[ -]record|\b(?:patient|pt|hospital|chart|case)(?:['’]s)?[ -]?(?:id|no\.?|number)\b|"
        r"\b(?:patient|chart|hospital|record)\s?#|病历号|住院号|门诊号|病案号|就诊卡号|患者编号|患者ID)"
        + _LABEL + _NUMBER,
        1, digits=3, needs=("mr", "medical", "patient", "pt", "hospital", "chart", "case", "record"),
    ),
    _make("accession", r"(?:\baccession|\bacc(?=\s?(?:#|no\b|number\b))|检查号|影像号|申请单号)" + _LABEL + _NUMBER, 1, digits=3, needs=("acc",)),
    _make("ssn", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", valid=_valid_ssn, digits=4, needs=("-",)),
    _make("phone", r"(?<![\d.-])(?:\+?1[-. ])?(?:\([2-9]\d{2}\)\s?|[2-9]\d{2}[-.])\d{3}[-.]\d{4}(?![\d-]|\.\d)", valid=_personal_phone, digits=4),
    _make("phone", r"(?<![\w.+-])(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?![\w-]|\.\d)", digits=4),
    _make("phone", r"(?<![\d.+])\+\d{1,3}[- ]\(?\d{1,4}\)?(?:[- ]\d{2,4}){2,4}(?![\d-])", needs=("+",)),
    _make("phone", r"(?:\b(?:phone|tel(?:ephone)?|mobile|cell|fax)\b\.?(?: (?:no|number)\.?)?|电话|手机)\s*[:：]\s*(\+?\(?\d[\d ()/.-]{6,18}\d)", 1, valid=_personal_phone, needs=("phone", "tel", "mobile", "cell", "fax")),
    _make("date", r"(?<![\d./-])(?:19|20)\d{2}([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])(?![\d/-]|\.\d)", valid=_valid_date, digits=4),
    _make("date", r"(?<![\d./-])(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|[12]\d|3[01])\1(?:18|19|20)\d{2}(?![\d/-]|\.\d)", valid=_valid_date, digits=4),
    _make("date", r"\b(?:on|dated?|dob|d\.o\.b\.|born|birth|since|seen)\s*(?:date)?\s*[:：]?\s*((?:0?[1-9]|[12]\d|3[01])([-/])(?:0?[1-9]|[12]\d|3[01])\2\d{2})(?![\d/-])", 1, needs=("/", "-")),
    _make("date", rf"\b{_MONTH}\.? (?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?,? (?:19|20)\d{{2}}\b", digits=4, needs=_MONTHS),
    _make("date", rf"(?<![\d.])(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?[ -](?:of )?{_MONTH}\.?,?[ -](?:19|20)\d{{2}}\b", digits=4, needs=_MONTHS),
    _make("date", r"(?:19|20)\d{2}\s?年\s?\d{1,2}\s?月\s?\d{1,2}\s?[日号]", digits=4, needs=("年",)),
    _make("address", rf"(?<![\d.])\d{{1,5}}[A-Za-z]?,? (?:(?:{_CAPITAL}|[NSEW]\.?|\d+(?:st|nd|rd|th)) ){{1,3}}(?:Street|St\.?|Avenue|Ave\.?|Road|Rd\.?|Boulevard|Blvd\.?|Lane|Ln\.?|Parkway|Highway|Square)(?![\w-])", flags=0,
          needs=("st", "ave", "road", "rd", "boulevard", "blvd", "lane", "ln", "parkway", "highway", "square")),
    _make("address", r"(?:[\u4e00-\u9fff]{2,7}[省市区县]){1,3}[\u4e00-\u9fff\d]{1,12}[路街巷弄道]\d+[号弄]", needs=("号", "弄")),
    _make("age", r"(?<![\d.,-])(?:9\d|1[0-2]\d)(?=[- ](?:years?|yrs?)[- ](?:old|of age)\b|[- ]?y/?o\b|\s?岁)", needs=("year", "yr", "yo", "y/o")),
)  # fmt: skip

_WITH_LETTERS: Final = (
    _make("name", rf"\b(?:[Pp]atient(?:['’]s)?|PATIENT|[Pp]t|[Ff]ull|[Ff]irst|[Ll]ast|[Ss]ur)[ ]?(?:[Nn]ame|NAME)\s*[:：]\s*{_PERSON}", 1, flags=0),
    _make("name", rf"(?:^|[\n;|])\s*(?:Name|NAME)\s*[:：]\s*{_PERSON}", 1, flags=0),
    _make("name", r"\b(?:Mr|Mrs|Ms|Miss)\.? (?!Right\b|Perfect\b)([A-Z][A-Za-zÀ-ÿ'’-]+(?: [A-Z][a-zÀ-ÿ'’-]+)?)", 1, flags=0),
    _make("name", r"\b[A-Z][A-Za-z'-]+\^[A-Z][A-Za-z'-]*(?:\^[A-Z][A-Za-z'-]*)*", flags=0),
    _make("name", r"(?:姓名|患者姓名|病人姓名)\s*[:：]\s*([\u4e00-\u9fff]{2,4})(?![\u4e00-\u9fff])", 1),
    _make("email", r"(?<![\w.+-])[A-Z0-9._%+-]+@[A-Z0-9-]+(?:\.[A-Z0-9-]+)*\.[A-Z]{2,}\b"),
)  # fmt: skip

# One cheap test for each half: most texts have neither and cost one scan.
_ANY_NUMBER: Final = re.compile(r"\d[\d年./ -]*\d")
_DIGITS: Final = re.compile(r"\d+")
_ANY_NAME: Final = re.compile(r"@|\^|姓名|\bM(?:rs?|s|iss)\b|[Nn]ame\s*[:：]|NAME\s*[:：]")


def find_identifiers(text: str, known: KnownNames = NOBODY) -> tuple[Identifier, ...]:
    """Identifiers in a text, in order, without overlap; of overlapping ones the longest stays."""
    found: list[Identifier] = []
    if _ANY_NUMBER.search(text):
        found.extend(_search(text, _WITH_DIGITS))
    if _ANY_NAME.search(text):
        found.extend(_search(text, _WITH_LETTERS))
    if known:
        found.extend(_known(text, known))
    return _without_overlap(found)


def evidence_hash(text: str, identifier: Identifier) -> str:
    """A short hash that ties a finding to its text without saying what it is.

    Keyed by the whole text: an identifier has few possible values, and a plain hash of it could be
    guessed; who can compute this key has the text already.
    """
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    value = text[identifier.start : identifier.end].encode("utf-8", "surrogatepass")
    return hmac.new(key, value, hashlib.sha256).hexdigest()[:12]


def redact_text(text: str, known: KnownNames = NOBODY) -> tuple[str, tuple[str, ...]]:
    """The text with every identifier replaced by its kind in brackets, and the kinds in order."""
    found = find_identifiers(text, known)
    for one in reversed(found):
        text = f"{text[: one.start]}[{one.kind.upper()}]{text[one.end :]}"
    return text, tuple(one.kind for one in found)


def _search(text: str, patterns: Iterable[_Pattern]) -> Iterable[Identifier]:
    in_a_row = max(map(len, _DIGITS.findall(text)), default=0)
    low = text.lower() if text.isascii() else ""
    for pattern in patterns:
        if pattern.digits > in_a_row or (
            low and pattern.needs and not any(map(low.__contains__, pattern.needs))
        ):
            continue
        for match in pattern.regex.finditer(text):
            if pattern.valid is None or pattern.valid(match):
                start, end = match.span(pattern.group)
                yield Identifier(start, end, pattern.kind)


def _known(text: str, known: KnownNames) -> Iterable[Identifier]:
    if known.words:
        for match in re.finditer(r"[^\W\d_]+", text):
            if match[0][0].isupper() and match[0].lower() in known.words:
                yield Identifier(*match.span(), "name")
    for literal in known.literals:
        at = text.find(literal)
        while at >= 0:
            end = at + len(literal)
            inside_word = (at > 0 and text[at - 1].isdigit() and literal[0].isdigit()) or (
                end < len(text) and text[end].isdigit() and literal[-1].isdigit()
            )
            if not inside_word:
                yield Identifier(at, end, "id-number" if any(c.isdigit() for c in literal) else "name")  # fmt: skip
            at = text.find(literal, end)


def _without_overlap(found: Iterable[Identifier]) -> tuple[Identifier, ...]:
    kept: list[Identifier] = []
    for one in sorted(found, key=lambda i: (-(i.end - i.start), i.start, KINDS.index(i.kind))):
        if all(one.end <= other.start or one.start >= other.end for other in kept):
            kept.append(one)
    return tuple(sorted(kept))
