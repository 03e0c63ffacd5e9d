"""Every rule is run on its own examples, and on records it has never seen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.curation.findings import DIMENSIONS
from infimed.curation.rubric import RECORD_RULES, RULE_FAILED, default_rubric
from infimed.curation.rules.base import CLEAN_IMAGE, Rule, caption, sample
from infimed.curation.signals import ImageSignals, Signals, record_modality
from infimed.curation.text_signals import measure_text
from infimed.data.record import TASKS, ImageRef, Message, Record

RULES = {rule.id: rule for rule in RECORD_RULES}


def judged(record: Record, images: tuple[ImageSignals, ...] | None = None) -> set[str]:
    """Ids of the rules that would drop a record with clean images."""
    shown = (CLEAN_IMAGE,) * len(record.images) if images is None else images
    signals = Signals(measure_text(record), shown, record_modality(record))
    found = default_rubric().judge(record, signals)
    assert not [f for f in found if f.evidence.startswith(RULE_FAILED)]
    return {f.rule for f in found if f.severity == "drop"}


@pytest.mark.parametrize("rule", RECORD_RULES, ids=lambda rule: rule.id)
def test_the_failing_example_is_found_and_the_passing_one_is_not(rule: Rule) -> None:
    for example, found in ((rule.passes, False), (rule.fails, True)):
        signals = example.signals()
        limits = rule.limits(signals.modality, example.record.task)
        assert (rule.apply(example.record, signals, limits) is not None) is found


@pytest.mark.parametrize("rule", RECORD_RULES, ids=lambda rule: rule.id)
def test_the_passing_example_is_dropped_by_no_other_rule(rule: Rule) -> None:
    example = rule.passes
    assert not judged(example.record, example.images or None) - {rule.id}


def test_every_dimension_has_at_least_two_rules_and_every_id_names_its_dimension() -> None:
    rules = default_rubric().all_rules
    assert len({rule.id for rule in rules}) == len(rules)
    assert all(rule.id.startswith(f"{rule.dimension}.") for rule in rules)
    assert all(sum(rule.dimension == name for rule in rules) >= 2 for name in DIMENSIONS)


_CLEAN = [
    caption(
        "Contrast‐enhanced CT images demonstrated thickening of the bowel wall. (Yellow arrows)."
    ),
    caption("Chest roentgenogram with an elevated left hemidiaphragm and a shift to the right."),
    caption("Abdominal CT; MRI is recommended for follow-up.", facts={"modality": "CT"}),
    caption("T1 MRI of the knee of a 51-year-old man, p53, SpO2 98 %, EF 55 %, -20 HU, 38.5 °C."),
    sample("Is this a MRI of the chest?", "no", facts={"modality": "CT"}),
    sample("Is the uterus visible?", "no", facts={"sex": "M"}),
    sample("To which side is the trachea deviated, left or right?", "right", "open"),
    sample("Is the lesion on the left?", "No, on the right"),
    sample("What is there in the left lung that is not in the right?", "a left mass", "open"),
    sample("Is the lung normal?", "No, there is an effusion."),
    sample("Which is right?", "left lung", "choice", choices=("left lung", "right lung")),
    sample("What stage is it?", "+", "choice", choices=("+", "-")),
    sample("What is the spherical equivalent?", "-1", "choice", choices=("-1", "+1", "1")),
    sample("胸部有积液吗？", "有", "closed"),
    sample("Which hepatitis is it?", "Hepatitis A", "open"),
    caption("影像显示右肺上叶结节，边界清楚。"),
]


@pytest.mark.parametrize("record", _CLEAN, ids=lambda r: r.response[:30])
def test_clean_records_that_look_suspicious_are_kept(record: Record) -> None:
    assert judged(record) == set()


_DEFECTS = [
    ("accuracy.modality_word", caption("Axial MRI of the brain.", image_facts={"modality": "CT"})),
    ("accuracy.modality_word", sample("Is this an MRI?", "yes", facts={"modality": "CT"})),
    (
        "accuracy.modality_word",
        sample("What is seen in this chest x-ray?", "mass", "open", facts={"modality": "MR"}),
    ),
    ("accuracy.impossible_value", caption("Lesion of 9000 HU in the liver.")),
    ("accuracy.impossible_value", caption("Patient with BP 80/120 and a mass.")),
    (
        "accuracy.side_word",
        sample(
            "Is the mass in the left lung?",
            "yes",
            facts={"side": "right", "question_type": "laterality"},
        ),
    ),
    (
        "accuracy.side_word",
        sample("On which side is it, left or right?", "right", "open", facts={"side": "left"}),
    ),
    ("consistency.polarity", sample("Is there an effusion?", "No, there is a large effusion.")),
    ("completeness.placeholder", sample("<image> What is shown?", "lung", "open")),
    ("completeness.cut_text", caption("Chest CT with a mass (white arrow")),
    ("readability.mojibake", caption("5 Âµm section of the liver, patientâ€™s biopsy.")),
]


@pytest.mark.parametrize(
    ("rule", "record"), _DEFECTS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_defects_are_found_by_the_rule_for_them(rule: str, record: Record) -> None:
    assert rule in judged(record)


_TEXT = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(
            [
                "left",
                "right",
                "no",
                "yes",
                "CT",
                "MRI",
                "effusion",
                "(5",
                "cm)",
                "12",
                "mm",
                "<b>",
                "&amp;",
                "??",
                "the",
                "male",
                "uterus",
                "120%",
                "SpO2",
                "EF",
                "Findings:",
                "Impression:",
                "image",
                "2",
                "<image>",
                "µm",
                "9999",
                "HU",
                "A.",
                "B)",
                "years",
                "old",
                "70-year-old,",
                "胸部",
                "无",
                "。",
                "\x00",
            ]
        ),
        max_size=25,
    ).map(" ".join),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(TASKS),
    _TEXT,
    _TEXT,
    st.lists(_TEXT, max_size=4),
    st.integers(0, 3),
    st.dictionaries(
        st.sampled_from(
            [
                "modality",
                "side",
                "sex",
                "age",
                "anatomy",
                "finding",
                "finding_present",
                "finding_size_mm",
            ]
        ),
        st.one_of(
            st.text(max_size=8),
            st.integers(),
            st.booleans(),
            st.floats(),
            st.none(),
            st.just("left"),
            st.just("CT"),
        ),
    ),
)
def test_no_record_makes_a_rule_fail(task, question, answer, choices, images, facts) -> None:  # type: ignore[no-untyped-def]
    refs = tuple(ImageRef(f"{i}", "0" * 64, 64, 64, facts) for i in range(images))
    turns = (Message("user", (*range(images), question)), Message("assistant", (answer,)))
    record = Record("x", refs, turns, task, tuple(choices), answer, facts=facts)
    judged(record)


@settings(max_examples=60, deadline=None)
@given(_TEXT, _TEXT)
def test_evidence_spans_point_into_the_text_they_name(question: str, answer: str) -> None:
    record = sample(question, answer, "caption")
    signals = Signals(measure_text(record), (CLEAN_IMAGE,))
    for finding in default_rubric().judge(record, signals):
        text = {"question": record.question, "response": record.response}.get(finding.where)
        if finding.start >= 0 and text is not None:
            assert 0 <= finding.start < finding.end <= len(text)
