"""A small data set in memory with the interface of a `ShardSet`, for curation tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.data.record import ImageRef, Record, question_record


def picture(seed: int, side: int = 160) -> NDArray[np.uint8]:
    """A distinct, sharp, textured grey picture; uint8 RGB [side, side, 3]."""
    random = np.random.default_rng(seed)
    image = np.full((side, side), 20.0, np.float32)
    for _ in range(7):
        centre = tuple(int(v) for v in random.integers(20, side - 20, 2))
        axes = tuple(int(v) for v in random.integers(8, side // 4, 2))
        cv2.ellipse(
            image,
            centre,
            axes,
            float(random.integers(180)),
            0,
            360,
            float(random.integers(60, 240)),
            -1,
        )
    image += random.normal(0, 3, image.shape)
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@dataclass
class Memory:
    """Records and pixels in memory; `fail` names images that cannot be decoded."""

    records: list[Record] = field(default_factory=list)
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    fail: dict[str, str] = field(default_factory=dict)
    data_hash: str = "memory"
    decoded: int = 0

    def __len__(self) -> int:
        return len(self.records)

    def record(self, number: int) -> Record:
        return self.records[number]

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        if ref.sha256 in self.fail:
            raise DataError(self.fail[ref.sha256], where=ref.sha256)
        self.decoded += 1
        return self.images[ref.sha256]

    def image(self, pixels: NDArray[np.uint8], label: str = "") -> ImageRef:
        """Store an image; `label` makes two files of the same pixels."""
        key = hashlib.sha256(pixels.tobytes() + label.encode()).hexdigest()
        self.images[key] = pixels
        return ImageRef(key, key, pixels.shape[1], pixels.shape[0])

    def ask(
        self,
        refs: tuple[ImageRef, ...],
        question: str,
        answer: str,
        task: str = "closed",
        **common: object,
    ) -> Record:
        """Add a record and return it."""
        number = len(self.records)
        record = question_record(
            id=f"r{number}",
            question=question,
            answer=answer,
            images=refs,
            task=task,
            source="test",
            **common,  # type: ignore[arg-type]
        )
        self.records.append(record)
        self.data_hash = hashlib.sha256((self.data_hash + record.to_json()).encode()).hexdigest()
        return record


def clinic(patients: int = 12) -> Memory:
    """Clean records and one defect of several kinds; ids r0, r1, ... in order."""
    memory = Memory()
    for patient in range(patients):
        ref = memory.image(picture(patient))
        memory.ask((ref,), "Is there a pleural effusion?", "yes" if patient % 2 else "no")
        memory.ask((ref,), "Is there a fracture of the ribs?", "no")
        memory.ask((ref,), f"Where is lesion {patient} of the lung?", "right upper lobe", "open")
    blank = memory.image(np.zeros((160, 160, 3), np.uint8))
    memory.ask((blank,), "Is there a pleural effusion?", "no")
    broken = memory.image(picture(900))
    memory.fail[broken.sha256] = "the image data ends too early"
    memory.ask((broken,), "Is there a pleural effusion?", "no")
    memory.ask(
        (memory.records[0].images[0],), "Describe the image.", "CT of the chest with", "caption"
    )
    return memory


def renamed(record: Record, id: str) -> Record:
    """A copy under another id."""
    return replace(record, id=id)
