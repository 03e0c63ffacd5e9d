"""Metrics of texts against the libraries that define them, or a slow reference."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import sacrebleu
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

from infimed.evaluation.metrics.bleu import bleu_of_sums, ngram_counts, sentence_bleu
from infimed.evaluation.metrics.cider import Cider, cider
from infimed.evaluation.metrics.meteor import align, meteor, meteor_of
from infimed.evaluation.metrics.rouge import rouge_1, rouge_2, rouge_l
from infimed.evaluation.metrics.stem import stem

VOCABULARY = "lung lungs clear cleared effusion effusions left no acute disease heart stable"
WORDS = VOCABULARY.split()


def pairs(count: int, least: int = 1, most: int = 14) -> list[tuple[str, str]]:
    rng = random.Random(count)
    draw = lambda: " ".join(rng.choices(WORDS, k=rng.randint(least, most)))  # noqa: E731
    return [(draw(), draw()) for _ in range(count)]


def test_the_stemmer_equals_nltks() -> None:
    rng = random.Random(0)
    theirs = PorterStemmer()
    ends = [
        "",
        "ing",
        "ed",
        "ies",
        "ied",
        "ational",
        "bli",
        "alli",
        "fulli",
        "logi",
        "ement",
        "ion",
    ]
    ends += ["eed", "y", "ll", "s", "sses", "ization", "ousness", "iviti", "icate", "ative", "ence"]
    for _ in range(3000):
        word = "".join(rng.choices("aeioytlsbngedrz", k=rng.randint(1, 8))) + rng.choice(ends)
        assert stem(word) == theirs.stem(word), word
    for word in ("sky", "skies", "dying", "news", "proceed", "dies", "falling", "hopping", "is"):
        assert stem(word) == theirs.stem(word)


def test_meteor_equals_nltks_without_synonyms() -> None:
    class NoSynonyms:
        def synsets(self, word: str) -> list[object]:
            return []

    for said, right in pairs(200):
        expected = single_meteor_score(right.split(), said.split(), wordnet=NoSynonyms())
        assert meteor_of(said.split(), right.split()) == pytest.approx(expected, abs=1e-12)


def test_synonyms_align_what_form_and_stem_leave() -> None:
    same = {"heart": ["heart", "cor"]}
    find = lambda word: same.get(word, [word])  # noqa: E731
    assert align(["heart", "big"], ["big", "cor"], find) == [(0, 1), (1, 0)]
    assert align(["heart", "big"], ["big", "cor"]) == [(1, 0)]


def test_rouge_equals_the_reference_package() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for said, right in pairs(100):
        found = scorer.score(right, said)
        ours = (rouge_1(said, right), rouge_2(said, right), rouge_l(said, right))
        theirs = [found[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
        assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_of_a_set_equals_sacrebleu(order: int) -> None:
    texts = pairs(40)
    sums = np.sum([ngram_counts(*pair) for pair in texts], axis=0, dtype=np.float64)
    theirs = sacrebleu.BLEU(smooth_method="none", tokenize="none", max_ngram_order=order)
    expected = theirs.corpus_score([a for a, _ in texts], [[b for _, b in texts]]).score
    assert float(bleu_of_sums(sums, order)) == pytest.approx(expected / 100, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_of_an_answer_equals_sacrebleu_with_one_added(order: int) -> None:
    theirs = sacrebleu.BLEU(
        smooth_method="add-k", smooth_value=1, tokenize="none", max_ngram_order=order
    )
    for said, right in pairs(60, least=4):
        if set(said.split()) & set(right.split()):
            expected = theirs.sentence_score(said, [right]).score / 100
            assert sentence_bleu(said, right, order) == pytest.approx(expected, abs=1e-9)


def test_a_right_answer_of_one_word_has_a_bleu_of_one() -> None:
    assert sentence_bleu("Lung.", "lung", 4) == 1.0
    assert sentence_bleu("", "lung", 4) == sentence_bleu("lung", "", 4) == 0.0


def test_bleu_of_no_gold_text_is_undefined_and_of_no_answer_zero() -> None:
    assert math.isnan(bleu_of_sums(np.zeros(10), 4))
    assert bleu_of_sums(np.array(ngram_counts("", "left lung"), dtype=float), 4) == 0.0


def slow_cider(said: list[str], right: list[str], golds: list[list[str]]) -> float:
    def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def weight(gram: tuple[str, ...], n: int) -> float:
        holding = sum(gram in grams(gold, n) for gold in golds)
        return math.log(len(golds)) - math.log(max(1, holding))

    total = 0.0
    for n in (1, 2, 3, 4):
        a, b = grams(said, n), grams(right, n)
        a_vector = {gram: count * weight(gram, n) for gram, count in a.items()}
        b_vector = {gram: count * weight(gram, n) for gram, count in b.items()}
        norm = math.hypot(*a_vector.values(), 0) * math.hypot(*b_vector.values(), 0)
        dot = sum(min(v, b_vector.get(g, 0)) * b_vector.get(g, 0) for g, v in a_vector.items())
        total += dot / norm if norm else 0.0
    gap = max(0, len(said) - 1) - max(0, len(right) - 1)
    return 10 * total / 4 * math.exp(-(gap**2) / 72)


def test_cider_equals_a_slow_reference() -> None:
    texts = [(a.split(), b.split()) for a, b in pairs(12)]
    golds = [gold for _, gold in texts]
    scorer = Cider(golds)
    for said, right in texts:
        assert scorer.score(said, right) == pytest.approx(slow_cider(said, right, golds))


def test_cider_is_ten_for_gold_texts_and_zero_for_none() -> None:
    golds = ["clear lungs and heart", "left effusion is small now", "no disease"]
    assert cider(golds[:2], golds[:2]) == pytest.approx([10.0, 10.0])
    assert cider(["", "", ""], golds) == [0.0, 0.0, 0.0]
    assert cider([], []) == []


def test_chinese_texts_are_read_by_characters() -> None:
    assert rouge_1("左肺积液", "右肺积液") == 0.75
    assert rouge_l("肺部积液", "积液") == pytest.approx(2 / 3)
    assert sentence_bleu("肺部", "肺部", 4) == 1.0
    assert 0 < meteor("左肺积液", "右肺积液") < 1
