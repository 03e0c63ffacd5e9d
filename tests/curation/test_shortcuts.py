"""Cues lose no match, and what is remembered is what was found."""

from __future__ import annotations

import importlib
import pkgutil
import random
import re
from collections.abc import Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from infimed.curation import lexicon, rules, text_signals
from infimed.curation.shortcuts import REMEMBERED_CHARS, Cued, Cues, remembered
from infimed.data.privacy import identifiers

ANYTHING = "\0"
SMALL_SET = 6


def without_cue(parsed: Any, prefixes: set[str], cues: tuple[str, ...]) -> set[str]:
    """Ends of all ASCII texts that a parsed pattern matches behind `prefixes` without any cue so far.

    A character that could be many is `ANYTHING`. Texts that hold a cue, or a letter that is not ASCII, are
    left out: what remains at the end would be missed by a look for cues.
    """
    longest = max(map(len, cues))

    def grown(made: set[str]) -> set[str]:
        kept = {p for p in made if p.isascii() and not any(cue in p for cue in cues)}
        return {p[-longest:] for p in kept}

    for kind, value in parsed:
        if kind is codes.LITERAL:
            prefixes = grown({p + chr(value).lower() for p in prefixes})
        elif kind is codes.IN:
            literal = all(k is codes.LITERAL for k, _ in value) and len(value) <= SMALL_SET
            letters = [chr(v).lower() for _, v in value] if literal else [ANYTHING]
            prefixes = grown({p + letter for p in prefixes for letter in letters})
        elif kind is codes.BRANCH:
            prefixes = set().union(*(without_cue(one, prefixes, cues) for one in value[1]))
        elif kind is codes.SUBPATTERN:
            prefixes = without_cue(value[3], prefixes, cues)
        elif kind in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, inside = value
            for _ in range(min(least, 2)):
                prefixes = without_cue(inside, prefixes, cues)
            if most > least or least > 2:
                more = without_cue(inside, prefixes, cues)
                prefixes = (
                    prefixes | more | (grown({p + ANYTHING for p in more}) if most > 1 else set())
                )
        elif kind not in (codes.AT, codes.ASSERT, codes.ASSERT_NOT):
            prefixes = grown({p + ANYTHING for p in prefixes})
    return prefixes


def all_cued() -> Iterator[tuple[str, Cued]]:
    """Every cued pattern of signals and rules, with where it stands."""
    found = pkgutil.iter_modules(rules.__path__, rules.__name__ + ".")
    for module in (lexicon, text_signals, *(importlib.import_module(m.name) for m in found)):
        for name, value in vars(module).items():
            held = [value] if isinstance(value, Cued) else []
            if isinstance(value, tuple):
                held = [
                    v for row in value if isinstance(row, tuple) for v in row if isinstance(v, Cued)
                ]
            for number, one in enumerate(held):
                yield f"{module.__name__}.{name}[{number}]", one


CUED = dict(all_cued())


def test_there_are_cued_patterns() -> None:
    assert len(CUED) > 30


@pytest.mark.parametrize("name", CUED)
def test_every_ascii_match_of_a_pattern_holds_one_of_its_cues(name: str) -> None:
    cued = CUED[name]
    assert not without_cue(parser.parse(cued.pattern.pattern, cued.pattern.flags), {""}, cued.cues)


def test_a_cue_that_a_match_may_lack_is_found_out() -> None:
    for pattern, cues in (
        (r"colou?r", ("our",)),
        (r"a|b", ("a",)),
        (r"x[- ]?ray", ("xray", "x-ray")),
    ):
        assert without_cue(parser.parse(pattern), {""}, cues)
    for pattern, cues in (
        (r"colou?r", ("ol",)),
        (r"man|male", ("ma",)),
        (r"(?:T[12])+", ("t1", "t2")),
    ):
        assert not without_cue(parser.parse(pattern, re.IGNORECASE), {""}, cues)


def test_a_cued_pattern_finds_what_the_pattern_finds() -> None:
    cued = Cued(r"\b(?:man|woman)\b", "man")
    for text in ("A WOMAN and a man", "many", "", "none", "ein ma\u0146", "\u017fo a man"):
        assert [m.span() for m in cued.finditer(text)] == [
            m.span() for m in cued.pattern.finditer(text)
        ]
        found, plain = cued.search(text), cued.pattern.search(text)
        assert (found and found.span()) == (plain and plain.span())


def test_one_look_for_all_cues_leaves_the_patterns_that_are_not_hopeless() -> None:
    patterns = list(CUED.values())[:12]
    cues = Cues(patterns)
    for text in ("Pulse 80/min, Na 140", "", "no cue", "pulso 80 \u0161", "heart rate of 12"):
        wanted = [i for i, cued in enumerate(patterns) if not cued.hopeless(text)]
        assert list(cues.among(text)) == wanted


def test_other_alphabets_are_always_searched() -> None:
    assert Cued("skin", "skin").search("the \u017fKIN") is not None  # a long s equals an s


def test_a_remembered_function_is_asked_once_for_a_short_text() -> None:
    asked: list[str] = []

    @remembered
    def length(text: str) -> int:
        asked.append(text)
        return len(text)

    long = "a" * (REMEMBERED_CHARS + 1)
    assert [length("ab"), length("ab"), length(long), length(long)] == [2, 2, len(long), len(long)]
    assert asked == ["ab", long, long]


DIGIT_PATTERNS = [p for p in identifiers._WITH_DIGITS if p.needs]


@pytest.mark.parametrize("pattern", DIGIT_PATTERNS, ids=lambda p: f"{p.kind}-{p.needs[0]}")
def test_what_an_identifier_needs_is_in_each_of_its_matches(pattern: Any) -> None:
    parsed = parser.parse(pattern.regex.pattern, pattern.regex.flags)
    assert not without_cue(inner(parsed), {""}, pattern.needs)


def inner(parsed: Any) -> Any:
    """A pattern with what it looks ahead to taken as part of it."""
    return [
        (codes.SUBPATTERN, (None, 0, 0, value[1]))
        if kind is codes.ASSERT and value[0] > 0
        else (kind, value)
        for kind, value in parsed
    ]


PIECES = (
    "MRN 00482913", "patient id: A1234", "acc # 77123", "123-45-6789", "555.123.4567", "(555) 123-4567", "13912345678",
    "+44 20 7946 0958", "phone: 1 2 3 4 5 6 7 8", "Tel 555 123", "2019-03-12", "12/03/2019", "on 3/4/19", "March 3rd, 2019",
    "3 of mar 2019", "2019年3月2日", "12 Main St", "4 Oak Ave.", "北京市长安街10号", "93-year-old", "99 yo", "101岁", "110101199003070134",
    "T1 500/15 ms", "SUV 12.5", "see 1 and 2", "MARCH", "ph000000-0-01", "\u017feen 1/2/20",
)  # fmt: skip


def test_what_is_tested_first_loses_no_identifier() -> None:
    draw = random.Random(7)
    for _ in range(3000):
        text = draw.choice([" ", "; ", "", "\n"]).join(draw.sample(PIECES, draw.randint(1, 3)))
        if draw.random() < 0.5:
            at = draw.randrange(len(text))
            text = text[:at] + draw.choice("0123456789- /.abSt") + text[at + draw.randint(0, 1) :]
        slow = [
            identifiers.Identifier(*match.span(p.group), p.kind)
            for p in identifiers._WITH_DIGITS
            for match in p.regex.finditer(text)
            if p.valid is None or p.valid(match)
        ]
        assert list(identifiers._search(text, identifiers._WITH_DIGITS)) == slow, text
