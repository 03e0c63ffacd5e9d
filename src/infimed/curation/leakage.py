"""The leakage table of a data set against a benchmark, and the rule that drops what leaks.

``leakage.parquet`` has one row a matching pair, ``leakage.html`` the same to read, ``leakage.json``
the counts. They depend on the two data sets alone. Dropping is a data-set rule like any other, so
the ledger says of every dropped record which benchmark record it matches and how.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.errors import DataError
from infimed.core.files import atomic_open, read_json, sha256_json, write_json
from infimed.curation.columns import Flags, SetColumns
from infimed.curation.findings import Hit
from infimed.curation.rubric import Rubric
from infimed.curation.rules.base import Limits, Threshold
from infimed.curation.rules.dataset import DataSetRule, Found, Line, Lookup
from infimed.data.shards import ShardSet, open_shards
from infimed.matching.leakage import Leak, Side, counts, find_leaks, read_side, worst_by_row

RULE: Final = "relevance.benchmark_leak"
TABLE: Final = "leakage.parquet"
PAGE: Final = "leakage.html"
SUMMARY: Final = "leakage.json"
COMPARISON: Final = "comparison"
_PAGE_ROWS: Final = 2000
_PICTURE_SIDE: Final = 160

_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()), ("record_id", pa.string()), ("other_row", pa.int64()),
        ("other_id", pa.string()), ("kind", pa.string()), ("image", pa.string()),
        ("image_score", pa.float64()), ("image_key", pa.string()), ("other_key", pa.string()),
        ("question", pa.string()), ("question_score", pa.float64()),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Leakage:
    """The result of one comparison.

    Attributes:
        leaks: matching pairs in order. data_hash, against_hash: the two data sets.
        unreadable: images of either side that could not be decoded and took no part.
        against: name of the benchmark, its folder's name.
    """

    leaks: tuple[Leak, ...]
    data_hash: str
    against_hash: str
    against: str
    unreadable: int

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each kind and records involved."""
        return counts(self.leaks)


def open_against(path: Path, work: Path, workers: int | None = None) -> ShardSet:
    """Shards of the benchmark: opened where `path` holds shards, else imported below `work`.

    Raises:
        DataError: neither shards nor data of a known form.
    """
    from infimed.data.importing import import_data

    if not path.exists():
        raise DataError(
            "no such folder or file",
            where=str(path),
            fix="--against takes shards, or a data set in any form that `infimed data import` reads",
        )
    if path.is_dir() and (path / "manifest.json").is_file():
        return open_shards(path)
    target = work / f"against-{path.name}"
    import_data(path, target, workers=workers)
    return open_shards(target)


def compare_sets(
    shards: ShardSet,
    against: ShardSet,
    out: Path,
    *,
    workers: int = 1,
    on_progress: Callable[[int], None] = lambda n: None,
    pictures: bool = False,
) -> Leakage:
    """Find all leaking pairs and write table, page and counts into `out`.

    Args:
        pictures: show the matching images in the page (they are patient images, burned-in text
            included).
    """
    ours = read_side(shards, workers=workers, on_progress=on_progress)
    theirs = read_side(against, workers=workers, on_progress=on_progress)
    found = Leakage(
        tuple(find_leaks(ours, theirs)), shards.data_hash, against.data_hash,
        against.path.name.removeprefix("against-"), ours.unreadable + theirs.unreadable,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([asdict(leak) for leak in found.leaks], schema=_SCHEMA)
    with atomic_open(out / TABLE) as handle:
        pq.write_table(table, handle, compression="zstd")
    with atomic_open(out / PAGE, "w") as handle:
        handle.write("\n".join(_page(found, ours, theirs, pictures)))
    _write_summary(found, out)
    return found


def read_leaks(out: Path) -> list[Leak]:
    """The pairs of a finished comparison.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(out) / TABLE
    if not path.is_file():
        raise DataError(
            "no leakage table here",
            where=str(path),
            fix="run: infimed curate leakage SHARDS --against OTHER --out FOLDER",
        )
    try:
        return [Leak(**row) for row in pq.read_table(path, schema=_SCHEMA).to_pylist()]
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DataError("the leakage table cannot be read", where=str(path)) from error


def read_leakage(out: Path) -> Leakage:
    """A finished comparison as `compare_sets` returned it: what a leak rule is made of, without images.

    Raises:
        DataError: there is none, or it is damaged.
    """
    leaks = read_leaks(out)
    value = read_json(Path(out) / SUMMARY)
    try:
        return Leakage(
            tuple(leaks), str(value["data"]), str(value["against_hash"]), str(value["against"]),
            int(value["unreadable_images"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("not the counts of a comparison", where=str(Path(out) / SUMMARY)) from error


def comparison_identity(found: Leakage) -> float:
    """What tells one comparison from another, as a number that a rule's threshold can hold."""
    identity = sha256_json(
        [found.data_hash, found.against_hash, [asdict(leak) for leak in found.leaks]]
    )
    return float(int(identity[:12], 16))


def leak_rule(found: Leakage) -> DataSetRule:
    """The rule that drops every record of the data set that leaks; version and limits as any rule's.

    Its one threshold is no limit but the identity of the comparison, so that a ledger made against
    another benchmark is never taken for this one.
    """
    worst = worst_by_row(found.leaks)

    def check(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
        return [
            (line.row, _hit(worst[line.row], found.against)) for line in lines if line.row in worst
        ]

    def check_columns(columns: SetColumns, alive: Flags, limits: Limits) -> Found:
        return [(row, _hit(worst[row], found.against)) for row in sorted(worst) if alive[row]]

    return DataSetRule(
        RULE, 1, "relevance", "drop",
        f"Shows or asks what the benchmark {found.against} shows or asks.",
        check,
        {COMPARISON: Threshold(comparison_identity(found), "identity of the leakage table")},
        check_columns=check_columns,
        needs="none",
    )  # fmt: skip


def stored_leak_rules(out: Path, rubric: Mapping[str, Any]) -> tuple[DataSetRule, ...]:
    """The leak rule that a stored rubric (`Rubric.to_dict()`) names, from the table beside its ledger.

    Raises:
        DataError: the table is missing, damaged, or of another comparison.
    """
    setting = rubric.get("rules", {}).get(RULE)
    if setting is None:
        return ()
    found = read_leakage(out)
    seen, here = _comparison(setting), comparison_identity(found)
    if seen != here:
        raise DataError(
            "the leakage table beside this ledger is of another comparison than its verdicts",
            where=str(Path(out) / TABLE),
            fix="compare and judge again: infimed curate run SHARDS --against OTHER --out FOLDER",
        )
    return (leak_rule(found),)


def _comparison(setting: Any) -> float | None:
    try:
        return float(setting["thresholds"][COMPARISON]["value"])
    except (KeyError, TypeError, ValueError):
        return None


def forget_leaks(out: Path, data_before: str, data_after: str) -> float | None:
    """Count a leakage table again after records were taken out of it (`forgetting`).

    Returns:
        the new identity of the comparison; None where there is no table of this data. Safe to call again.
    """
    if not (Path(out) / TABLE).is_file() or not (Path(out) / SUMMARY).is_file():
        return None
    found = read_leakage(out)
    if found.data_hash not in (data_before, data_after):
        return None
    made = replace(found, data_hash=data_after)
    _write_summary(made, Path(out))
    return comparison_identity(made)


def _write_summary(found: Leakage, out: Path) -> None:
    write_json(
        out / SUMMARY,
        {
            "against": found.against, "data": found.data_hash, "against_hash": found.against_hash,
            "unreadable_images": found.unreadable, **found.counts,
        },
    )  # fmt: skip


def with_leaks(rubric: Rubric, found: Leakage) -> Rubric:
    """The rubric with the leak rule before all other data-set rules.

    It comes first so that a leaking original never drops its clean-looking copy as a duplicate.
    """
    return with_rule(rubric, leak_rule(found))


def with_rule(rubric: Rubric, leak: DataSetRule) -> Rubric:
    """The rubric with this leak rule first among its data-set rules."""
    others = tuple(rule for rule in rubric.dataset_rules if rule.id != RULE)
    return replace(rubric, dataset_rules=(leak, *others))


def _hit(leak: Leak, against: str) -> Hit:
    parts = [part for part in (leak.image, leak.question) if part]
    value = leak.image_score if leak.image else leak.question_score
    return Hit(
        "data set", f"{leak.kind} of record {leak.other_id} in {against}: {'; '.join(parts)}", value
    )


def _page(found: Leakage, ours: Side, theirs: Side, pictures: bool) -> Iterator[str]:
    yield "<!doctype html><meta charset='utf-8'><title>Leakage</title>"
    yield (
        "<style>body{font:14px system-ui;margin:2em}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:4px 8px;text-align:left;vertical-align:top}</style>"
    )
    yield f"<h1>Leakage against {html.escape(found.against)}</h1><table>"
    for name, count in found.counts.items():
        yield f"<tr><td>{html.escape(name)}</td><td>{count}</td></tr>"
    yield f"<tr><td>unreadable images</td><td>{found.unreadable}</td></tr></table>"
    if not found.leaks:
        yield "<p>No record of the data set matches a record of the benchmark.</p>"
        return
    shown = found.leaks[:_PAGE_ROWS]
    yield f"<p>{len(shown)} of {len(found.leaks)} pairs; all are in {TABLE}.</p><table>"
    heads = ("record", "benchmark record", "kind", "image", "score", "question", "score")
    yield "<tr>" + "".join(f"<th>{head}</th>" for head in heads)
    yield ("<th>pictures</th>" if pictures else "") + "</tr>"
    for leak in shown:
        cells: Sequence[Any] = (
            leak.record_id, leak.other_id, leak.kind, leak.image,
            f"{leak.image_score:.3f}" if leak.image else "",
            leak.question, f"{leak.question_score:.2f}" if leak.question else "",
        )  # fmt: skip
        row = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        if pictures:
            row += f"<td>{_picture(ours, leak.image_key)} {_picture(theirs, leak.other_key)}</td>"
        yield f"<tr>{row}</tr>"
    yield "</table>"


def _picture(side: Side, key: str) -> str:
    import cv2

    seen = next(
        (image for image in side.images if (image.ref.sha256 or image.ref.locator) == key), None
    )
    if seen is None:
        return ""
    try:
        pixels = side.source.pixels(seen.ref)
    except DataError:
        return ""
    height, width = pixels.shape[:2]
    factor = _PICTURE_SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(np.ascontiguousarray(pixels[:, :, ::-1]), size, interpolation=cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".jpg", small)[1].tobytes()).decode("ascii")
    return f"<img src='data:image/jpeg;base64,{data}' alt=''>"
