"""Near images, near texts and leakage, measured: one table a part, with counts and intervals.

    python benchmarks/matching.py images --patients 240
    python benchmarks/matching.py real --data FOLDER          (VQA-RAD, BCCD, MS volumes)
    python benchmarks/matching.py texts --peers PYTHON        (an interpreter with the peers)
    python benchmarks/matching.py scale
    python benchmarks/matching.py leakage --data FOLDER

Phantoms come from a clinic that nothing was tuned on. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.core.run import environment
from infimed.core.seeds import stream
from infimed.data.phantom.canvas import draw_pose
from infimed.data.phantom.catalogue import BY_KEY
from infimed.data.phantom.drawing_lots import draw_patient
from infimed.data.phantom.imaging import DRAWINGS, render_image
from infimed.data.phantom.truth import Finding
from infimed.matching.fingerprint import fingerprint
from infimed.matching.image import near_image_groups, same_picture, thumbnail

Grey = NDArray[np.uint8]
Copy = Callable[[Grey, np.random.Generator], Grey]
SEED = 9182


def wilson(hits: int, n: int) -> str:
    """Share with its 95 % interval."""
    if not n:
        return "-"
    z, p = 1.96, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return f"{hits}/{n} = {p:.2%} ({max(0, middle - half):.2%} to {min(1, middle + half):.2%})"


def row(name: str, hits: int, n: int, wanted: str = "") -> None:
    print(f"{name:52} {wilson(hits, n):44} {wanted}", flush=True)


def as_grey(pixels: NDArray[np.uint8]) -> Grey:
    return pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


# ---------------------------------------------------------------- copies
def encoded(quality: int) -> Copy:
    def copy(image: Grey, rng: np.random.Generator) -> Grey:
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(data, 0))

    return copy


def resized(factor: float = 0.0, side: int = 0) -> Copy:
    def copy(image: Grey, rng: np.random.Generator) -> Grey:
        height, width = (side, side) if side else (round(v * factor) for v in image.shape)
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))

    return copy


def windowed(image: Grey, rng: np.random.Generator) -> Grey:
    """Half narrow the window (and clip up to 10 % of the grey range at either end), half widen it."""
    if rng.random() < 0.5:
        low, high = rng.uniform(0, 25), rng.uniform(230, 255)
    else:
        low, high = rng.uniform(-60, 0), rng.uniform(255, 330)
    return np.clip((image.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def gamma(image: Grey, rng: np.random.Generator) -> Grey:
    power = rng.choice([0.8, 1.25])
    return np.asarray(255 * (image / 255.0) ** power + 0.5).astype(np.uint8)


def cropped(top: float, bottom: float, left: float, right: float) -> Copy:
    def copy(image: Grey, rng: np.random.Generator) -> Grey:
        height, width = image.shape
        return np.ascontiguousarray(
            image[round(height * top) : height - round(height * bottom),
                  round(width * left) : width - round(width * right)]
        )  # fmt: skip

    return copy


def cropped_anyhow(image: Grey, rng: np.random.Generator) -> Grey:
    return cropped(*rng.uniform(0, 0.05, 4))(image, rng)


COPIES: dict[str, Copy] = {
    "JPEG q30": encoded(30),
    "JPEG q50": encoded(50),
    "JPEG q70": encoded(70),
    "JPEG q90": encoded(90),
    "half size": resized(0.5),
    "224 x 224": resized(side=224),
    "windowed": windowed,
    "mirrored left-right": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
    "mirrored top-bottom": lambda image, rng: np.ascontiguousarray(image[::-1]),
    "inverted": lambda image, rng: 255 - image,
    "5 % cropped off every side": cropped(0.05, 0.05, 0.05, 0.05),
    "2.5 % cropped off every side": cropped(0.025, 0.025, 0.025, 0.025),
    "5 % cropped off one side": cropped(0, 0, 0.05, 0),
    "0-5 % cropped off each side": cropped_anyhow,
}
EXTRA: dict[str, Copy] = {
    "gamma 0.8 or 1.25 (not asked for)": gamma,
    "cropped, mirrored, windowed and JPEG q50 at once": lambda image, rng: encoded(50)(
        windowed(np.ascontiguousarray(cropped_anyhow(image, rng)[:, ::-1]), rng), rng
    ),
}


def found_copies(images: list[Grey], copy: Copy, name: str) -> tuple[int, int, float]:
    """Copies grouped with their original, originals grouped with each other, ms an image."""
    rng = stream(SEED, "copies", name)
    made = [copy(image, rng) for image in images]
    both = [*images, *made]
    codes = [fingerprint(image) for image in both]
    thumbnails = [thumbnail(image) for image in both]
    began = time.perf_counter()
    groups = near_image_groups(codes, lambda i: thumbnails[i])
    spent = 1e3 * (time.perf_counter() - began) / len(both)
    count = len(images)
    found = sum(groups[count + i][0] in (i, groups[i][0]) for i in range(count))
    merged = sum(groups[i][0] != i for i in range(count))
    return found, merged, spent


def called_same(pairs: Iterator[tuple[Grey, Grey]]) -> tuple[int, int]:
    """How many pairs the confirmation, asked directly, calls one picture; and how many there are."""
    hits = total = 0
    for a, b in pairs:
        total += 1
        one, two = (fingerprint(a), thumbnail(a)), (fingerprint(b), thumbnail(b))
        hits += same_picture(one, two) is not None
    return hits, total


# ---------------------------------------------------------------- phantoms
def lesion_twin(index: int, noise: int = 0) -> tuple[Grey, Grey]:
    """A patient at 512 px without and with one more lesion of 12 px."""
    truth = draw_patient(SEED, index, pair=False).images[0]
    kind = next(k for k in BY_KEY[truth.modality].findings if k.small)
    rng = stream(SEED, "lesion", index)
    pose = draw_pose(np.random.default_rng(truth.anatomy_seed))
    taken = [ellipse for finding in truth.findings for ellipse in finding.ellipses]

    def room(place: Any) -> float:
        gaps = (
            np.hypot(a.x - b.x, a.y - b.y) - a.rx - max(b.rx, b.ry) for a in place for b in taken
        )
        return min(gaps, default=1.0)

    places = [
        DRAWINGS[truth.modality][0](
            kind.key, bool(rng.integers(2)), int(rng.integers(2)), 12 / 512, pose, rng
        )
        for _ in range(40)
    ]
    new = Finding(kind.key, "left", 0, 12 / 512, 1, "mild", max(places, key=room))
    with_it = replace(truth, findings=(*truth.findings, new), noise_seed=truth.noise_seed + noise)
    return as_grey(render_image(truth, 512).pixels), as_grey(render_image(with_it, 512).pixels)


def images_part(patients: int) -> None:
    print(f"\nNear images: {patients} phantom patients of six modalities at 512 px\n")
    images = [
        as_grey(render_image(draw_patient(SEED, i, pair=False).images[0], 512).pixels)
        for i in range(patients)
    ]
    spent = []
    for name, copy in {**COPIES, **EXTRA}.items():
        found, merged, ms = found_copies(images, copy, name)
        spent.append(ms)
        row(f"copies found: {name}", found, patients, ">= 95 %" if name in COPIES else "")
        if merged:
            row("  different patients grouped meanwhile", merged, patients)
    kinds = len(BY_KEY)
    same_view = (
        (images[a], images[b])
        for a, b in itertools.combinations(range(patients), 2)
        if (b - a) % kinds == 0 and (b - a) // kinds <= 12
    )
    row("different patients, same modality, called one", *called_same(same_view), "<= 1 %")
    twins = [lesion_twin(i) for i in range(patients)]
    row("new 12 px lesion, all else equal, called one", *called_same(iter(twins)), "<= 2 %")
    row(
        "new 12 px lesion, new noise, called one",
        *called_same(lesion_twin(i, 1) for i in range(patients)), "<= 2 %",
    )  # fmt: skip
    faint = (_painted(image, index) for index, image in enumerate(images))
    row("painted 12 px disc of 20 % contrast, called one", *called_same(faint))
    print(f"grouping: {np.median(spent):.1f} ms an image (patients of one modality are much alike)")
    began = time.perf_counter()
    for image in images:
        fingerprint(image)
    print(
        f"fingerprint: {1e3 * (time.perf_counter() - began) / patients:.2f} ms an image of 512 px"
    )


def _painted(image: Grey, index: int) -> tuple[Grey, Grey]:
    """A faint disc on a place that is not background."""
    rng = stream(SEED, "disc", index)
    places = np.argwhere(cv2.blur(image, (13, 13)) > 25)
    y, x = places[int(rng.integers(len(places)))]
    disc = np.zeros(image.shape, np.float32)
    cv2.circle(disc, (int(x), int(y)), 6, 1.0, -1, cv2.LINE_AA)
    sign = -1.0 if image[y, x] > 128 else 1.0
    return image, np.clip(image + sign * 51 * disc, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- real images
def real_part(data: Path) -> None:
    print("\nNear images: real data\n")
    files = sorted((data / "vqa_rad" / "VQA_RAD Image Folder").glob("*.jpg"))
    radiology = [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in files]
    for name, copy in {**COPIES, **EXTRA}.items():
        found, merged, _ = found_copies(radiology, copy, name)
        row(f"VQA-RAD, copies found: {name}", found, len(radiology))
        if merged:
            row("  different images grouped meanwhile", merged, len(radiology))
    fields = [
        np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))
        for file in sorted((data / "bccd" / "JPEGImages").glob("*.jpg"))
    ]
    codes, thumbnails = [fingerprint(f) for f in fields], [thumbnail(f) for f in fields]
    groups = near_image_groups(codes, lambda i: thumbnails[i])
    row(
        "BCCD fields grouped with another",
        sum(g != i for i, (g, _) in enumerate(groups)),
        len(fields),
    )
    rng = stream(SEED, "fields")
    pairs = (
        (fields[a], fields[b])
        for a, b in (rng.choice(len(fields), 2, replace=False) for _ in range(1000))
    )
    row("BCCD, 1,000 random pairs called one", *called_same(pairs))
    for distance in (1, 2, 5):
        hits, total = called_same(_slices(data, distance))
        row(f"MS volumes, slices {distance} apart, called one", hits, total)


def _slices(data: Path, distance: int) -> Iterator[tuple[Grey, Grey]]:
    import nibabel

    for file in sorted((data / "open_ms_data").rglob("*.nii*")):
        volume = np.asarray(nibabel.load(file).dataobj, np.float32)
        low, high = np.percentile(volume, (0.5, 99.5))
        shown = np.clip((volume - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
        depth = shown.shape[2]
        for z in range(depth // 4, 3 * depth // 4 - distance):
            a, b = shown[:, :, z], shown[:, :, z + distance]
            yield np.ascontiguousarray(a), np.ascontiguousarray(b)


# ---------------------------------------------------------------- scale
def scale_part(bases: int) -> None:
    print(f"\nScale: {bases} pictures, each copied with noise; thumbnails from memory\n")
    random_state = stream(SEED, "scale")
    fields = random_state.normal(size=(bases, 24, 24)).astype(np.float32)
    pictures = [
        np.clip(cv2.resize(f, (192, 192), interpolation=cv2.INTER_CUBIC) * 50 + 120, 0, 255).astype(np.uint8)
        for f in fields
    ]  # fmt: skip

    def copy(number: int) -> Grey:
        rng = np.random.default_rng(number)
        grey = pictures[number % bases].astype(np.float32) + rng.normal(0, 2, (192, 192))
        return np.clip(grey, 0, 255).astype(np.uint8)

    for copies in (1, 5, 20):
        codes = [fingerprint(copy(i)) for i in range(bases * copies)]
        began = time.process_time()
        groups = near_image_groups(codes, copy)
        spent = time.process_time() - began
        distinct = sum(g == i for i, (g, _) in enumerate(groups))
        print(
            f"{len(codes):8} images: {distinct} pictures, {1e3 * spent / len(codes):.2f} ms an image"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["images", "real", "texts", "scale", "leakage"])
    parser.add_argument("--patients", type=int, default=240)
    parser.add_argument("--captions", type=int, default=50_000)
    parser.add_argument("--bases", type=int, default=2000, help="pictures of the scale part")
    parser.add_argument("--peers", default="", help="Python interpreter with the peers installed")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    given = parser.parse_args()
    cv2.setNumThreads(1)
    found = environment()
    print(f"{found['cpu']}, {found['cores']} cores, InfiMed {found['infimed']}")
    if given.part == "images":
        images_part(given.patients)
    elif given.part == "real":
        real_part(given.data)
    elif given.part == "texts":
        from matching_texts import texts_part

        texts_part(given.captions, given.peers, row)
    elif given.part == "scale":
        scale_part(given.bases)
    else:
        from matching_leakage import leakage_part

        leakage_part(given.data.resolve(), row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
