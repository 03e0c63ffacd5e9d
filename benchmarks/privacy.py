"""De-identification measured: burned-in names, clean images, cost, identifiers in real texts.

    python benchmarks/privacy.py                  # everything the machine has data for
    python benchmarks/privacy.py --cases 200      # fewer burned-in names a background
    python benchmarks/privacy.py --show 5         # examples of what was found in texts, to be read

A case is masked when at least 95 % of the pixels that the text changed are painted over. "Clean" VQA-RAD
images are the middle 60 % of each (the whole ones all carry a watermark and an uploader's name). Names,
fonts, patients and positions differ from those used while the gate was made.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from infimed.core.seeds import stream
from infimed.data.phantom import generate_patient
from infimed.data.phantom.catalogue import MODALITIES
from infimed.data.privacy.identifiers import find_identifiers
from infimed.data.privacy.masking import TextMasker
from infimed.data.privacy.reading import RapidReader, reader_available
from infimed.data.privacy.textlines import find_text_lines

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIDE = 512
HEIGHTS = (10, 11, 12, 14, 16, 18, 20, 22, 24)
NAMES = ("VANDERBERG^PIETER", "Rossi, Lucia", "TANAKA HIROSHI", "Ana Beatriz Lima", "OKAFOR^CHIDI", "Lee, Min", "SCHMIDT^EVA 1958")  # fmt: skip
BACKGROUNDS = ("black", "grey", "chest_radiograph", "ultrasound", "histology")
OTHERS = ("abdominal_ct", "brain_mri", "fundus_photograph")
HERSHEY = {
    "simplex": cv2.FONT_HERSHEY_SIMPLEX, "plain": cv2.FONT_HERSHEY_PLAIN, "duplex": cv2.FONT_HERSHEY_DUPLEX,
    "complex": cv2.FONT_HERSHEY_COMPLEX, "triplex": cv2.FONT_HERSHEY_TRIPLEX,
}  # fmt: skip
TRUETYPE = (
    "DejaVu Sans",
    "DejaVu Sans:bold",
    "DejaVu Sans:oblique",
    "DejaVu Serif",
    "DejaVu Sans Mono",
)

Pixels = NDArray[np.uint8]


def background(name: str, index: int) -> Pixels:
    """RGB uint8 [512, 512, 3]."""
    if name in ("black", "grey"):
        return np.full((SIDE, SIDE, 3), 0 if name == "black" else 128, np.uint8)
    pixels = generate_patient(77, index, size=SIDE, modality=name).images[0].pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def truetype(name: str) -> str:
    family, _, style = name.partition(":")
    found = font_manager.findfont(
        font_manager.FontProperties(
            family=family, weight="bold" if style == "bold" else "normal",
            style="oblique" if style == "oblique" else "normal",
        ),
        fallback_to_default=False,
    )  # fmt: skip
    return str(found)


def burn(base: Pixels, text: str, height: int, font: str, left: int, top: int) -> Pixels:
    """The picture with a line of capital height `height` in white or black, whichever contrasts."""
    dark = base[top : top + height, left : left + 12 * height].mean() < 150
    colour = (255, 255, 255) if dark else (0, 0, 0)
    if font in HERSHEY:
        made = base.copy()
        scale = cv2.getFontScaleFromHeight(HERSHEY[font], height, 1)
        cv2.putText(made, text, (left, top + height), HERSHEY[font], scale, colour, 1, cv2.LINE_AA)
        return made
    probe = ImageFont.truetype(truetype(font), 100).getbbox("H")
    sized = ImageFont.truetype(truetype(font), max(6, round(100 * height / (probe[3] - probe[1]))))
    picture = Image.fromarray(base)
    ImageDraw.Draw(picture).text((left, top), text, font=sized, fill=colour)
    return np.asarray(picture)


def cases(name: str, count: int) -> Iterator[tuple[Pixels, Pixels, int]]:
    """(clean, burned, height) for a background."""
    fonts = (*HERSHEY, *TRUETYPE)
    for number in range(count):
        random = stream(5, "burned-in", name, number)
        base = background(name, number % 12)
        height = HEIGHTS[number % len(HEIGHTS)]
        font, text = (
            fonts[int(random.integers(len(fonts)))],
            NAMES[int(random.integers(len(NAMES)))],
        )
        left, top = int(random.integers(4, 150)), int(random.integers(4, SIDE - 40))
        yield base, burn(base, text, height, font, left, top), height


def masked_share(masker: TextMasker, base: Pixels, burned: Pixels) -> float:
    """Share of the changed pixels inside masked regions."""
    ink = np.abs(burned.astype(int) - base).max(axis=2) > 20
    covered = np.zeros(ink.shape, bool)
    for region in masker.regions(burned):
        covered[region.top : region.bottom, region.left : region.right] = True
    return float(covered[ink].mean()) if ink.any() else 1.0


def burned_in(count: int, maskers: dict[str, TextMasker]) -> None:
    print(f"\n## Burned-in names, {count} cases a background, 10-24 px, 10 fonts\n")
    print(
        "| background | "
        + " | ".join(f"masked, {name}" for name in maskers)
        + " | missed heights |"
    )
    print("|---|" + "---|" * (len(maskers) + 1))
    for name in (*BACKGROUNDS, *OTHERS):
        made = list(cases(name, count))
        cells, missed = [], Counter()
        for masker in maskers.values():
            shares = [(masked_share(masker, base, burned), height) for base, burned, height in made]
            cells.append(f"{sum(s >= 0.95 for s, _ in shares) / len(shares):.1%}")
            missed.update(height for share, height in shares if share < 0.95)
        print(f"| {name} | " + " | ".join(cells) + f" | {dict(sorted(missed.items())) or '-'} |")


def clean_sets(patients: int) -> Iterator[tuple[str, list[Pixels]]]:
    for modality in MODALITIES:
        yield f"phantom {modality.key}", [
            pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
            for index in range(patients)
            for pixels in [i.pixels for i in generate_patient(78, index, size=SIDE, modality=modality.key).images]
        ]  # fmt: skip
    for label, folder, cut in (
        ("VQA-RAD, middle 60 %", "vqa_rad/VQA_RAD Image Folder", 0.2), ("BCCD", "bccd/JPEGImages", 0.0),
    ):  # fmt: skip
        files = sorted((DATA / folder).glob("*.jp*g"))
        images = []
        for file in files:
            pixels = np.asarray(Image.open(file).convert("RGB"))
            y, x = int(cut * pixels.shape[0]), int(cut * pixels.shape[1])
            images.append(
                np.ascontiguousarray(pixels[y : len(pixels) - y, x : pixels.shape[1] - x])
            )
        if images:
            yield label, images


def clean(patients: int) -> None:
    print("\n## Clean images that the gate hands on (to be read or masked)\n")
    print("| set | images | handed on | CPU ms an image of 512x512 |\n|---|---|---|---|")
    total = touched = 0
    for label, images in clean_sets(patients):
        hits, spent = 0, []
        for pixels in images:
            grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
            started = time.thread_time()
            hits += bool(find_text_lines(grey))
            spent.append(1e3 * (time.thread_time() - started) * SIDE * SIDE / grey.size)
        total, touched = total + len(images), touched + hits
        cost = f"{statistics.median(spent):.2f} (fastest {min(spent):.2f})"
        print(f"| {label} | {len(images)} | {hits} ({hits / len(images):.1%}) | {cost} |")
    print(f"| all | {total} | {touched} ({touched / total:.1%}) | |")


def real_burned_in(maskers: dict[str, TextMasker], limit: int) -> None:
    files = sorted((DATA / "vqa_rad/VQA_RAD Image Folder").glob("*.jpg"))[:limit]
    if not files:
        return
    print(f"\n## Real burned-in text: {len(files)} whole VQA-RAD images, all with a watermark and most with an uploader's name\n")  # fmt: skip
    print(
        "| way | images with masked regions | regions | share of pixels masked, median | held |\n|---|---|---|---|---|"
    )
    for name, masker in maskers.items():
        kinds: Counter[str] = Counter()
        areas, hit = [], 0
        for file in files:
            pixels = np.asarray(Image.open(file).convert("RGB"))
            regions = masker.regions(pixels)
            hit += bool(regions)
            kinds.update(region.kind for region in regions)
            covered = np.zeros(pixels.shape[:2], bool)
            for region in regions:
                covered[region.top : region.bottom, region.left : region.right] = True
            areas.append(float(covered.mean()))
        held = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        print(f"| {name} | {hit} | {kinds.total()} | {statistics.median(areas):.1%} | {held} |")


def _walk(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def texts_of(folder: Path) -> Iterator[str]:
    """Every string in the JSON, JSONL and CSV files of a folder."""
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".csv":
            with file.open(encoding="utf-8", errors="replace", newline="") as handle:
                for row in csv.reader(handle):
                    yield from row
        elif file.suffix in (".json", ".jsonl", ".gz"):
            data = file.read_bytes()
            content = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
            try:
                yield from _walk(json.loads(content))
            except json.JSONDecodeError:
                for line in content.splitlines():
                    yield from _walk(json.loads(line))


def texts(show: int) -> None:
    print("\n## Identifiers found in public medical texts\n")
    print(
        "| set | texts | characters | texts with a finding | by kind | µs a text |\n|---|---|---|---|---|---|"
    )
    for name in ("vqa_rad", "slake_text", "mirage", "medquad", "mts_dialog", "k_qa", "rocov2_ccby"):
        if not (DATA / name).is_dir():
            continue
        kinds: Counter[str] = Counter()
        examples: list[str] = []
        count = characters = hits = 0
        spent = 0.0
        for text in texts_of(DATA / name):
            started = time.perf_counter()
            found = find_identifiers(text)
            spent += time.perf_counter() - started
            count, characters, hits = count + 1, characters + len(text), hits + bool(found)
            for one in found:
                kinds[one.kind] += 1
                around = text[max(0, one.start - 30) : one.end + 15].replace("\n", " ")
                examples.append(f"    {one.kind}: {around}")
        told = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()) or "-"
        print(f"| {name} | {count:,} | {characters:,} | {hits} ({hits / max(1, count):.3%}) | {told} | {1e6 * spent / max(1, count):.0f} |")  # fmt: skip
        if show:
            step = max(1, len(examples) // show)
            print("\n".join(examples[::step][:show]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=180, help="burned-in names a background")
    parser.add_argument(
        "--patients", type=int, default=20, help="clean phantom patients a modality"
    )
    parser.add_argument("--images", type=int, default=1000, help="whole VQA-RAD images")
    parser.add_argument("--show", type=int, default=0, help="findings in texts to print, a set")
    parser.add_argument(
        "--part", choices=("burned", "clean", "real", "texts"), help="one table only"
    )
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    maskers = {"gate alone": TextMasker()}
    if reader_available():
        maskers["gate and reader"] = TextMasker(RapidReader())
    else:
        print("the extra 'ocr' is not installed: columns of the reader are left out")
    if asked.part in (None, "burned"):
        burned_in(asked.cases, maskers)
    if asked.part in (None, "clean"):
        clean(asked.patients)
    if asked.part in (None, "real"):
        real_burned_in(maskers, asked.images)
    if asked.part in (None, "texts"):
        texts(asked.show)


if __name__ == "__main__":
    main()
