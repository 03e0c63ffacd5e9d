"""The test split is opened once a study.

Arms, seeds and measures are tuned with questions of the development split (`--dev`), as often as one likes. The first
run on the test split writes down what the study was; from then on a study that differs is refused, because the answers
would have helped to choose it. Going on with the same study after a kill, or with another budget, is no new opening.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_json, write_json
from infimed.studies.cells import FORMAT
from infimed.studies.definition import SENTENCES, Study, Variant
from infimed.studies.work import commit


def fingerprint(study: Study, preset: str) -> str:
    """Names everything of a study that could be chosen by looking at its results: not its words."""
    variant = study.presets[preset]
    return sha256_json({"format": FORMAT, "preset": preset, "variant": _chosen(variant)})[:16]


def _chosen(variant: Variant) -> dict[str, Any]:
    values: dict[str, Any] = variant.model_dump(mode="json")
    for sentence in SENTENCES:
        del values["conclusion"][sentence]
    for part in (*values["arms"], *values["measures"]):
        part.pop("label", None)
        part.pop("title", None)
    return values


def opening_file(out: Path, study: str, preset: str) -> Path:
    """Where it is written what a study was when its test split was opened."""
    return out / "opened" / f"{study}-{preset}.json"


def opened_studies(out: Path, shipped: Sequence[Study]) -> list[tuple[Study, str]]:
    """(study, preset) of everything whose test split was opened in `out`; words are those of now, where it ships."""
    by_name = {study.name: study for study in shipped}
    found = []
    for file in sorted((out / "opened").glob("*.json")):
        known = read_json(file)
        stored = Study.model_validate(known["definition"])
        preset = file.stem.removeprefix(f"{stored.name}-")
        now = by_name.get(stored.name)
        same = (
            now is not None and preset in now.presets and fingerprint(now, preset) == known["study"]
        )
        found.append((now if now is not None and same else stored, preset))
    return found


def open_test(study: Study, preset: str, out: Path) -> None:
    """Open the test split for a study, or go on with it.

    Raises:
        DataError: the study has changed since its test split was opened.
    """
    file = opening_file(out, study.name, preset)
    found = fingerprint(study, preset)
    if not file.is_file():
        when = time.strftime("%Y-%m-%d", time.gmtime())
        definition = study.model_dump(mode="json")
        write_json(
            file, {"study": found, "opened": when, "commit": commit(), "definition": definition}
        )
        return
    known = read_json(file)
    if known["study"] != found:
        raise DataError(
            f"the study {study.name!r} has changed since its test split was opened on {known['opened']}",
            where=str(file),
            seen=found,
            accepted=known["study"],
            fix="tune with --dev; a new question is a new study under another name, or another --out",
        )
