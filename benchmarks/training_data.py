"""Captions of phantoms for the training benchmark: lengths log-normal, words that only the image can tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infimed.core.seeds import stream
from infimed.data.imaging import rgb_of
from infimed.data.phantom import generate_patient
from infimed.data.record import ImageRef, Message, Record
from infimed.model.processing import Processor


@dataclass(frozen=True)
class Captions:
    """Records and images in memory, read like shards."""

    made: tuple[Record, ...]
    squares: tuple[NDArray[np.uint8], ...]

    def record(self, number: int) -> Record:
        """Record `number`."""
        return self.made[number]

    def pixels(self, image: ImageRef) -> NDArray[np.uint8]:
        """The image as uint8 [H, W, 3]."""
        return self.squares[int(image.locator)]


def captions(
    processor: Processor,
    count: int,
    *,
    seed: int,
    size: int,
    median: float = 60,
    sigma: float = 0.6,
) -> Captions:
    """`count` phantoms with captions whose token counts are log-normal.

    A caption is what the phantom's records say of it, sentence after sentence, cut at the drawn length.
    """
    random = stream(seed, "caption lengths")
    lengths = np.clip(np.exp(random.normal(np.log(median), sigma, count)), 8, 500).astype(int)
    records, squares = [], []
    for number, length in enumerate(lengths.tolist()):
        patient = generate_patient(seed, number, size=size)
        first = next(r for r in patient.records if r.task == "caption")
        texts = [
            r.messages[-1].text
            for r in patient.records
            if r.images == first.images and r.task in ("caption", "report", "dialogue")
        ]
        ids: list[int] = []
        while len(ids) < length:
            for text in texts:
                ids += processor.text_ids(" " + text if ids else text)
        words = processor.decode(ids[:length])
        shown = ImageRef(str(number), sha256=f"{number:064d}")
        records.append(
            Record(
                id=f"caption-{number}",
                images=(shown,),
                messages=(
                    Message("user", (0, "\nDescribe this image.")),
                    Message("assistant", (words,)),
                ),
                task="caption",
                source="phantom",
            )
        )
        squares.append(rgb_of(patient.images[0].pixels))
    return Captions(tuple(records), tuple(squares))
