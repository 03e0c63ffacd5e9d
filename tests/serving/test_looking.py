"""A frame, a slice and a window can be chosen, and what is looked at is what the model gets."""

from __future__ import annotations

import gzip
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from infimed.data.imaging import ImageError, decode
from infimed.data.limits import Limits
from infimed.data.nifti import open_volume
from infimed.data.rendering import windowed
from infimed.serving.decoder import decoded
from infimed.serving.looking import looked
from infimed.serving.media import Decoders, Wanted, from_url
from infimed.serving.protocol import ImageUrl, parse
from infimed.serving.refusals import Refusal
from infimed.serving.settings import Limits as ServerLimits
from tests.data.samples import dicom_bytes, encoded, noise
from tests.data.test_nifti import volume_bytes
from tests.serving.test_media import SETTINGS, with_decoders
from tests.serving.world import SIDE, body, data_url, image_part, png_url

RAMP = (np.arange(24 * 32).reshape(24, 32) * 4).astype(np.uint16)
CT = dicom_bytes(RAMP, Modality="CT", RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=40, WindowWidth=400)  # fmt: skip
VOLUME = np.random.default_rng(0).integers(0, 200, (12, 14, 10)).astype(np.int16)
LIMITS = Limits()


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def look(data: bytes, suffix: str = "", side: int = 512, **facts: Any) -> tuple[dict[str, Any], np.ndarray]:  # fmt: skip
    header, png = looked(data, facts, LIMITS, suffix, side)
    return header, pixels_of(png)


def views(data: bytes, kind: str, **image: Any) -> np.ndarray:
    """What the model gets of an image of a request."""
    asked = ImageUrl(url=data_url(data, kind), **image)
    source = from_url(asked.url, asked.frame, "p", SETTINGS, asked.window)
    order = Decoders(SETTINGS, Wanted(None)).order(source, 10**7)
    return pixels_of(decoded(order, source.data)[1])


def test_a_window_is_that_of_the_standard():
    units = RAMP.astype(np.float32) - 1024
    for center, width in ((40, 400), (-600, 1500), (300.5, 81)):
        expected = windowed(units, center, width, function="LINEAR")
        header, seen = look(CT, window_center=float(center), window_width=float(width))
        assert np.array_equal(seen, expected)
        assert np.array_equal(views(CT, "application/dicom", window=[center, width]), expected)
        assert header["window"] == [center, width]


def test_without_a_window_the_picture_is_the_usual_one():
    for data in (CT, encoded(noise()), encoded(RAMP), dicom_bytes(noise())):
        header, seen = look(data)
        usual = decode(data)
        assert np.array_equal(seen if seen.ndim == 3 else np.repeat(seen[..., None], 3, 2), usual)
        assert (header["height"], header["width"]) == usual.shape[:2]
    assert look(CT)[0] == {
        "format": "DICOM", "frames": 1, "frame": 0, "modality": "CT", "units": "HU", "window": [40.0, 400.0],
        "range": [-1024.0, float(RAMP.max()) - 1024], "width": 32, "height": 24,
    }  # fmt: skip


def test_an_inverted_image_stays_inverted():
    data = dicom_bytes(RAMP, PhotometricInterpretation="MONOCHROME1")
    plain = dicom_bytes(RAMP)
    window = {"window_center": 900.0, "window_width": 500.0}
    inverted, upright = (look(d, **window)[1].astype(int) for d in (data, plain))
    assert np.abs(255 - inverted - upright).max() <= 1, "halves are rounded to even"
    assert np.ptp(upright) == 255


def test_a_window_takes_the_place_of_a_lookup_table():
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 8]
    table.LUTData = np.zeros(4096, np.uint16).tobytes()
    table["LUTData"].VR = "OW"
    table.LUTDescriptor = [4096, 0, 8]
    data = dicom_bytes(RAMP, VOILUTSequence=Sequence([table]))
    header, dark = look(data)
    assert not dark.any(), "the table makes everything black"
    assert header["window"][1] > 1000, "sliders begin with the values before the table"
    seen = look(data, window_center=1500.0, window_width=3000.0)[1]
    assert np.array_equal(seen, windowed(RAMP, 1500, 3000, function="LINEAR_EXACT"))


def test_every_slice_of_a_volume_can_be_looked_at():
    data = volume_bytes(VOLUME)
    volume = open_volume(data)
    header, middle = look(data)
    assert (header["frames"], header["frame"]) == (10, 5)
    assert np.array_equal(middle, volume.axial(5).planes())
    for at in (0, 9):
        header, seen = look(data, frame=at)
        assert header["frame"] == at
        assert np.array_equal(seen, volume.axial(at).planes())
        packed = gzip.compress(data)
        assert np.array_equal(views(packed, "application/gzip", frame=at), seen)
    with pytest.raises(ImageError) as refused:
        look(data, frame=10)
    assert refused.value.code == "frame"


def test_grey_values_of_more_than_8_bits_have_a_window():
    header, seen = look(encoded(RAMP), window_center=1000.0, window_width=200.0, voi_function="LINEAR_EXACT")  # fmt: skip
    assert np.array_equal(seen, windowed(RAMP, 1000, 200, function="LINEAR_EXACT"))
    assert np.array_equal(views(encoded(RAMP), "image/png", window=[1000, 200]), seen)
    assert header["range"] == [0.0, float(RAMP.max())]


@pytest.mark.parametrize(
    ("data", "kind"),
    [(encoded(noise()), "image/png"), (dicom_bytes(noise()), "application/dicom")],
    ids=["8 bits", "colour"],
)
def test_what_has_no_window_is_refused_with_one(data: bytes, kind: str):
    for call in (lambda: look(data, window_center=1.0, window_width=1.0), lambda: views(data, kind, window=[1, 1])):  # fmt: skip
        with pytest.raises(ImageError) as refused:
            call()
        assert refused.value.code == "window"
    assert "window" not in look(data)[0]


def test_a_picture_for_a_screen_is_no_larger_than_it():
    header, seen = look(encoded(noise(300, 100)), side=60)
    assert seen.shape[:2] == (60, 20)
    assert (header["width"], header["height"]) == (100, 300)


def test_frame_and_window_are_part_of_what_an_image_is_called():
    def named(**image: Any) -> str:
        asked = ImageUrl(url=data_url(CT, "application/dicom"), **image)
        return from_url(asked.url, asked.frame, "p", SETTINGS, asked.window).sha256

    names = [named(), named(frame=1), named(window=[40, 400]), named(window=[40, 401])]
    assert len(set(names)) == 4
    assert named(frame=0) == named(), "the first frame is the usual one"
    assert named(window=[40, 400]) == named(window=[40.0, 400.0])


@pytest.mark.parametrize(
    "window", [[40], [40, 400, 1], [40, 0], [40, -1], ["40", "400"], [1e300, 1], 40, {}, [None, 1]]
)
def test_a_window_that_is_none_is_refused_by_name(window: Any):
    import json

    asked = json.dumps(body("a", image_part(png_url(), window=window))).encode()
    with pytest.raises(Refusal) as refused:
        parse(asked, ServerLimits())
    assert refused.value.code == "invalid_value"


def test_a_decoding_process_makes_pictures_and_views():
    async def work(decoders: Decoders) -> None:
        source = from_url(data_url(CT, "application/dicom"), None, "p", SETTINGS, [40, 80])
        seen = await decoders.look(source, 16)
        assert seen.window == (40, 80) and seen.units == "HU" and seen.size == (32, 24)
        assert pixels_of(seen.png).shape == (12, 16)
        assert (await decoders.decode(source, 10**6)).pixels.shape == (1, SIDE, SIDE, 3)
        with pytest.raises(Refusal) as refused:
            await decoders.look(from_url(png_url(), None, "p", SETTINGS, [1, 1]), 16)
        assert refused.value.code == "image_window"

    with_decoders(work)
