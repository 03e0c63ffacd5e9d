"""METEOR: words aligned by form, then by stem, then (if asked) by WordNet; F with recall at 9 to 1.

Source: Lavie & Agarwal, "METEOR: An Automatic Metric for MT Evaluation with High Levels of
Correlation with Human Judgments", WMT 2007: alpha 0.9, beta 3, gamma 0.5. The alignment takes words
from the last to the first, as NLTK does; it is not searched for the fewest crossings. `meteor` never
looks for WordNet, so a score does not depend on what is installed. 50 words take about 40 microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from infimed.core.errors import UsageError
from infimed.evaluation.metrics.stem import stem
from infimed.evaluation.metrics.words import tokens

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5

Synonyms = Callable[[str], Iterable[str]]
"""Word -> words of the same meaning, itself included."""


def _match(
    said: dict[int, str], right: dict[int, str], forms: Callable[[str], Iterable[str]]
) -> list[tuple[int, int]]:
    """Pairs of positions; matched words are taken out of both. The last free place wins."""
    places: dict[str, list[int]] = {}
    for at, word in right.items():
        places.setdefault(word, []).append(at)
    pairs = []
    for at in sorted(said, reverse=True):
        free = [place for form in forms(said[at]) if (place := places.get(form))]
        if free:
            pairs.append((at, max(free, key=lambda place: place[-1]).pop()))
    for mine, theirs in pairs:
        del said[mine], right[theirs]
    return pairs


def align(
    said: Sequence[str], right: Sequence[str], synonyms: Synonyms | None = None
) -> list[tuple[int, int]]:
    """Pairs (position in `said`, position in `right`) by rising first position."""
    left, gold = dict(enumerate(said)), dict(enumerate(right))
    pairs = _match(left, gold, lambda word: (word,))
    if left and gold:
        stems = {at: stem(word) for at, word in left.items()}
        gold_stems = {at: stem(word) for at, word in gold.items()}
        by_stem = _match(stems, gold_stems, lambda word: (word,))
        pairs += by_stem
        if synonyms is not None:
            # The original looks the stems up that are left, not the words.
            pairs += _match(stems, gold_stems, synonyms)
    return sorted(pairs)


def meteor_of(said: Sequence[str], right: Sequence[str], synonyms: Synonyms | None = None) -> float:
    """METEOR of two lists of lower-case words; 0 where nothing aligns."""
    pairs = align(said, right, synonyms)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(said), len(pairs) / len(right)
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    breaks = sum(
        (mine + 1, theirs + 1) != following for (mine, theirs), following in pairwise(pairs)
    )
    return mean * (1 - GAMMA * ((breaks + 1) / len(pairs)) ** BETA)


def meteor(answer: str, gold: str) -> float:
    """METEOR of normalised words, by form and stem."""
    return meteor_of(tokens(answer), tokens(gold))


@lru_cache(maxsize=1)
def wordnet_synonyms() -> Synonyms:
    """Words that share a WordNet synset with a word.

    Raises:
        UsageError: NLTK or its WordNet data is not installed.
    """
    try:
        from nltk.corpus import wordnet

        wordnet.synsets("lung")
    except (ImportError, LookupError) as error:
        raise UsageError(
            "METEOR with synonyms needs NLTK and its WordNet data",
            fix="pip install 'infimed[wordnet]' && python -m nltk.downloader wordnet, or use meteor",
        ) from error

    @lru_cache(maxsize=50_000)
    def of(word: str) -> frozenset[str]:
        named = {lemma.name() for synset in wordnet.synsets(word) for lemma in synset.lemmas()}
        return frozenset(name for name in named if "_" not in name) | {word}

    return of


def meteor_wordnet(answer: str, gold: str) -> float:
    """METEOR of normalised words, by form, stem and WordNet.

    Raises:
        UsageError: NLTK or its WordNet data is not installed.
    """
    return meteor_of(tokens(answer), tokens(gold), wordnet_synonyms())
