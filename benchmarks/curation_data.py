"""Data for the curation benchmark: phantoms as JPEG and DICOM, and a million generated records."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.data.importing import import_data
from infimed.data.phantom import generate_patient
from infimed.data.phantom.dicom import STORAGE, write_dicom
from infimed.data.record import ImageRef, Record, question_record
from infimed.data.shards import ShardSet, open_shards

COLOUR = ("fundus", "histology")
SENSOR_NOISE = 1.5
"""Grey levels. With it a 512x512 phantom at quality 90 takes 43 kB, as real images do that are brought to this size and
quality: ROCOv2 44 kB, VQA-RAD 40 kB, BCCD 32 kB (`curation.py real`)."""


def modality_of(number: int) -> str:
    """Modality of image `number`: seven of ten grey."""
    kinds = sorted_kinds()
    grey, colour = kinds
    return grey[number // 10 % len(grey)] if number % 10 < 7 else colour[number % len(colour)]


def sorted_kinds() -> tuple[list[str], list[str]]:
    from infimed.data.phantom.catalogue import BY_KEY

    colour = [key for key in BY_KEY if any(part in key for part in COLOUR)]
    return [key for key in BY_KEY if key not in colour], colour


def jpeg_source(folder: Path, records: int, size: int = 512) -> Path:
    """Where the files of `jpeg_shards` lie; named by all that shapes them, so that none of another kind are taken."""
    return folder / f"jpeg-{records}-{size}-noise-{SENSOR_NOISE}"


def jpeg_shards(folder: Path, records: int, size: int = 512, acquisitions: int = 4) -> ShardSet:
    """Shards of `records` JPEG records, one image each; made once.

    A phantom patient is imaged `acquisitions` times with its own sensor noise, and each image gets
    another of the questions about it, so that every record is a decode and none a duplicate.
    """
    source = jpeg_source(folder, records, size)
    out = source.with_name(f"{source.name}-shards")
    if not (out / "manifest.json").is_file():
        (source / "images").mkdir(parents=True, exist_ok=True)
        lines: list[str] = []
        patient = 0
        while len(lines) < records:
            case = generate_patient(11, patient, size=size, modality=modality_of(patient))
            image = case.images[0]
            asked = [r for r in case.records if [i.locator for i in r.images] == [image.locator]]
            for take in range(min(acquisitions, len(asked), records - len(lines))):
                name = f"images/{len(lines):06d}.jpg"
                noise = np.random.default_rng(len(lines)).normal(
                    0, SENSOR_NOISE, image.pixels.shape
                )
                shot = np.clip(image.pixels + noise, 0, 255).astype(np.uint8)
                coded = shot if shot.ndim == 2 else cv2.cvtColor(shot, cv2.COLOR_RGB2BGR)
                data = cv2.imencode(".jpg", coded, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
                (source / name).write_bytes(data.tobytes())
                record = asked[(patient + take) % len(asked)]
                reference = replace(record.images[0], locator=name)
                record = replace(record, id=f"{record.id}-{take}", images=(reference,))
                lines.append(record.to_json())
            patient += 1
        (source / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        import_data(source, out)
    return open_shards(out)


def dicom_files(folder: Path, files: int, size: int = 512) -> list[Path]:
    """Phantoms as DICOM files, made once."""
    target = folder / f"dicom-{files}"
    target.mkdir(parents=True, exist_ok=True)
    made: list[Path] = sorted(target.glob("*.dcm"))
    patient = 0
    while len(made) < files:
        image = generate_patient(12, patient, size=size).images[0]
        patient += 1
        if image.truth.kind.dicom in STORAGE:
            path = target / f"{patient:05d}.dcm"
            write_dicom(path, image)
            made.append(path)
    return made[:files]


@dataclass
class Crowd:
    """A source of any number of records, made when asked for; nothing is kept but `bases` pictures.

    Record i shows picture ``i % bases`` with a small spot of its own. One record in 20 repeats the
    words and the pixels of the one 7 before it; one in 50 its words and, three grey levels
    brighter, its picture. All other texts are different.
    """

    records_in_all: int
    bases: int = 2000
    side: int = 64

    @property
    def data_hash(self) -> str:
        return f"crowd-{self.records_in_all}-{self.bases}-{self.side}"

    def __len__(self) -> int:
        return self.records_in_all

    @cached_property
    def _bases(self) -> NDArray[np.uint8]:
        cases = (generate_patient(13, i, size=self.side) for i in range(self.bases))
        images = (case.images[0].pixels for case in cases)
        grey = [p if p.ndim == 2 else cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in images]
        return np.stack(grey)

    def record(self, number: int) -> Record:
        original = number - 7 if number % 20 == 19 or number % 50 == 48 else number
        seen = original if number % 20 == 19 else number
        name = hashlib.sha256(b"%d" % seen).hexdigest()
        brighter = 3 if number % 50 == 48 else 0
        ref = ImageRef(f"{original}+{brighter}", name, self.side, self.side)
        slice_, size = original % 997, original % 61 + 3
        if original % 2:
            return question_record(
                id=f"crowd-{number}", images=(ref,), task="closed", answer="yes" if size > 30 else "no",
                question=f"Is lesion {original} on slice {slice_} of the liver larger than 30 mm?",
                source="crowd", facts={"modality": "CT"},
            )  # fmt: skip
        text = (
            f"Axial CT of the abdomen, slice {slice_}, with lesion number {original} of {size} mm in"
            f" segment {original % 8 + 1} of the liver and no enlarged lymph node."
        )
        return question_record(
            id=f"crowd-{number}", images=(ref,), task="caption", question="Describe the image.",
            answer=text, source="crowd", facts={"modality": "CT"},
        )  # fmt: skip

    def planes(self, ref: ImageRef) -> NDArray[np.uint8]:
        original, _, brighter = ref.locator.partition("+")
        number = int(original)
        image = cv2.add(self._bases[number % self.bases], int(brighter))
        y, x = (number * 7919) % (self.side - 8), (number * 104729) % (self.side - 8)
        spot = image[y : y + 6, x : x + 6]
        spot[:] = (spot.astype(np.int32) // 2 + number // self.bases % 97 + 20).astype(np.uint8)
        return np.asarray(image, np.uint8)

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        return np.asarray(cv2.cvtColor(self.planes(ref), cv2.COLOR_GRAY2RGB), np.uint8)
