"""Images come out as in training, and what is wrong with one costs that image only."""

from __future__ import annotations

import asyncio
import gzip
import io
import struct
import zlib
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from PIL import Image

from infimed.data.imaging import decode
from infimed.model.tiling import NO_TILES, cut
from infimed.serving.media import Decoders, Shown, Wanted, from_url
from infimed.serving.refusals import Refusal
from infimed.serving.settings import Settings
from tests.data.samples import dicom_bytes, encoded, noise
from tests.data.test_nifti import volume_bytes
from tests.serving.world import SIDE, data_url, settings_of

SETTINGS = settings_of()
PIXELS = 80_000_000


def with_decoders(
    work: Callable[[Decoders], Awaitable[None]],
    settings: Settings = SETTINGS,
    wanted: Wanted = Wanted(SIDE),
) -> None:
    async def run() -> None:
        decoders = Decoders(settings, wanted)
        await decoders.start()
        try:
            await work(decoders)
        finally:
            await decoders.close()

    asyncio.run(run())


async def shown(
    decoders: Decoders, data: bytes, kind: str = "image/png", frame: int | None = None
) -> Shown:
    return await decoders.decode(from_url(data_url(data, kind), frame, "p", SETTINGS), PIXELS)


async def code(work: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as error:
        await work
    return error.value.code


def grey16() -> np.ndarray:
    return (np.arange(64 * 48).reshape(48, 64) * 20).astype(np.uint16)


FILES = {
    "png": ("image/png", encoded(noise(50, 40))),
    "jpeg": ("image/jpeg", encoded(noise(50, 40), "JPEG")),
    "webp": ("image/webp", encoded(noise(50, 40), "WEBP")),
    "tiff": ("image/tiff", encoded(noise(50, 40), "TIFF")),
    "16 bit": ("image/png", encoded(Image.fromarray(grey16()))),
    "cmyk": ("image/jpeg", encoded(Image.fromarray(noise(50, 40)).convert("CMYK"), "JPEG")),
    "dicom": ("application/dicom", dicom_bytes(grey16())),
    "nifti": ("application/x-nifti", volume_bytes(np.random.default_rng(0).integers(0, 200, (12, 14, 10)).astype(np.int16))),
    "narrow": ("image/png", encoded(noise(8, 3000))),
}  # fmt: skip
FILES["nifti.gz"] = ("application/gzip", gzip.compress(FILES["nifti"][1]))


def png_header(width: int, height: int, bits: int = 8) -> bytes:
    """A PNG whose header lies."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_every_format_gives_the_pixels_of_training():
    async def work(decoders: Decoders) -> None:
        for kind, data in FILES.values():
            suffix = ".nii.gz" if kind == "application/gzip" else ""
            expected = decode(data, suffix=suffix)
            found = await shown(decoders, data, kind)
            assert found.size == expected.shape[1::-1]
            assert np.array_equal(found.pixels, cut(expected, SIDE, NO_TILES))
            again = await shown(
                decoders, data, "application/octet-stream" if suffix == "" else kind
            )
            assert again.sha256 == found.sha256

    with_decoders(work)


def test_a_frame_of_many_is_chosen_and_others_are_refused():
    frames = np.stack([np.full((24, 32), level, np.uint8) for level in (10, 200)])
    frames[:, :12] = 0
    data = dicom_bytes(frames)

    async def work(decoders: Decoders) -> None:
        first, second = [await shown(decoders, data, "application/dicom", n) for n in (0, 1)]
        assert first.sha256 != second.sha256
        assert first.pixels.max() < second.pixels.max()
        for kind, other, frame in (
            ("application/dicom", data, 2),
            ("image/png", encoded(noise()), 1),
        ):
            assert await code(shown(decoders, other, kind, frame)) == "image_frame"

    with_decoders(work)


def test_large_images_have_their_tiles():
    from infimed.model.tiling import tile_grid

    pixels = noise(200, 100)

    async def work(decoders: Decoders) -> None:
        found = await shown(decoders, encoded(pixels))
        assert np.array_equal(found.pixels, cut(pixels, SIDE, tile_grid((100, 200), SIDE, 4)))
        assert len(found.pixels) > 1

    with_decoders(work, wanted=Wanted(SIDE, 4))


def test_a_server_behind_gets_the_whole_image_as_png():
    async def work(decoders: Decoders) -> None:
        found = await shown(decoders, FILES["16 bit"][1])
        own = np.asarray(Image.open(io.BytesIO(found.png)).convert("RGB"))
        assert np.array_equal(own, decode(FILES["16 bit"][1]))

    with_decoders(work, wanted=Wanted(None))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/a.png", "image_url"),
        ("file:///etc/passwd", "image_url"),
        ("/etc/passwd", "image_url"),
        ("", "image_url"),
        ("data:,abc", "image_url"),
        ("data:image/png,abc", "image_url"),
        ("data:image/png;base64,@@@", "image_corrupt"),
        ("data:image/png;base64,", "image_empty"),
        ("data:text/html;base64,PGI+", "image_format"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "image_format"),
        ("data:video/jpeg;base64,a,b,c", "image_format"),
        (data_url(b"<svg onload=alert(1)>"), "image_format"),
        (data_url(b"<script>alert(1)</script>" * 9), "image_format"),
        (data_url(encoded(noise()), "image/jpeg"), "image_type"),
        (data_url(encoded(noise(), "GIF")), "image_format"),
        (data_url(b"\x89PNG\r\n\x1a\n" + b"a" * 2**21), "image_bytes"),
    ],
)
def test_what_is_no_image_is_refused_before_a_decoder_sees_it(url, expected):
    small = settings_of(limits={"image_bytes": 2**20})
    with pytest.raises(Refusal) as error:
        from_url(url, 0, "p", small)
    assert error.value.code == expected


def test_types_are_read_whatever_their_case():
    assert from_url(data_url(encoded(noise()), "IMAGE/PNG;charset=utf-8"), 0, "p", SETTINGS)


def test_bombs_and_damage_are_refused_and_the_next_image_is_decoded():
    whole = encoded(noise(50, 40))
    bad = {
        "bomb": (png_header(65_500, 65_500, 1), "image_pixels"),
        "small": (encoded(noise(1, 1)), "image_small"),
        "thin": (encoded(noise(1, 30_000)), "image_small"),
        "truncated": (whole[: len(whole) // 2], "image_truncated"),
        "lying": (png_header(400, 400), None),
        "garbage": (whole[:60] + bytes(200), None),
    }

    async def work(decoders: Decoders) -> None:
        for name, (data, expected) in bad.items():
            found = await code(shown(decoders, data))
            assert found == expected or (expected is None and found.startswith("image_")), name
        assert (await shown(decoders, whole)).size == (40, 50)
        assert decoders.replaced == 0

    with_decoders(work)


def test_dicom_and_nifti_that_lie_are_refused():
    honest = dicom_bytes(grey16())
    huge = dicom_bytes(grey16(), NumberOfFrames=1_000_000)
    lying = bytearray(honest)
    for tag in (0x10, 0x11):  # Rows, Columns
        at = honest.index(struct.pack("<HH", 0x28, tag))
        lying[at + 8 : at + 10] = struct.pack("<H", 65_535)
    volume = bytearray(FILES["nifti"][1])
    volume[40:56] = struct.pack("<8h", 3, 32_767, 32_767, 32_767, 1, 1, 1, 1)
    bomb = gzip.compress(FILES["nifti"][1][:352] + bytes(2**28), 1)

    async def work(decoders: Decoders) -> None:
        for data, kind in (
            (bytes(lying), "application/dicom"),
            (huge[:-1000], "application/dicom"),
            (honest[:200], "application/dicom"),
            (bytes(volume), "application/x-nifti"),
            (bomb, "application/gzip"),
        ):
            assert (await code(shown(decoders, data, kind))).startswith("image_")
        assert (await shown(decoders, honest, "application/dicom")).size == (64, 48)

    with_decoders(work, settings_of(decoder={"workers": 1, "memory_bytes": 2**29}))


def test_all_images_of_a_request_share_their_pixels():
    async def work(decoders: Decoders) -> None:
        source = from_url(data_url(encoded(noise(50, 40))), 0, "p", SETTINGS)
        assert await code(decoders.decode(source, 1999)) == "image_pixels"
        assert await decoders.decode(source, 2000)

    with_decoders(work)


def test_a_slow_decoder_is_killed_and_replaced():
    slow = settings_of(times={"decode": 0.001})

    async def work(decoders: Decoders) -> None:
        before = {process.pid for process in decoders._all}
        large = encoded(noise(3000, 3000))
        source = from_url(data_url(large), 0, "p", settings_of(limits={"image_bytes": 2**26}))
        assert await code(decoders.decode(source, PIXELS)) == "image_timeout"
        assert decoders.replaced == 1 and not before & {process.pid for process in decoders._all}
        object.__setattr__(decoders.settings, "times", SETTINGS.times)
        assert (await shown(decoders, encoded(noise(50, 40)))).size == (40, 50)

    with_decoders(work, slow)


def test_who_waits_too_long_for_a_decoder_is_told_so():
    async def work(decoders: Decoders) -> None:
        held = [await decoders._free.get() for _ in range(decoders._free.qsize())]
        source = from_url(data_url(encoded(noise())), 0, "p", SETTINGS)
        assert await code(decoders.decode(source, PIXELS)) == "queue_timeout"
        for process in held:
            decoders._free.put_nowait(process)
        assert (await shown(decoders, encoded(noise(50, 40)))).size == (40, 50)

    with_decoders(work, settings_of(times={"queue": 0.05}))


def test_a_decoder_that_dies_costs_its_image_only():
    async def work(decoders: Decoders) -> None:
        for process in decoders._all:
            process.kill()
            await process.wait()
        assert (await shown(decoders, encoded(noise(50, 40)))).size == (40, 50)

    with_decoders(work)


def test_a_decoder_has_little_memory_and_writes_no_file(tmp_path):
    import subprocess
    import sys

    code = (
        "import numpy, resource; from infimed.serving.decoder import limit_memory\n"
        "limit_memory(2**26); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try:\n    numpy.ones(2**25)\nexcept MemoryError:\n    print('memory')\n"
        f"try:\n    open({str(tmp_path / 'x')!r}, 'w').write('x' * 9999)\nexcept OSError:\n    print('file')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["memory", "file"], done.stderr


def test_decoders_do_not_load_torch():
    import subprocess
    import sys

    code = "import sys, infimed.serving.decoder, infimed.model.tiling, infimed.data.dicom; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_client_that_leaves_costs_no_decoder():
    """Its decoder ends what it does and is used again, instead of being killed and started anew."""

    async def work(decoders: Decoders) -> None:
        before = {process.pid for process in decoders._all}
        large = from_url(data_url(encoded(noise(1500, 1500))), 0, "p", SETTINGS)
        for _ in range(3):
            leaving = asyncio.create_task(decoders.decode(large, PIXELS))
            while not decoders._busy:
                await asyncio.sleep(0)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            found = await shown(decoders, encoded(noise(50, 40)))
            assert found.size == (40, 50)
            assert np.array_equal(found.pixels, cut(decode(encoded(noise(50, 40))), SIDE, NO_TILES))
        assert before == {process.pid for process in decoders._all} and decoders.replaced == 0

    with_decoders(work)


def test_decoders_end_while_one_works_for_a_client_that_left():
    async def work(decoders: Decoders) -> None:
        large = from_url(data_url(encoded(noise(1500, 1500))), 0, "p", SETTINGS)
        leaving = asyncio.create_task(decoders.decode(large, PIXELS))
        while not decoders._busy:
            await asyncio.sleep(0)
        leaving.cancel()
        await decoders.close()
        assert not decoders._all and not decoders._busy

    with_decoders(work)
