"""Whether two questions ask the same."""

from __future__ import annotations

import pytest

from infimed.matching.questions import Question, QuestionIndex, content_words, question_match

VIGNETTE = Question(
    "A 45-year-old man presents with fever and a productive cough. A radiograph shows a "
    "consolidation of the right lower lobe. Which organism is the most likely cause?",
    ("Streptococcus pneumoniae", "Klebsiella pneumoniae", "Aspergillus fumigatus", "Candida"),
)


def test_shuffled_options_do_not_hide_a_question() -> None:
    shuffled = Question(VIGNETTE.text, VIGNETTE.choices[::-1])
    match = question_match(VIGNETTE, shuffled)
    assert match is not None and (match.kind, match.score) == ("options reordered", 1.0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Is there a pleural effusion?", "Can any pleural effusion be seen?"),
        ("What modality was used to take this image?", "Which modality was used?"),
        ("Is the haemorrhage in the left thalamus?", "Left thalamus hemorrhage: is it present?"),
        (
            "Which abnormality does the chest X-ray show?",
            "What abnormality is on the chest radiograph?",
        ),
        ("左肺是否有结节?", "左肺有没有结节?"),
    ],
)
def test_other_words_for_one_question_are_recognised(a: str, b: str) -> None:
    match = question_match(Question(a), Question(b), least=0.5)
    assert match is not None and match.kind == "paraphrased"
    back = question_match(Question(b), Question(a), least=0.5)
    assert back is not None and back.score == match.score


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("right", "left"),
        ("45", "65"),
        ("most likely", "not the"),
        ("A radiograph", "No radiograph"),
    ],
)
def test_another_side_number_or_negation_asks_something_else(old: str, new: str) -> None:
    assert (
        question_match(VIGNETTE, Question(VIGNETTE.text.replace(old, new), VIGNETTE.choices))
        is None
    )


def test_the_same_words_with_other_options_are_not_the_same_exam_question() -> None:
    other = Question("Which of these is true?", ("a", "b"))
    assert question_match(Question("Which of these is true?", ("c", "d")), other) is None


def test_the_index_finds_its_question_among_many() -> None:
    many = [Question(f"What does finding number {n} of organ {n % 7} mean?") for n in range(500)]
    index = QuestionIndex([*many, VIGNETTE])
    reworded = Question(
        VIGNETTE.text.replace("presents with", "comes in with").replace("shows", "reveals"),
        VIGNETTE.choices[2:] + VIGNETTE.choices[:2],
    )
    assert [number for number, _ in index.matches(reworded)] == [500]
    assert [number for number, _ in index.matches(many[3])] == [3]


def test_a_question_of_scaffolding_alone_keeps_its_words() -> None:
    assert content_words("What is this?") and not content_words("")
    assert QuestionIndex([]).matches(Question("Is there an effusion?")) == []
