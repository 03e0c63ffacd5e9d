"""Where a ledger comes from: the rubric it was decided with, and the shards it speaks of.

The rubric stands in `curation.json`: a report can draw the thresholds in, and a limit can be changed
from what held before. The place of the shards is a file of its own, `shards.json`, relative to the
ledger, so that both can be moved together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infimed.core.errors import DataError, RecipeError
from infimed.core.files import read_json, write_json
from infimed.curation import ledger
from infimed.curation.leakage import stored_leak_rules
from infimed.curation.rubric import Rubric, default_rubric
from infimed.curation.summary import CurationSummary
from infimed.data.shards import ShardSet, open_shards

SHARDS_FILE: Final = "shards.json"


def note_shards(out: Path, shards: ShardSet) -> None:
    """Note beside a ledger where its shards are."""
    relative = Path(os.path.relpath(shards.path.resolve(), Path(out).resolve())).as_posix()
    write_json(Path(out) / SHARDS_FILE, {"path": relative, "data_sha256": shards.data_hash})


def read_rubric(out: Path, summary: CurationSummary, *, known_only: bool = False) -> Rubric:
    """The rubric of a finished ledger; a rule against a benchmark is made from the leakage table beside it.

    Args:
        known_only: leave out rules that this version does not have in that form (of another version,
            or made for one ledger, such as a leak against a benchmark): enough to look, not to decide.

    Raises:
        DataError: it is not stored and not the default one, does not have the ledger's hash, or names
            a rule that this version does not have in that form; or the leakage table is not its own.
    """
    file = Path(out) / ledger.SUMMARY_FILE
    stored = read_json(file).get("rubric")
    if known_only:
        return _known(stored) if isinstance(stored, dict) else default_rubric()
    try:
        rubric = default_rubric()
        if stored is not None:
            rubric = Rubric.from_dict(stored, str(file), stored_leak_rules(Path(out), stored))
    except RecipeError as error:
        raise DataError(
            f"this ledger was decided with a rule that is not in the catalogue ({error.what})",
            where=str(file),
            seen=error.seen,
            fix="decide it with the command that made it: infimed curate run",
        ) from error
    if rubric.identity != summary.rubric:
        raise DataError(
            "the rubric of this ledger is not known in this version",
            where=str(file),
            seen=rubric.identity,
            accepted=summary.rubric,
            fix="judge again: infimed curate run SHARDS --out FOLDER",
        )
    return rubric


def _known(stored: Mapping[str, Any]) -> Rubric:
    """The stored rubric without the rules that this version does not have."""
    here = default_rubric().to_dict()["rules"]
    rules = stored.get("rules")
    rules = rules if isinstance(rules, Mapping) else {}
    same = {
        name: rule
        for name, rule in rules.items()
        if name in here
        and isinstance(rule, Mapping)
        and rule.get("version") == here[name]["version"]
        and set(rule.get("thresholds") or {}) <= set(here[name]["thresholds"])
    }
    return Rubric.from_dict({**stored, "rules": same}, "the ledger's rubric")


def open_curated(out: Path, shards: Path | None, summary: CurationSummary) -> ShardSet:
    """The shards of a ledger: those given, else those noted when it was written.

    Raises:
        DataError: no shards there, or they are of another data set than the ledger.
    """
    out = Path(out)
    place = shards
    if place is None:
        noted = read_json(out / SHARDS_FILE) if (out / SHARDS_FILE).is_file() else {}
        if isinstance(noted, dict) and isinstance(noted.get("path"), str):
            place = Path(os.path.normpath(out / noted["path"]))
        elif (out.resolve().parent / "shards" / "manifest.json").is_file():
            place = out.resolve().parent / "shards"  # as in a run folder
        else:
            raise DataError(
                "the ledger does not say where its shards are",
                where=str(out),
                fix="give them: --shards FOLDER",
            )
    try:
        opened = open_shards(place)
    except DataError as error:
        if shards is not None:
            raise
        raise DataError(
            f"the shards of this ledger are no longer there ({error.what})",
            where=str(place),
            fix="say where they are now: --shards FOLDER",
        ) from error
    if opened.data_hash != summary.data_hash:
        opened.close()
        raise DataError(
            "these shards are not the ones this ledger was made from",
            where=str(place),
            seen=opened.data_hash[:16],
            accepted=summary.data_hash[:16],
            fix="give the right folder with --shards, or judge again: infimed curate run",
        )
    return opened
