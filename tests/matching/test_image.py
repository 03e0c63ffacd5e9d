"""Near-duplicate images."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from infimed.matching import proposing
from infimed.matching.alignment import (
    ROUGH_LOOKS,
    WHOLE,
    _grey_line,
    compare,
    differ_roughly,
    difference,
    rough_difference,
    turned,
)
from infimed.matching.fingerprint import (
    FINE,
    WHOLE_ONLY,
    coefficients,
    fingerprint,
    resemblance,
    turn,
    views,
)
from infimed.matching.image import (
    MAX_LOCAL_DIFFERENCE,
    cross_matches,
    near_image_groups,
    same_picture,
    thumbnail,
)
from infimed.matching.proposing import ProposalIndex, hints
from tests.curation.clinic import picture


def grey(seed: int, side: int = 256) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture(seed, side), cv2.COLOR_RGB2GRAY))


def grouped(images: list[NDArray[np.uint8]]) -> list[int]:
    codes = [fingerprint(image) for image in images]
    return [first for first, _ in near_image_groups(codes, lambda i: thumbnail(images[i]))]


def _copies(image: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    side = image.shape[0]
    trim = side // 20
    return {
        "jpeg 30": cv2.imdecode(cv2.imencode(".jpg", image, [1, 30])[1], 0),
        "resized": cv2.resize(image, (171, 171), interpolation=cv2.INTER_AREA),
        "brighter": np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8),
        "windowed": np.clip((image.astype(float) - 15) * 1.2, 0, 255).astype(np.uint8),
        "mirrored": np.ascontiguousarray(image[:, ::-1]),
        "upside down": np.ascontiguousarray(image[::-1]),
        "inverted": 255 - image,
        "cropped": np.ascontiguousarray(image[trim:-trim, trim:-trim]),
        "cropped at a corner": np.ascontiguousarray(image[trim:, : side - trim // 2]),
    }


@pytest.mark.parametrize("kind", list(_copies(np.zeros((40, 40), np.uint8))))
def test_copies_are_found(kind: str) -> None:
    images = [grey(seed) for seed in range(8)]
    assert grouped([*images, *(_copies(image)[kind] for image in images)]) == [*range(8), *range(8)]


def test_a_crop_is_found_whichever_of_the_two_comes_first() -> None:
    whole = grey(1)
    crop = _copies(whole)["cropped"]
    assert grouped([crop, whole]) == [0, 0]
    match = same_picture(
        (fingerprint(crop), thumbnail(crop)), (fingerprint(whole), thumbnail(whole))
    )
    assert match is not None and match.reversed and match.kind == "cropped"
    assert match.window == pytest.approx((12 / 256, 244 / 256) * 2, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("mirrored", "mirrored"), ("inverted", "inverted"), ("jpeg 30", "same picture")],
)
def test_the_kind_of_copy_is_named(kind: str, said: str) -> None:
    image = grey(2)
    copy = _copies(image)[kind]
    match = same_picture(
        (fingerprint(image), thumbnail(image)), (fingerprint(copy), thumbnail(copy))
    )
    assert match is not None and match.kind == said


def test_different_pictures_are_kept_apart() -> None:
    assert grouped([grey(seed) for seed in range(40)]) == list(range(40))


def test_a_new_small_lesion_makes_another_picture() -> None:
    for seed in range(4):
        image = grey(seed, 512)
        lesion = image.copy()
        shade = 255 if int(image[200, 300]) < 128 else 0
        cv2.circle(lesion, (300, 200), 6, shade, -1)
        (hint, *_) = hints(fingerprint(image), fingerprint(lesion))
        assert hint.similarity > proposing.MIN_SIMILARITY
        assert grouped([image, lesion]) == [0, 1]


def test_many_copies_of_one_picture_cost_one_comparison_each() -> None:
    loads: list[int] = []
    noise = np.random.default_rng(0)
    images = [
        np.clip(grey(seed % 3) + noise.normal(0, 2, (256, 256)), 0, 255).astype(np.uint8)
        for seed in range(60)
    ]

    def load(i: int) -> NDArray[np.uint8]:
        loads.append(i)
        return thumbnail(images[i])

    groups = near_image_groups([fingerprint(image) for image in images], load)
    assert [first for first, _ in groups] == [i % 3 for i in range(60)]
    assert len(loads) <= 70


def test_a_collection_that_is_mostly_one_picture_still_finds_all_its_copies() -> None:
    noise = np.random.default_rng(1)
    images = [grey(seed, 96) for seed in range(100)]
    copies = [
        np.clip(grey(200, 96) + noise.normal(0, 2, (96, 96)), 0, 255).astype(np.uint8)
        for _ in range(160)
    ]
    assert grouped([*images, *copies]) == [*range(100), *[100] * 160]


def test_images_known_to_be_apart_are_not_merged() -> None:
    code, small = fingerprint(grey(3)), thumbnail(grey(3))
    groups = near_image_groups([code, code], lambda i: small, apart=lambda first, second: True)
    assert [first for first, _ in groups] == [0, 1]


def test_an_unreadable_candidate_is_no_duplicate() -> None:
    code = fingerprint(grey(4))
    assert [first for first, _ in near_image_groups([code, code], lambda i: None)] == [0, 1]


def test_flat_images_and_empty_collections_are_handled() -> None:
    flat = np.zeros((64, 64), np.uint8)
    assert grouped([flat, flat]) == [0, 1]  # exact copies are the business of the pixel hash
    assert grouped([]) == []
    assert cross_matches([], [fingerprint(grey(1))], lambda i: None, lambda i: None) == []


def test_two_collections_are_matched_across_and_not_within() -> None:
    first = [grey(seed) for seed in range(5)]
    second = [_copies(grey(3))["mirrored"], grey(9), _copies(grey(0))["cropped"], grey(3)]
    found = cross_matches(
        [fingerprint(image) for image in first],
        [fingerprint(image) for image in second],
        lambda i: thumbnail(first[i]),
        lambda i: thumbnail(second[i]),
    )
    assert [(a, b) for a, b, _ in found] == [(0, 2), (3, 0), (3, 3)]
    assert [match.kind for _, _, match in found] == ["cropped", "mirrored", "same picture"]


def test_the_index_proposes_what_a_full_comparison_finds_most_similar() -> None:
    images = [grey(seed, 96) for seed in range(260)]
    images += [_copies(image)["mirrored"] for image in images[:40]]
    codes = [fingerprint(image) for image in images]
    whole = views(coefficients(codes), WHOLE_ONLY)[:, 0]
    slow = {
        (a, b)
        for a, b in itertools.permutations(range(len(codes)), 2)
        if resemblance(whole[a : a + 1], whole[b : b + 1])[0][0] >= 0.97
    }
    found = ProposalIndex(codes).proposals(codes, myself=True)
    assert slow <= set(zip(found.query.tolist(), found.found.tolist(), strict=True))
    assert found.similarity.min() >= proposing.MIN_SIMILARITY
    assert np.bincount(found.query).max() <= proposing.PER_IMAGE


def test_proposals_do_not_depend_on_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [fingerprint(grey(seed % 20, 96)) for seed in range(50)]
    one = ProposalIndex(codes).proposals(codes, myself=True)
    monkeypatch.setattr(proposing, "_BLOCK", 7)
    two = ProposalIndex(codes).proposals(codes, myself=True)
    assert np.array_equal(one.query, two.query) and np.array_equal(one.found, two.found)


def test_a_window_change_that_clips_is_explained_and_a_spot_is_not() -> None:
    image = thumbnail(grey(6)).astype(np.float32)
    narrow = np.clip((image - 40) * 1.5, 0, 255).astype(np.float32)
    assert difference(image, narrow)[1] < 0.01
    assert difference(narrow, image)[1] < 0.01
    spot = image.copy()
    spot[100:104, 90:94] = 255 - spot[100:104, 90:94]
    assert difference(image, spot)[1] > MAX_LOCAL_DIFFERENCE


def test_flat_thumbnails_are_alike_only_at_the_same_grey() -> None:
    dark, light = np.zeros((64, 64), np.uint8), np.full((64, 64), 200, np.uint8)
    assert compare(dark, dark).local_difference == 0.0
    assert compare(dark, light).local_difference == 1.0


def test_turning_twice_is_turning_back() -> None:
    image = thumbnail(grey(7))
    for orientation in range(8):
        assert np.array_equal(turned(turned(image, orientation), orientation), image)
    assert compare(image, turned(image, 5), orientation=5).window == WHOLE


def _smooth(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (192, 192), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 9)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def test_rough_looks_pass_copies_and_stop_different_pictures() -> None:
    first = _smooth(4)
    assert not differ_roughly(first, (first * 0.6 + 20).astype(np.uint8), WHOLE)
    cut = thumbnail(np.ascontiguousarray(first[:, 6:]))
    assert not differ_roughly(first, cut, (0.0, 1.0, 6 / 192, 1.0))
    assert differ_roughly(first, _smooth(5), WHOLE)


def test_the_second_look_sees_what_is_too_small_for_the_first() -> None:
    first = _smooth(4)
    other = first.copy()
    cv2.circle(other, (90, 90), 5, 255 if first[90, 90] < 128 else 0, -1)
    passed = [
        rough_difference(first, other, WHOLE, reduction, blur) <= limit
        for reduction, blur, limit in ROUGH_LOOKS
    ]
    assert passed == [True, False]
    assert differ_roughly(first, other, WHOLE)


def _line_of_the_free(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """Least squares over the pixels that are clipped in neither picture, or over all where they are few."""
    free = np.ones(x.shape, bool)
    for values in (x, y):
        room = 0.01 * (float(values.max()) - float(values.min()))
        free &= (values > values.min() + room) & (values < values.max() - room)
    if free.mean() < 0.1:
        free[:] = True
    return np.polyfit(x[free].astype(np.float64), y[free].astype(np.float64), 1)


@pytest.mark.parametrize("clipped", [0.0, 0.4, 0.97])
def test_the_grey_line_is_that_of_the_pixels_free_of_clipping(clipped: float) -> None:
    random = np.random.default_rng(6)
    x = random.uniform(0, 255, (48, 48)).astype(np.float32)
    y = (0.7 * x + 12 + random.normal(0, 2, x.shape)).astype(np.float32)
    y = np.maximum(y, np.float32(np.quantile(y, clipped)))
    assert _grey_line(x, y) == pytest.approx(_line_of_the_free(x, y), rel=1e-9)


def test_pairs_that_differ_are_told_once_compared() -> None:
    random = np.random.default_rng(5)
    base = cv2.GaussianBlur(random.integers(0, 256, (192, 192), dtype=np.uint8), (0, 0), 9)
    base = cv2.normalize(base, None, 0, 255, cv2.NORM_MINMAX)
    other = base.copy()
    cv2.circle(other, (90, 90), 14, 255, -1)
    told: list[tuple[int, int]] = []
    pictures = [base, other]
    found = near_image_groups(
        [fingerprint(p) for p in pictures],
        pictures.__getitem__,
        on_different=lambda i, j: told.append((i, j)),
    )
    assert [first for first, _ in found] == [0, 1]
    assert told == [(0, 1)]


def _many_codes() -> list[bytes]:
    """Fingerprints of pictures, of copies of them and of one flat image."""
    images = [grey(seed, 96) for seed in range(24)]
    copies = [copy for image in images[:6] for copy in _copies(image).values()]
    return [fingerprint(image) for image in (*images, *copies, np.zeros((64, 64), np.uint8))]


def test_products_of_matrices_lose_no_pair_that_resembles(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_pairs(self: ProposalIndex, vectors: object, usable: NDArray[np.int64]) -> object:
        return [(usable[:, None] * self.size + self._usable).ravel()]

    codes = _many_codes()
    quick = ProposalIndex(codes).proposals(codes, myself=True)
    monkeypatch.setattr(ProposalIndex, "_hopeful", all_pairs)
    slow = ProposalIndex(codes).proposals(codes, myself=True)
    assert len(slow.query) > 40
    for name in ("query", "found", "similarity"):
        assert np.array_equal(getattr(quick, name), getattr(slow, name)), name


def test_crops_of_several_images_at_once_rank_like_those_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = _many_codes()
    several = ProposalIndex(codes).proposals(codes, myself=True)
    monkeypatch.setattr(proposing, "_REFINED_AT_ONCE", 1)
    monkeypatch.setattr(proposing, "_VIEWS_AT_ONCE", 7)
    single = ProposalIndex(codes).proposals(codes, myself=True)
    for name in ("query", "found", "similarity"):
        assert np.array_equal(getattr(several, name), getattr(single, name)), name


def test_hints_are_the_best_of_all_crops_and_orientations() -> None:
    first, second = fingerprint(grey(5)), fingerprint(_copies(grey(5))["cropped at a corner"])
    seen = views(coefficients([first, second]), FINE)
    (best, *_) = hints(first, second)
    cosines = [
        float(np.abs(crops @ turn(whole[None], np.array([mirror]))[0]).max())
        for crops, whole in ((seen[0], seen[1, 0]), (seen[1], seen[0, 0]))
        for mirror in range(4)
    ]
    assert best.similarity == pytest.approx(max(cosines), abs=6e-4)
