"""The phantom clinic as files: images, records, truth, and a manifest written last.

Invariants: the folder's content depends on the arguments alone, not on the number of processes;
`clinic.json` exists only when everything else does; a run that was killed continues with the first
unfinished chunk of patients. Cost: about 8 ms per image at 192 pixels on one core, with all texts.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.core.console import progress
from infimed.core.errors import UsageError, nearest_name
from infimed.core.files import atomic_open, read_json, sha256_json, write_json
from infimed.core.seeds import stream
from infimed.data.phantom.catalogue import MODALITIES
from infimed.data.phantom.dicom import STORAGE, write_dicom
from infimed.data.phantom.patient import generate_patient
from infimed.data.record import SPLITS, Record, Split

CHUNK_PATIENTS = 60
FORMAT = 3
"""Counts up when the same arguments would give other content, so that old folders are remade."""
PNG_LEVEL = 1
MANIFEST = "clinic.json"
_PARTS = ".parts"


@dataclass(frozen=True, slots=True)
class ClinicSummary:
    """What a clinic folder holds.

    Attributes:
        folder: where it is. patients, images, records: how many.
        by_split: records per split. by_question: records per question type. reused: whether the
            folder was complete before and nothing was done.
    """

    folder: Path
    patients: int
    images: int
    records: int
    by_split: dict[str, int]
    by_question: dict[str, int]
    reused: bool


@dataclass(frozen=True, slots=True)
class _Job:
    folder: Path
    chunk: int
    patients: tuple[tuple[int, Split], ...]
    seed: int
    size: int
    dicom: bool


def split_patients(patients: int, seed: int, splits: Mapping[str, float]) -> list[Split]:
    """Assign patients to splits: exact shares, shuffled within every modality.

    Shares are taken within each modality (patients come in turns of the catalogue), so a small test
    set has every modality.

    Raises:
        UsageError: an unknown split, or shares that are negative or do not sum to 1.
    """
    for name in splits:
        if name not in SPLITS:
            raise UsageError(
                "unknown split", seen=name, accepted=SPLITS, nearest=nearest_name(name, SPLITS)
            )
    if not splits or min(splits.values()) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
        raise UsageError(
            "split shares must be positive and sum to 1",
            seen=dict(splits),
            accepted="for example {'train': 0.8, 'test': 0.2}",
        )
    borders = list(itertools.accumulate(splits.values()))
    names = list(splits)
    out: list[Any] = ["train"] * patients
    for first in range(len(MODALITIES)):
        members = list(range(first, patients, len(MODALITIES)))
        order = stream(seed, "phantom", "splits", first).permutation(len(members))
        for rank, position in enumerate(order):
            share = (rank + 0.5) / len(members)
            out[members[int(position)]] = next(
                (n for n, b in zip(names, borders, strict=True) if share < b), names[-1]
            )
    return out


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    shown = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", shown, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    # No fsync per image: the chunk's part file, written afterwards, is what says it is complete.
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data.tobytes())
    partial.replace(path)


def _part(folder: Path, chunk: int) -> Path:
    return folder / _PARTS / f"{chunk:06d}.json"


def _make_chunk(job: _Job) -> int:
    """Write one chunk's images, then its part file; returns the number of images."""
    cv2.setNumThreads(1)
    records: list[str] = []
    truths: list[dict[str, Any]] = []
    for index, split in job.patients:
        case = generate_patient(job.seed, index, size=job.size, split=split)
        for image in case.images:
            _write_png(job.folder / image.locator, image.pixels)
            changes = dict(case.changes) if image.truth.time == 1 else {}
            truths.append(
                {
                    "locator": image.locator,
                    "split": split,
                    **image.truth.to_dict(),
                    "changes": changes,
                }
            )
            if job.dicom and image.truth.kind.dicom in STORAGE:
                write_dicom(job.folder / "dicom" / f"{image.truth.image_id}.dcm", image)
        records.extend(record.to_json() for record in case.records)
    write_json(_part(job.folder, job.chunk), {"records": records, "truth": truths})
    return len(truths)


def _jobs(folder: Path, splits: list[Split], seed: int, size: int, dicom: bool) -> Iterator[_Job]:
    numbered = list(enumerate(splits))
    for chunk, first in enumerate(range(0, len(numbered), CHUNK_PATIENTS)):
        yield _Job(
            folder, chunk, tuple(numbered[first : first + CHUNK_PATIENTS]), seed, size, dicom
        )


def _assemble(folder: Path, chunks: int) -> tuple[int, Counter[str], Counter[str]]:
    """Join the parts, in order, into the three files; returns images, records by split and by type."""
    images = 0
    by_split: Counter[str] = Counter()
    by_question: Counter[str] = Counter()
    with (
        atomic_open(folder / "records.jsonl", "w") as records,
        atomic_open(folder / "truth.jsonl", "w") as truth,
    ):
        for chunk in range(chunks):
            part = read_json(_part(folder, chunk))
            for line in part["records"]:
                record = Record.from_json(line)
                by_split[record.split] += 1
                by_question[str(record.facts["question_type"])] += 1
                records.write(line + "\n")
            for row in part["truth"]:
                images += 1
                truth.write(json.dumps(row, sort_keys=True) + "\n")
    return images, by_split, by_question


def _summary(folder: Path, manifest: Mapping[str, Any], reused: bool) -> ClinicSummary:
    return ClinicSummary(
        folder,
        manifest["parameters"]["patients"],
        manifest["images"],
        manifest["records"],
        dict(manifest["by_split"]),
        dict(manifest["by_question"]),
        reused,
    )


def write_clinic(
    folder: str | os.PathLike[str],
    *,
    patients: int,
    seed: int,
    size: int = 192,
    splits: Mapping[str, float],
    workers: int = 1,
    dicom: bool = False,
) -> ClinicSummary:
    """Write a clinic: `images/*.png`, `records.jsonl`, `truth.jsonl`, `clinic.json` (last).

    Args:
        folder: where. A complete clinic with the same arguments is left as it is; one with other
            arguments is replaced; an interrupted one is continued.
        patients: how many; each has one image or a prior and a current one.
        seed: the clinic's seed. size: pixels. splits: share of the patients per split.
        workers: processes; the result does not depend on it.
        dicom: also write `dicom/*.dcm` for chest radiographs, MRI and CT.

    Raises:
        UsageError: an argument out of range. DataError: the disk is full or not writable.
    """
    target = Path(folder)
    if patients < 1 or workers < 1:
        raise UsageError("patients and workers must be at least 1", seen=(patients, workers))
    parameters = {
        "format": FORMAT,
        "patients": patients,
        "seed": seed,
        "size": size,
        "splits": dict(splits),
        "dicom": dicom,
    }
    assigned = split_patients(patients, seed, splits)
    if (target / MANIFEST).exists():
        manifest = read_json(target / MANIFEST)
        if manifest.get("parameters") == parameters:
            return _summary(target, manifest, reused=True)
    _clear_unless(target, sha256_json(parameters))
    for name in ("images", _PARTS, *(["dicom"] if dicom else [])):
        (target / name).mkdir(parents=True, exist_ok=True)
    jobs = list(_jobs(target, assigned, seed, size, dicom))
    open_jobs = [job for job in jobs if not _part(target, job.chunk).exists()]
    with progress(
        "phantom clinic",
        patients,
        patients - sum(len(job.patients) for job in open_jobs),
        "patients",
    ) as advance:
        for job in _run(open_jobs, workers):
            advance(len(job.patients))
    images, by_split, by_question = _assemble(target, len(jobs))
    manifest = {
        "parameters": parameters,
        "images": images,
        "records": by_split.total(),
        "by_split": dict(sorted(by_split.items())),
        "by_question": dict(sorted(by_question.items())),
    }
    write_json(target / MANIFEST, manifest)
    shutil.rmtree(target / _PARTS)
    return _summary(target, manifest, reused=False)


def _clear_unless(target: Path, key: str) -> None:
    """Remove what an earlier run with other arguments left; keep the parts of the same one."""
    mark = target / _PARTS / "parameters.sha256"
    if not (mark.exists() and mark.read_text(encoding="utf-8") == key):
        (target / MANIFEST).unlink(missing_ok=True)
        for name in ("images", "dicom", _PARTS):
            shutil.rmtree(target / name, ignore_errors=True)
        with atomic_open(mark, "w") as handle:
            handle.write(key)


def _run(jobs: list[_Job], workers: int) -> Iterator[_Job]:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            _make_chunk(job)
            yield job
        return
    # Not by forking: where this process has computed with torch before, a fork inherits locks that
    # threads it does not inherit would have to open, and waits for ever.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as executor:
        for job, _ in zip(jobs, executor.map(_make_chunk, jobs), strict=True):
            yield job


def summary_dict(summary: ClinicSummary) -> dict[str, Any]:
    """The summary as JSON-ready values."""
    return {**asdict(summary), "folder": str(summary.folder)}
