"""Whether two questions ask the same, in other words and with the options in another order.

A question is its content words (scaffolding such as "is there" or "in this image" left out, simple
stems, spelling variants folded) and the set of its options. Sides, negations and numbers must agree
as sets: they make another question however alike the words are.

Cost: about 20 microseconds a question to index, 30 a compared pair.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from infimed.matching.text import jaccard, normalise, normalise_answer, shingles

PARAPHRASED: Final = 0.65
"""Score above which two questions count as one; see `question_match`."""

MOST_CANDIDATES: Final = 50

_WORTH_SPELLING: Final = 0.3
"""Overlap of content words that makes a comparison of the characters worth its time."""

_RARE_WORDS: Final = 6
_POSTINGS: Final = 200

_SCAFFOLD_WORDS: Final = """
    a an the this that these those is are was were be been being do does did can could will would
    should may might have has had there here it its of in on at by for from to with and or as into
    what which where when who how why whether any some following one
    image picture scan figure photo photograph shown show see seen visible evident present appear
    demonstrate demonstrated depicted depict displayed display visualized identify identified
    observed observe noted note please tell me you your based given regarding likely most best
    describe described description find found possible correct statement option answer select choose
    patient indicate indicated
"""
_SCAFFOLD: Final = frozenset(_SCAFFOLD_WORDS.split())

_SPELLINGS: Final = (
    (re.compile(r"\b(?:x ray|xray|radiographs?|radiography|roentgenograms?)\b"), "xray"),
    (re.compile(r"\b(?:computed|computerized) tomograph(?:y|ic)\b|\bcat scan\b"), "ct"),
    (re.compile(r"\bmagnetic resonance(?: imaging)?\b|\bmr\b"), "mri"),
    (re.compile(r"\b(?:ultrasonograph(?:y|ic)|sonograph(?:y|ic)|sonogram)\b"), "ultrasound"),
    (re.compile(r"haem"), "hem"),
    (re.compile(r"oedem"), "edem"),
    (re.compile(r"tumour"), "tumor"),
    (re.compile(r"oesoph"), "esoph"),
    (re.compile(r"isation\b"), "ization"),
)

_DECIDING: Final = re.compile(
    r"(?<![a-z])(?:left|right|bilateral|both|no|not|without|except|never|absent|least|false|cannot)(?![a-z])"
    r"|n't(?![a-z])|\d+(?:\.\d+)?|[左右双不无没非未]"
)
_WHETHER: Final = re.compile(r"有没有|是否存在|是否有|是否|有无|是不是|能不能|能否|可否")
"""Chinese for "whether": it holds a negation, but denies nothing."""
_IDEOGRAPHS: Final = re.compile(r"[\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its options, in any order."""

    text: str
    choices: tuple[str, ...] = ()

    @property
    def chars(self) -> int:
        """Characters of text and options: how much there is to coincide by chance."""
        return len(self.text) + sum(map(len, self.choices))


@dataclass(frozen=True, slots=True)
class QuestionMatch:
    """How two questions agree: "same question", "options reordered" or "paraphrased", and 0..1."""

    kind: str
    score: float


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending, least in (("ing", 6), ("ed", 5), ("es", 5), ("s", 4)):
        if word.endswith(ending) and len(word) >= least and not word.endswith(("ss", "us", "is")):
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 4 else word


@lru_cache(maxsize=1 << 15)
def content_words(text: str) -> frozenset[str]:
    """Stems of the words that carry the question; ideographs as pairs of neighbours."""
    spelled = normalise(_WHETHER.sub("有", text))
    for pattern, replacement in _SPELLINGS:
        spelled = pattern.sub(replacement, spelled)
    found: set[str] = set()
    for run in _IDEOGRAPHS.findall(spelled):
        found.update(run[i : i + 2] for i in range(max(1, len(run) - 1)))
    words = _IDEOGRAPHS.sub(" ", spelled).split()
    found.update(_stem(word) for word in words if word not in _SCAFFOLD)
    return frozenset(found or words)


@lru_cache(maxsize=1 << 15)
def _deciding(text: str) -> frozenset[str]:
    stated = _WHETHER.sub("有", text.casefold().replace("cannot", "not"))
    return frozenset(_DECIDING.findall(stated))


_shingles = lru_cache(maxsize=1 << 13)(shingles)


@lru_cache(maxsize=1 << 15)
def _options(choices: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(normalise_answer, choices))


def _overlap(a: frozenset[str], b: frozenset[str], weight: Mapping[str, float]) -> float:
    common = sum(weight.get(word, 1.0) for word in a & b)
    everything = sum(weight.get(word, 1.0) for word in a | b)
    return common / everything if everything else 0.0


def question_match(
    a: Question, b: Question, weight: Mapping[str, float] | None = None, least: float = PARAPHRASED
) -> QuestionMatch | None:
    """How two questions agree, or None.

    Args:
        weight: of content words, rare ones more; 1 each when None.
        least: score that counts as a paraphrase. The score is the weighted overlap of content words
            or, where that is considerable, the similarity of the characters if it is larger, and where both have options
            two fifths of it are the overlap of the option sets.
    """
    one, two = _options(a.choices), _options(b.choices)
    if normalise(a.text) == normalise(b.text) and (not one or not two or one == two):
        reordered = bool(one) and bool(two) and a.choices != b.choices
        return QuestionMatch("options reordered" if reordered else "same question", 1.0)
    if _deciding(a.text) != _deciding(b.text):
        return None
    words = _overlap(content_words(a.text), content_words(b.text), weight or {})
    score = words
    if words >= _WORTH_SPELLING and words < 1:
        score = max(words, jaccard(_shingles(a.text), _shingles(b.text)))
    if one and two:
        score = 0.6 * score + 0.4 * len(one & two) / len(one | two)
    return QuestionMatch("paraphrased", round(score, 4)) if score >= least else None


class QuestionIndex:
    """Questions that can be found by their rarest words. See the module docstring."""

    def __init__(self, questions: Sequence[Question], others: Iterable[Question] = ()) -> None:
        """Index `questions`; `others` count for how rare a word is."""
        self.questions = questions
        counts: Counter[str] = Counter()
        total = 0
        for question in (*questions, *others):
            counts.update(self._words(question))
            total += 1
        self.weight = {word: math.log((total + 1) / (n + 0.5)) for word, n in counts.items()}
        self._exact: dict[str, list[int]] = {}
        self._words_of: dict[str, list[int]] = {}
        for number, question in enumerate(questions):
            self._exact.setdefault(normalise(question.text), []).append(number)
            for word in self._rarest(question):
                self._words_of.setdefault(word, []).append(number)

    @staticmethod
    def _words(question: Question) -> frozenset[str]:
        words = content_words(question.text)
        return words.union(*map(content_words, question.choices)) if question.choices else words

    def _rarest(self, question: Question) -> list[str]:
        words = self._words(question)
        return sorted(words, key=lambda w: (-self.weight.get(w, 0.0), w))[: 2 * _RARE_WORDS]

    def matches(
        self, question: Question, least: float = PARAPHRASED
    ) -> list[tuple[int, QuestionMatch]]:
        """Indexed questions that ask the same, by number; at most `MOST_CANDIDATES` are compared."""
        votes: defaultdict[int, float] = defaultdict(float)
        known = [word for word in self._rarest(question) if word in self._words_of]
        for place, word in enumerate(known[:_RARE_WORDS]):
            holders = self._words_of[word]
            if place and len(holders) > _POSTINGS:
                break
            for number in holders[:_POSTINGS]:
                votes[number] += self.weight[word]
        ranked = sorted(votes, key=lambda number: (-votes[number], number))
        same = self._exact.get(normalise(question.text), [])[:MOST_CANDIDATES]
        found = []
        for number in sorted({*same, *ranked[:MOST_CANDIDATES]}):
            match = question_match(question, self.questions[number], self.weight, least)
            if match is not None:
                found.append((number, match))
        return found
