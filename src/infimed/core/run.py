"""The run folder: everything that happened, complete or absent.

One writer at a time; a changed recipe is refused with the difference; every file appears under its
name only when it is whole. Layout: docs/run-folder.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import infimed
from infimed.core.errors import DataError, RecipeError
from infimed.core.files import read_json, write_failed, write_json, write_text
from infimed.core.recipe import Recipe, differences, dump_recipe, same

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
    "pyarrow",
    "pydantic",
)


def environment() -> dict[str, Any]:
    """Versions and machine, without host name, user, paths or secrets."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "missing"
    return {
        "infimed": infimed.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "packages": versions,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


class RunFolder:
    """Paths and bookkeeping of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            DataError: another process is writing here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise DataError(
                    f"another process is writing to this run (process {handle.read().strip() or 'unknown'})",
                    where=str(self.path),
                    fix="wait for it, stop it, or give this run another name: name=OTHER",
                ) from error
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def adopt(self, recipe: Recipe) -> bool:
        """Write recipe and environment, or check that they are the run's; True when resuming.

        A precision of ``auto`` agrees with any; the file keeps the one that was decided.

        Raises:
            RecipeError: the folder was made with another recipe; the difference is shown.
        """
        file = self.path / "recipe.yaml"
        if not file.exists():
            write_json(self.path / "environment.json", environment())
            write_text(file, dump_recipe(recipe))
            return False
        old = yaml.safe_load(file.read_text(encoding="utf-8"))
        new = yaml.safe_load(dump_recipe(recipe))
        decides = old["train"].get("precision") == "auto" != new["train"]["precision"]
        if decides:
            old["train"]["precision"] = new["train"]["precision"]
        elif new["train"]["precision"] == "auto":
            new["train"]["precision"] = old["train"].get("precision")
        if not same(old, new):
            raise RecipeError(
                "this run folder was made with another recipe:\n  "
                + "\n  ".join(differences(old, new)),
                where=str(self.path),
                fix="give the new run another name (name=OTHER), or remove the folder to start over",
            )
        if decides:
            write_text(file, dump_recipe(recipe))
        return True

    def check_data(self, hashes: Mapping[str, str]) -> None:
        """Write data.json, or refuse when the data changed since the run began.

        Raises:
            DataError: a hash differs.
        """
        file = self.path / "data.json"
        if file.exists():
            old = read_json(file)
            changed = sorted(k for k in {*old, *hashes} if old.get(k) != hashes.get(k))
            if changed:
                raise DataError(
                    f"the data changed since this run began: {', '.join(changed)}",
                    where=str(file),
                    fix="give the new run another name (name=OTHER)",
                )
            return
        write_json(file, dict(hashes))

    def status(self, state: str, **facts: Any) -> None:
        """Replace STATUS.json: where the run is, for people and for schedulers."""
        value = {
            "state": state,
            "updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        write_json(self.path / "STATUS.json", value)


class MetricsLog:
    """Append-only `metrics.jsonl`; the source of truth of curves and of the report."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a torn last line of a killed run is ignored."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def last_step(self) -> int:
        """The last step that is there, 0 without any."""
        return max((int(row.get("step", 0)) for row in self.read()), default=0)

    def rewind(self, step: int) -> None:
        """Forget steps after `step`: they will be done again."""
        kept = [row for row in self.read() if row.get("step", 0) <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            DataError: the disk is full.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")
        except OSError as error:
            raise write_failed(self.path, str(error)) from error
