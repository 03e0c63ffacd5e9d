"""Where the files of a benchmark are: below a data root, in a named folder, or on the Hub.

Nothing is fetched unless it is asked for. A folder is taken for a benchmark by its name, never by what
happens to lie in it, and links are not followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infimed.core.errors import DataError, UsageError, missing_extra
from infimed.data.fieldmap import FieldMap
from infimed.data.readers.rowfiles import matching_files
from infimed.evaluation.origin import UNVERIFIED
from infimed.evaluation.spec import TaskSpec


class NoData(DataError):
    """The files of a benchmark are not where they were looked for."""


@dataclass(frozen=True, slots=True)
class DataPlaces:
    """Where benchmarks may lie: roots with a folder each, and folders named for one task."""

    roots: tuple[Path, ...] = ()
    named: dict[str, Path] = field(default_factory=dict)

    @staticmethod
    def parse(values: Sequence[str]) -> DataPlaces:
        """From ``DIR`` and ``TASK=DIR`` as typed.

        Raises:
            UsageError: no such folder.
        """
        roots, named = [], {}
        for value in values:
            task, equals, place = value.partition("=")
            folder = Path(place if equals else value).expanduser()
            if not folder.is_dir():
                raise UsageError(
                    "no such folder", where="--data", seen=str(folder), accepted="DIR or TASK=DIR"
                )
            if equals:
                named[task] = folder
            else:
                roots.append(folder)
        return DataPlaces(tuple(roots), named)

    def candidates(self, spec: TaskSpec) -> list[Path]:
        """Folders that may hold a task's files, in the order in which they are tried.

        Below a root: the task's name, the last part of its Hub id, its other names (case does not
        matter). The root itself only where it has such a name: many benchmarks call their file
        test.json, and none may be taken for another.
        """
        if spec.name in self.named:
            return [self.named[spec.name]]
        names = [spec.name, spec.source.hub.rpartition("/")[2], *spec.source.folders]
        wanted = [name.lower() for name in names if name]
        found = []
        for root in self.roots:
            below = {
                entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()
            }
            found += [below[name] for name in dict.fromkeys(wanted) if name in below]
            if root.resolve().name.lower() in wanted:
                found.append(root)
        return found


def locate(spec: TaskSpec, places: DataPlaces) -> tuple[Path, FieldMap]:
    """The folder with a task's files, and the layout they have there.

    Raises:
        NoData: no folder has the files of any layout. DataError: they are links.
    """
    tried = places.candidates(spec)
    for folder in tried:
        for layout in spec.layouts:
            files = matching_files(folder, layout)
            if any(found.split == spec.split for found in files) and all(
                any(folder.glob(join.file)) for join in layout.join.values()
            ):
                _refuse_links(spec, [found.file for found in files])
                return folder, layout
    raise NoData(
        "the files of this benchmark are not here",
        where=f"task {spec.name}",
        seen=", ".join(map(str, tried)) or None,
        accepted="; or ".join(_wanted(spec, layout) for layout in spec.layouts),
        fix=_how_to_get(spec),
    )


def _refuse_links(spec: TaskSpec, files: Sequence[Path]) -> None:
    """A link is not followed by an import: what it points to could change unseen."""
    link = next((file for file in files if file.is_symlink()), None)
    if link is not None:
        raise DataError(
            "the files of this benchmark are links, as in the Hub's cache; links are not followed",
            where=f"task {spec.name}",
            seen=str(link),
            fix="copy the folder with `cp -rL`, or download it with `hf download --local-dir`",
        )


def download(spec: TaskSpec, cache: Path) -> Path:
    """Fetch a task's files from the Hub at its pinned revision; returns their folder.

    Only the files that a layout names are fetched. Where no revision is pinned the newest is taken.

    Raises:
        UsageError: the task is not on the Hub, or the extra `hub` is not installed.
        DataError: it cannot be fetched (no network, terms not accepted, no such revision).
    """
    if not spec.source.hub:
        raise UsageError("this benchmark is not on the Hub", where=spec.name, fix=_how_to_get(spec))
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise missing_extra("hub", "huggingface_hub") from error
    pinned = spec.source.revision.value if spec.source.revision else UNVERIFIED
    patterns = [
        pattern.partition("#")[0].removeprefix("**/")
        for layout in spec.layouts
        for group in (*layout.files.values(), [join.file for join in layout.join.values()])
        for pattern in group
    ]
    try:
        folder = snapshot_download(
            spec.source.hub,
            repo_type="dataset",
            revision=None if pinned == UNVERIFIED else str(pinned),
            allow_patterns=patterns,
            local_dir=cache / "hub" / f"{spec.source.hub.replace('/', '--')}@{pinned}",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(
            "cannot be fetched from the Hub",
            where=spec.source.hub,
            seen=str(error).strip().partition("\n")[0],
            fix=_how_to_get(spec),
        ) from error
    return Path(folder)


def _wanted(spec: TaskSpec, layout: FieldMap) -> str:
    files = " or ".join(layout.files.get(spec.split, ())) or "no file of its split"
    joined = [join.file for join in layout.join.values()]
    return " with ".join([files, *joined])


def _how_to_get(spec: TaskSpec) -> str:
    name = spec.source.hub.rpartition("/")[2] or spec.name
    place = f"--data ROOT with ROOT/{name}, or --data {spec.name}=FOLDER"
    got = f"{spec.source.get} " if spec.source.get else ""
    return f"{got}{'huggingface.co/datasets/' + spec.source.hub + '; ' if spec.source.hub else ''}{place}"
