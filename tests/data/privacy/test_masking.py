"""Masking: painted before storing, lossless elsewhere, read only to release, said in the facts."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infimed.core.errors import UsageError
from infimed.data.imaging import RawImage, decode
from infimed.data.importing import import_data
from infimed.data.privacy import reading
from infimed.data.privacy.masking import MaskedRegion, TextMasker, painted
from infimed.data.privacy.options import Privacy
from infimed.data.privacy.reading import RapidReader, Reading, harmless, reading_kind
from infimed.data.shards import open_shards
from infimed.data.stored import from_raw, prepare
from tests.data.privacy.test_textlines import FONTS, background, burned
from tests.data.samples import encoded

OCR = importlib.util.find_spec("rapidocr_onnxruntime") is not None


@dataclass
class Says:
    """A reader that answers from a list."""

    answers: list[Reading]
    name: str = "test"
    asked: int = field(default=0)

    def read(self, lines: Sequence[NDArray[np.uint8]]) -> list[Reading]:
        self.asked += 1
        return [self.answers[i % len(self.answers)] for i in range(len(lines))]


def test_a_clean_image_keeps_its_bytes_and_is_not_read() -> None:
    reader = Says([Reading("x", 1.0)])
    stored = prepare(encoded(background("chest_radiograph"), "JPEG", quality=95))
    made = TextMasker(reader)(stored)
    assert made.data == stored.data and made.sha256 == stored.sha256 and reader.asked == 0
    assert made.facts["text_checked"] == "gate+test" and "masked_regions" not in made.facts


def test_the_text_is_gone_and_every_other_pixel_is_the_same() -> None:
    pixels, box = burned(background("ultrasound"), "SMITH^JOHN", 16, FONTS[0])
    stored = prepare(encoded(pixels))
    made = TextMasker()(stored)
    after = decode(made.data, made.facts)
    inside = after[box[1] : box[3], box[0] : box[2]]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) <= 2
    (left, top, width, height), *more = made.facts["masked_regions"]  # type: ignore[misc]
    outside = np.ones(pixels.shape[:2], bool)
    outside[top : top + height, left : left + width] = False  # type: ignore[operator]
    assert not more and np.array_equal(after[outside], pixels[outside])
    assert made.facts["masked_kinds"] == ["not read"] and made.sha256 != stored.sha256


def test_text_outside_the_window_of_a_deep_image_is_masked_in_the_stored_depth() -> None:
    pixels, box = burned(background("black"), "SMITH^JOHN", 16, FONTS[0])
    values = np.full((512, 512), 3000, np.uint16)
    values[:8, :8] = 0
    values += pixels[..., 0].astype(np.uint16) // 255 * 2000
    facts = {"window_center": 1000.0, "window_width": 500.0, "voi_function": "LINEAR_EXACT"}
    stored = from_raw(RawImage(values, facts))
    assert len(np.unique(decode(stored.data, stored.facts)[box[1] : box[3], box[0] : box[2]])) == 1
    made = TextMasker()(stored)
    after = np.asarray(Image.open(io.BytesIO(made.data)))
    assert after.dtype == np.uint16 and after[box[1] : box[3], box[0] : box[2]].max() == 3000


@pytest.mark.parametrize(
    ("text", "sure", "stays"),
    [
        ("LEFT LATERAL", 0.95, True), ("W 400 : L 40", 0.95, True), ("TR/TE: 500/15 ms", 0.9, True),
        ("AP SUPINE", 0.5, False), ("SMITH", 0.99, False), ("LEFT SMITH", 0.99, False),
        ("12.03.1961", 0.99, False), ("1234567", 0.99, False), ("", 0.99, False), ("AP 2004", 0.99, False),
    ],
)  # fmt: skip
def test_only_a_sure_reading_of_listed_words_stays(text: str, sure: float, stays: bool) -> None:
    assert harmless(Reading(text, sure)) is stays


def test_a_reading_never_shows_what_it_read() -> None:
    assert "SMITH" not in repr(Reading("SMITH", 0.9))
    assert reading_kind(Reading("DOB 12.03.1961", 0.9)) == "date"
    assert reading_kind(Reading("SMITH", 0.9)) == "words"
    assert reading_kind(Reading("zz", 0.1)) == "unreadable"


def test_a_released_line_stays_in_the_picture() -> None:
    pixels, _ = burned(background("black"), "LATERAL", 20, FONTS[0])
    stored = prepare(encoded(pixels))
    assert TextMasker(Says([Reading("LATERAL", 0.99)]))(stored).data == stored.data
    assert TextMasker(Says([Reading("LATERAL", 0.3)]))(stored).data != stored.data


@pytest.mark.skipif(not OCR, reason="the extra 'ocr' is not installed")
def test_the_bundled_reader_releases_a_marker_and_names_the_kind_of_a_name_line() -> None:
    masker = TextMasker(RapidReader())
    marker, _ = burned(background("black"), "LEFT LATERAL", 20, FONTS[0])
    person, _ = burned(background("black"), "MRN 1234567", 20, FONTS[0])
    assert masker.regions(marker) == []
    assert [region.kind for region in masker.regions(person)] == ["id-number"]


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "reader_available", lambda: False)
    with pytest.raises(UsageError, match=r"infimed\[ocr\]"):
        RapidReader()


def test_paint_is_the_median_of_the_surroundings() -> None:
    values = np.arange(400, dtype=np.uint16).reshape(20, 20)
    made = painted(values, [MaskedRegion(5, 6, 9, 8, "x")])
    ring = [
        values[y, x] for y in range(2, 12) for x in range(1, 13) if not (6 <= y < 8 and 5 <= x < 9)
    ]
    assert (made[6:8, 5:9] == np.uint16(np.median(ring))).all()
    whole = painted(values, [MaskedRegion(0, 0, 20, 20, "x")])
    assert len(np.unique(whole)) == 1


def test_import_masks_when_told_and_the_fingerprint_knows(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    pixels, box = burned(background("grey"), "SMITH^JOHN", 16, FONTS[0])
    (source / "a.png").write_bytes(encoded(pixels))
    (source / "captions.csv").write_text("image,caption\na.png,A grey picture.\n")
    plain = import_data(source, tmp_path / "plain")
    masked = import_data(source, tmp_path / "masked", privacy=Privacy(mask_text=True))
    assert plain.data_hash != masked.data_hash
    shards = open_shards(tmp_path / "masked")
    ref = shards.record(0).images[0]
    shown = shards.pixels(ref)[box[1] : box[3], box[0] : box[2]]
    assert shown.min() == shown.max() == 128
    assert ref.facts["masked_regions"] and "SMITH" not in json.dumps(ref.facts)


def test_inspecting_raw_files_masks_its_thumbnails_when_told(tmp_path: Path) -> None:
    from infimed.data.inspecting import inspect_data

    pixels, _ = burned(background("grey", 512), "SMITH^JOHN", 24, FONTS[0])
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    (tmp_path / "captions.csv").write_text("image,caption\na.png,A grey picture.\n")
    shown = inspect_data(tmp_path).thumbnails[0][1]
    masked = inspect_data(tmp_path, mask_text=True).thumbnails[0][1]
    assert shown.max() > 140 and masked.min() == masked.max() == 128
