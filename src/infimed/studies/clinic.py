"""Folders of records that studies train on: one modality of the phantom clinic, and records of shards written anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.files import atomic_folder, write_text
from infimed.core.seeds import stream
from infimed.data.phantom import generate_patient
from infimed.data.record import ImageRef, Record, Split
from infimed.data.shards import ShardSet
from infimed.data.stored import encode_png
from infimed.studies.base import Clinic

RECORDS: Final = "records.jsonl"
IMAGES: Final = "images"
PNG: Final = b"\x89PNG"

Changed = Mapping[int, NDArray[np.uint8] | bytes]
"""Image number of a record -> new pixels or new stored bytes."""


def splits_of(clinic: Clinic) -> list[Split]:
    """The split of every patient: exact shares, shuffled."""
    names: list[Split] = list(clinic.splits)
    borders = list(accumulate(clinic.splits[name] for name in clinic.splits))
    order = stream(clinic.seed, "study", "splits").permutation(clinic.patients)
    found: list[Split] = ["train"] * clinic.patients
    for rank, patient in enumerate(order.tolist()):
        share = (rank + 0.5) / clinic.patients * borders[-1]
        found[patient] = next(n for n, b in zip(names, borders, strict=True) if share < b)
    return found


def clinic_records(clinic: Clinic, patients: int | None = None) -> list[Record]:
    """Records of the first patients (all by default), without pixels."""
    splits = splits_of(clinic)
    return [
        record
        for index in range(min(clinic.patients, patients or clinic.patients))
        for record in generate_patient(
            clinic.seed, index, size=clinic.size, modality=clinic.modality, split=splits[index]
        ).records
    ]


def write_modality(folder: Path, clinic: Clinic) -> None:
    """Write the clinic's patients to `folder`, complete or not at all; one that is there is left as it is."""
    if (folder / RECORDS).is_file():
        return
    splits = splits_of(clinic)
    with atomic_folder(folder) as partial:
        (partial / IMAGES).mkdir()
        lines = []
        for index in range(clinic.patients):
            case = generate_patient(
                clinic.seed, index, size=clinic.size, modality=clinic.modality, split=splits[index]
            )
            for image in case.images:
                (partial / image.locator).write_bytes(encode_png(image.pixels))
            lines += [record.to_json() + "\n" for record in case.records]
        write_text(partial / RECORDS, "".join(lines))


def write_records(
    folder: Path,
    records: Sequence[Record],
    sources: Iterable[ShardSet],
    changed: Mapping[int, Changed] | None = None,
) -> None:
    """Write records of shards as a data set of its own, complete or not at all.

    Args:
        sources: the shards that hold the images. changed: place in `records` -> its new images.
    """
    shards = list(sources)
    with atomic_folder(folder) as partial:
        (partial / IMAGES).mkdir()
        written: dict[str, str] = {}
        lines = []
        for place, record in enumerate(records):
            own = (changed or {}).get(place, {})
            refs = []
            for number, ref in enumerate(record.images):
                if number in own:
                    name = _changed_name(partial, f"{place:06d}-{number}", own[number])
                elif ref.sha256 in written:
                    name = written[ref.sha256]
                else:
                    name = written[ref.sha256] = _stored_name(partial, ref, shards)
                refs.append(ImageRef(f"{IMAGES}/{name}", "", 0, 0, ref.facts))
            lines.append(replace(record, images=tuple(refs)).to_json() + "\n")
        write_text(partial / RECORDS, "".join(lines))


def _stored_name(folder: Path, ref: ImageRef, shards: Sequence[ShardSet]) -> str:
    home = next((one for one in shards if one.holds(ref)), shards[0])
    data = home.image_bytes(ref.sha256)
    name = f"{ref.sha256}.{'png' if data.startswith(PNG) else 'jpg'}"
    (folder / IMAGES / name).write_bytes(data)
    return name


def _changed_name(folder: Path, stem: str, content: NDArray[np.uint8] | bytes) -> str:
    data = content if isinstance(content, bytes) else encode_png(content)
    (folder / IMAGES / f"{stem}.png").write_bytes(data)
    return f"{stem}.png"
