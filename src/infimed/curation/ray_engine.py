"""The Ray Data engine: chunks measured by a cluster, the ledger written here (extra ``ray``).

Every task opens the shards at the same path (a shared disk, or one machine), measures whole chunks
with the same code as the local engine and sends back the three tables as Arrow bytes; this process
writes them as parts. So a cluster needs no write access, an interrupted run resumes as ever, and the
ledger has the same bytes. Ray moves the tasks with its own serialiser; no file of ours holds one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infimed.core.errors import UsageError
from infimed.curation import ledger

MOST_BLOCKS: Final = 4096
"""Tasks that Ray plans for at most; above 2 million records a task has several chunks."""

_TABLES = (ledger.SIGNALS, ledger.FINDINGS, ledger.COST)


class _ChunkTask:
    """A Ray Data actor: chunk numbers in, tables out."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        import cv2

        from infimed.curation.measuring import Measurer
        from infimed.curation.rubric import Rubric
        from infimed.data.shards import open_shards

        cv2.setNumThreads(1)
        self._size = int(job["chunk_rows"])
        self._shards = open_shards(job["shards"])
        self._measurer = Measurer(self._shards, Rubric.from_dict(job["rubric"]))

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> pa.Table:
        columns: dict[str, list[Any]] = {"chunk": [], "records": [], **{n: [] for n in _TABLES}}
        for chunk in batch["id"].tolist():
            begin = chunk * self._size
            end = min(begin + self._size, len(self._shards))
            tables = self._measurer.chunk(begin, end)
            columns["chunk"].append(chunk)
            columns["records"].append(end - begin)
            for name in _TABLES:
                columns[name].append(to_bytes(tables[name]))
        kinds = {
            "chunk": pa.int64(),
            "records": pa.int64(),
            **dict.fromkeys(_TABLES, pa.large_binary()),
        }
        return pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()})


def in_ray(
    job: Mapping[str, Any], parts: ledger.Parts, todo: Sequence[int], workers: int
) -> Iterator[int]:
    """Measure every chunk in `workers` Ray actors and write the parts here.

    A running Ray is used (``RAY_ADDRESS`` or an earlier ``ray.init``); else a local one is started
    and stopped again. Yields the number of records of each finished chunk.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray is not installed", where="--engine ray", fix="pip install 'infimed[ray]'"
        ) from error

    if not todo:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ours = not ray.is_initialized()
    if ours and not os.environ.get("RAY_ADDRESS"):
        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error"
        )
    try:
        context = ray.data.DataContext.get_current()
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # our caller reports progress
        context.enable_progress_bars = False
        numbers = ray.data.from_items(
            [{"id": chunk} for chunk in todo], override_num_blocks=min(len(todo), MOST_BLOCKS)
        )
        done = numbers.map_batches(
            _ChunkTask,
            fn_constructor_args=(dict(job),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(todo))),
        )
        for batch in done.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=1):
            for row in batch.to_pylist():
                tables = {name: from_bytes(row[name]) for name in _TABLES}
                parts.write(row["chunk"], tables)
                yield row["records"]
    finally:
        if ours:
            ray.shutdown()


def to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow stream; `from_bytes` inverts it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_bytes(data: bytes) -> pa.Table:
    """Inverse of `to_bytes`."""
    return pa.ipc.open_stream(data).read_all().combine_chunks()
