"""Records: valid, fair, and true to the image."""

from collections import Counter, defaultdict

import pytest

from infimed.data.phantom.catalogue import BY_KEY, MODALITIES
from infimed.data.phantom.drawing_lots import draw_patient
from infimed.data.phantom.patient import patient_records
from infimed.data.phantom.wording import article_for, length
from infimed.data.record import Record

PATIENTS = 2400


@pytest.fixture(scope="module")
def cases():
    out = []
    for index in range(PATIENTS):
        drawn = draw_patient(5, index)
        out.append((drawn, patient_records(drawn.images, drawn.changes, 5, index, 192, "train")))
    return out


@pytest.fixture(scope="module")
def records(cases):
    return [record for _, made in cases for record in made]


def close(count: int, total: int, share: float) -> bool:
    return abs(count - share * total) <= 4 * (total * share * (1 - share)) ** 0.5


def test_every_record_is_valid_and_round_trips(records):
    for record in records:
        assert record.problem() is None
    for record in records[:300]:
        assert Record.from_json(record.to_json()) == record


def test_record_ids_are_unique(records):
    assert len({record.id for record in records}) == len(records)


def test_there_are_8_to_12_records_per_image_on_average(cases):
    images = sum(len(drawn.images) for drawn, _ in cases)
    assert 8 <= sum(len(made) for _, made in cases) / images <= 13


@pytest.mark.parametrize("question_type", ["presence", "laterality", "modality"])
def test_closed_answers_are_even_for_every_wording(records, question_type):
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.task == "closed" and record.facts["question_type"] == question_type:
            asked[record.question.split(". ")[-1]][record.answer] += 1
    for question, answers in asked.items():
        assert set(answers) <= {"yes", "no"}
        assert close(answers["yes"], answers.total(), 0.5), (question, answers)


def test_stated_age_and_sex_do_not_move_the_answer(records):
    for word in ("woman", "man"):
        answers = Counter(
            r.answer
            for r in records
            if r.facts["question_type"] == "presence" and f"-year-old {word}." in r.question
        )
        assert answers.total() > 100 and close(answers["yes"], answers.total(), 0.5)


def test_modality_questions_are_at_most_a_quarter_of_closed_and_of_choice_questions(records):
    for task in ("closed", "choice"):
        types = Counter(r.facts["question_type"] for r in records if r.task == task)
        assert types["modality"] <= types.total() / 4


def test_the_right_option_cannot_be_told_from_the_options(records):
    """Given the set of options, every option is right equally often."""
    chosen: dict[tuple[str, tuple[str, ...]], Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.task == "choice":
            key = (record.question, tuple(sorted(record.choices)))
            chosen[key][record.choices.index(record.answer)] += 1
    for (question, options), answers in chosen.items():
        for position in range(len(options)):
            assert close(answers[position], answers.total(), 1 / len(options)), (question, answers)


def test_choice_options_stand_in_the_same_order_whatever_is_right(records):
    for record in records:
        if record.task == "choice" and record.facts["question_type"] in ("finding", "modality"):
            assert list(record.choices) == sorted(record.choices)


def test_a_finding_choice_has_exactly_one_present_option(cases):
    for drawn, made in cases:
        truths = {truth.image_id: truth for truth in drawn.images}
        for record in made:
            if record.task != "choice" or record.facts["question_type"] != "finding":
                continue
            truth = truths[record.images[0].locator.split("/")[1].removesuffix(".png")]
            true = [
                choice
                for choice in record.choices
                if any(
                    choice.startswith(truth.kind.kind(f.key).name)
                    and (
                        choice == truth.kind.kind(f.key).name
                        or f" {truth.kind.side_of(f.half)} " in choice
                    )
                    for f in truth.findings
                )
            ]
            assert true == [record.answer]


def test_sides_follow_the_radiological_convention(cases):
    for drawn, made in cases:
        truths = {truth.image_id: truth for truth in drawn.images}
        for record in made:
            if record.facts["question_type"] == "laterality" and record.task == "open":
                truth = truths[record.images[0].locator.split("/")[1].removesuffix(".png")]
                kind = next(k for k in truth.kind.findings if k.name == record.facts["finding"])
                half = truth.finding(kind.key).half
                opposite = "left" if half == "right" else "right"
                assert record.answer == (opposite if truth.kind.radiological else half)


def test_small_facts_agree_with_the_size_and_absent_findings_state_the_nominal_one(records):
    kinds = {kind.name: kind for modality in MODALITIES for kind in modality.findings}
    for record in records:
        facts = record.facts
        if "finding" not in facts:
            continue
        kind = kinds[facts["finding"]]
        assert facts["small"] == (facts["finding_size_fraction"] < 0.04) == kind.small
        if facts["question_type"] == "presence" and record.answer == "no":
            assert facts["finding_size_fraction"] == kind.midpoint


def test_size_in_mm_is_the_fraction_times_pixels_times_spacing(records):
    for record in records:
        if "finding_size_mm" in record.facts:
            image = record.images[-1]
            spacing = image.facts["pixel_spacing_mm"][0]
            expected = record.facts["finding_size_fraction"] * image.width * spacing
            assert abs(record.facts["finding_size_mm"] - expected) < 0.01


def test_sizes_are_asked_only_where_they_were_drawn_evenly(cases):
    for drawn, made in cases:
        if len(drawn.images) == 2:
            assert not any(record.facts["question_type"] == "size" for record in made)


def test_comparisons_show_the_prior_first(cases):
    for drawn, made in cases:
        for record in made:
            if record.facts["question_type"] == "comparison":
                names = [f"images/{truth.image_id}.png" for truth in drawn.images]
                assert [image.locator for image in record.images] == names


def test_reports_state_or_deny_every_finding(cases):
    for drawn, made in cases[:300]:
        for record in made:
            if record.task == "report":
                for kind in BY_KEY[drawn.images[0].modality].findings:
                    assert (
                        kind.name.lower() in record.response.lower()
                        or kind.plural in record.response
                    )


def test_lengths_are_rounded_with_their_unit():
    by_key = {modality.key: modality for modality in MODALITIES}
    assert length(by_key["chest_radiograph"], 0.15) == "60 mm"
    assert length(by_key["brain_mri"], 0.03) == "7 mm"
    assert length(by_key["fundus_photograph"], 0.1) == "1.2 mm"
    assert length(by_key["histology"], 0.2) == "100 µm"


def test_articles():
    assert [article_for(w) for w in ("axial CT", "H&E slide", "AP view", "PA view")] == [
        "an",
        "an",
        "an",
        "a",
    ]
