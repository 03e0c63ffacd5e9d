"""What a score is worth without looking: answers that need no image and no model.

Each control learns from the task's training records only and answers like a model would, through
the same extractors and metrics. Image-zeroed, low-grid and trained-blind runs are models asked in
another way (`runner.evaluate`), not controls of this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream
from infimed.evaluation.metrics.words import normalise, tokens
from infimed.evaluation.sample import SEED, Sample

MAX_ROWS = 4000
MAX_FEATURES = 2000
MAX_ANSWERS = 400
ITERATIONS = 150
RIDGE = 1e-3
"""L2 penalty of the question-only model, per training question."""


def _texts(sample: Sample, answer: str) -> str:
    """An answer as a model would write it: the letter of an option, else the text."""
    if not sample.order:
        return answer
    return chr(ord("A") + sample.options.index(answer))


def _best(counts: Counter[str], sample: Sample) -> str | None:
    """The most frequent answer that this sample admits; ties go to the alphabet."""
    allowed = (
        [option for option in sample.options if counts[option]] if sample.order else list(counts)
    )
    return min(allowed, key=lambda answer: (-counts[answer], answer)) if allowed else None


def _spellings(train: Sequence[Sample]) -> dict[str, str]:
    """Normalised answer -> its most frequent spelling."""
    spelt: dict[str, Counter[str]] = {}
    for sample in train:
        spelt.setdefault(normalise(sample.gold), Counter())[sample.gold] += 1
    return {key: min(c, key=lambda text: (-c[text], text)) for key, c in spelt.items()}


def _canonical(sample: Sample, spellings: dict[str, str]) -> str:
    return sample.gold if sample.order else spellings[normalise(sample.gold)]


def majority_answers(
    train: Sequence[Sample], test: Sequence[Sample], *, by_type: bool
) -> list[str]:
    """The most frequent training answer of the same kind (and question type), per test sample.

    For choices it is the option that is most often right in training; where none of the options was
    ever seen, the first letter.
    """
    spellings = _spellings(train)
    counts: dict[tuple[str, str], Counter[str]] = {}
    for sample in train:
        answer = _canonical(sample, spellings)
        for key in {(sample.kind, ""), (sample.kind, sample.type)}:
            counts.setdefault(key, Counter())[answer] += 1
    answers = []
    for sample in test:
        typed = counts.get((sample.kind, sample.type)) if by_type else None
        general = counts.get((sample.kind, ""), Counter())
        best = (_best(typed, sample) if typed else None) or _best(general, sample)
        answers.append(
            "A" if best is None and sample.order else _texts(sample, best) if best else ""
        )
    return answers


def question_features(questions: Sequence[str], vocabulary: dict[str, int]) -> NDArray[np.float32]:
    """Bags of words and word pairs, [n, len(vocabulary) + 1], unit length plus a constant."""
    out = np.zeros((len(questions), len(vocabulary) + 1), np.float32)
    for row, question in enumerate(questions):
        for term in _terms(question):
            if term in vocabulary:
                out[row, vocabulary[term]] = 1.0
    norms = np.linalg.norm(out, axis=1, keepdims=True)
    np.divide(out, norms, out=out, where=norms > 0)
    out[:, -1] = 1.0
    return out


def _terms(question: str) -> set[str]:
    said = tokens(question)
    return {*said, *(f"{a} {b}" for a, b in pairwise(said))}


def fit_logistic(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    count: int,
    *,
    iterations: int = ITERATIONS,
) -> NDArray[np.float32]:
    """Weights [features, classes] of a multinomial logistic regression with an L2 penalty.

    Nesterov's accelerated gradient with the step 1/L, L = sigma_max^2 / (2n) + RIDGE (Boehning 1992).
    """
    rows = len(features)
    gram = features.T @ features if features.shape[1] < rows else features @ features.T
    vector = np.ones(len(gram), np.float32)
    for _ in range(30):  # power iteration: the largest squared singular value, a little from below
        vector = (gram @ vector / np.linalg.norm(vector)).astype(np.float32)
    vector /= np.linalg.norm(vector)
    lipschitz = 1.1 * float(vector @ gram @ vector) / (2 * rows) + RIDGE
    targets = np.zeros((rows, count), np.float32)
    targets[np.arange(rows), classes] = 1.0
    weights = np.zeros((features.shape[1], count), np.float32)
    ahead = weights
    for step in range(iterations):
        logits = features @ ahead
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        odds /= odds.sum(axis=1, keepdims=True)
        gradient = features.T @ (odds - targets) / rows + RIDGE * ahead
        new = ahead - gradient / lipschitz
        ahead = new + (step / (step + 3)) * (new - weights)
        weights = new
    return weights


def question_only_answers(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """Answers of a linear model that reads the question and never sees an image, per test sample.

    One model per kind (closed, open, choice), over the training answers of that kind.
    """
    answers = [""] * len(test)
    for kind in sorted({sample.kind for sample in test}):
        places = [index for index, sample in enumerate(test) if sample.kind == kind]
        taught = [sample for sample in train if sample.kind == kind]
        for index, answer in zip(places, _linear(taught, [test[i] for i in places]), strict=True):
            answers[index] = answer
    return answers


def _linear(train: list[Sample], test: list[Sample]) -> list[str]:
    if not train:
        return ["A" if sample.order else "" for sample in test]
    if len(train) > MAX_ROWS:
        drawn = stream(SEED, "question-only").permutation(len(train))[:MAX_ROWS]
        train = [train[index] for index in sorted(drawn.tolist())]
    spellings = _spellings(train)
    said = [_canonical(sample, spellings) for sample in train]
    names = [
        answer for answer, _ in sorted(Counter(said).items(), key=lambda item: (-item[1], item[0]))
    ]
    names = names[:MAX_ANSWERS]
    number = {answer: index for index, answer in enumerate(names)}
    known = [index for index, answer in enumerate(said) if answer in number]
    terms = Counter(term for index in known for term in _terms(train[index].record.question))
    common = sorted(terms, key=lambda term: (-terms[term], term))[:MAX_FEATURES]
    vocabulary = {term: index for index, term in enumerate(common)}
    features = question_features([train[index].record.question for index in known], vocabulary)
    classes = np.array([number[said[index]] for index in known])
    weights = fit_logistic(features, classes, len(names))
    scores = question_features([sample.record.question for sample in test], vocabulary) @ weights
    return [_choose(sample, names, number, row) for sample, row in zip(test, scores, strict=True)]


def _choose(
    sample: Sample, names: list[str], number: dict[str, int], scores: NDArray[np.float32]
) -> str:
    if not sample.order:
        return names[int(scores.argmax())]
    ranked = [
        (float(scores[number[option]]) if option in number else -np.inf, -at, option)
        for at, option in enumerate(sample.options)
    ]
    return _texts(sample, max(ranked)[2])


def control_answers(name: str, train: Sequence[Sample], test: Sequence[Sample]) -> list[str] | None:
    """A control's answers by its name, or None when there is nothing to learn from."""
    if not train:
        return None
    if name == "question-only linear":
        return question_only_answers(train, test)
    return majority_answers(train, test, by_type=name == "majority by type")
