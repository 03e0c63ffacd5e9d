"""The lots: nothing can be guessed, and positions are where they claim to be."""

from collections import Counter

import pytest

from infimed.data.phantom.catalogue import MODALITIES
from infimed.data.phantom.drawing_lots import CHANGES, draw_patient

PATIENTS = 3000


@pytest.fixture(scope="module")
def drawn():
    return [draw_patient(11, index) for index in range(PATIENTS)]


def close(count: int, total: int, share: float) -> bool:
    """Within four standard errors."""
    return abs(count - share * total) <= 4 * (total * share * (1 - share)) ** 0.5


def test_every_finding_is_present_in_half_of_the_prior_and_of_the_current_images(drawn):
    for modality in MODALITIES:
        for time in (0, 1):
            images = [
                p.images[time]
                for p in drawn
                if p.images[0].modality == modality.key and len(p.images) == 2
            ]
            for kind in modality.findings:
                there = sum(image.finding(kind.key) is not None for image in images)
                assert close(there, len(images), 0.5), (kind.key, time, there, len(images))


def test_findings_are_present_independently_of_each_other_and_of_the_patient(drawn):
    for modality in MODALITIES:
        images = [p.images[-1] for p in drawn if p.images[0].modality == modality.key]
        for kind in modality.findings:
            for split in (
                lambda t: t.sex == "F",
                lambda t: t.age > 55,
                lambda t: t.acquisition.view == t.kind.views[0],
                lambda t, m=modality, k=kind: t.finding(
                    m.findings[(m.findings.index(k) + 1) % 4].key
                ),
            ):
                group = [t for t in images if split(t)]
                there = sum(t.finding(kind.key) is not None for t in group)
                assert close(there, len(group), 0.5), kind.key


def test_halves_and_free_levels_are_even(drawn):
    halves: Counter[tuple[str, str]] = Counter()
    levels: Counter[tuple[str, int]] = Counter()
    for patient in drawn:
        for finding in patient.images[-1].findings:
            halves[finding.key, finding.half] += 1
            levels[finding.key, finding.level] += 1
    for modality in MODALITIES:
        for kind in modality.findings:
            both = halves[kind.key, "left"] + halves[kind.key, "right"]
            assert close(halves[kind.key, "left"], both, 0.5)
            assert close(levels[kind.key, 0], both, 0.5)


def test_changes_between_prior_and_current_are_even_for_large_findings(drawn):
    small = {kind.key for modality in MODALITIES for kind in modality.findings if kind.small}
    changes = Counter(change for p in drawn for key, change in p.changes if key not in small)
    for change in CHANGES:
        assert close(changes[change], changes.total(), 0.2), changes


def test_changes_agree_with_the_two_images(drawn):
    for patient in drawn:
        if len(patient.images) == 1:
            assert not patient.changes
            continue
        prior, current = patient.images
        for key, change in patient.changes:
            before, now = prior.finding(key), current.finding(key)
            if change == "new":
                assert before is None and now is not None
            elif change == "resolved":
                assert before is not None and now is None
            else:
                assert before is not None and now is not None
                assert before.half == now.half and before.count == now.count
                ratio = now.size_fraction / before.size_fraction
                assert {"larger": ratio > 1.4, "smaller": ratio < 0.72, "unchanged": ratio == 1}[
                    change
                ]


def test_every_lesion_lies_in_its_half_and_inside_the_image(drawn):
    for patient in drawn:
        for truth in patient.images:
            for finding in truth.findings:
                for ellipse in finding.ellipses:
                    assert (ellipse.x > 0.5) == (finding.half == "right"), finding
                    x0, y0, x1, y1 = ellipse.box
                    assert min(x0, y0) > -0.02 and max(x1, y1) < 1.02, finding


def test_small_findings_have_as_many_lesions_as_counted_and_the_size_stated(drawn):
    for patient in drawn:
        for truth in patient.images:
            for finding in truth.findings:
                if truth.kind.kind(finding.key).small:
                    assert len(finding.ellipses) == finding.count
                    for ellipse in finding.ellipses:
                        assert abs(2 * ellipse.rx - finding.size_fraction) < 1e-3


def test_clinics_of_different_seeds_share_nothing():
    ours, theirs = draw_patient(1, 0), draw_patient(2, 0)
    assert ours.patient_id != theirs.patient_id
    assert ours.images[0].anatomy_seed != theirs.images[0].anatomy_seed
    assert ours.images[0].noise_seed != theirs.images[0].noise_seed
