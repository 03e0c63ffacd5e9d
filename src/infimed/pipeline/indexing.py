"""`infimed index`: a run's model and its training records, put together into an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infimed.core.errors import UsageError, nearest_name
from infimed.core.files import read_json
from infimed.data.record import SPLITS
from infimed.data.shards import ShardSet, open_shards
from infimed.pipeline.forgetting import plan_files
from infimed.serving.evidence.indexing import Filter, Indexed, Set, build
from infimed.serving.starting import local_model


def make_index(
    run: Path,
    shards: Sequence[Path],
    out: Path,
    chosen: Filter,
    *,
    thumbnails: bool = False,
    dtype: str = "fp32",
    device: str = "cpu",
) -> Indexed:
    """Index the images of training records as a checkpoint's tower sees them.

    Args:
        run: a run or a checkpoint. shards: folders; none for the run's own.

    Raises:
        UsageError: there is no such split, type or device.
        DataError: there is no checkpoint, no data, nothing that may be shown, or `out` holds something else.
    """
    for name in chosen.splits:
        if name not in SPLITS:
            raise UsageError(
                "no such split", where="--split", seen=name, accepted=SPLITS, nearest=nearest_name(name, SPLITS)
            )  # fmt: skip
    opened = [open_shards(folder) for folder in shards or [run / "shards"]]
    try:
        local = local_model(run, dtype, device)
        sets = [Set(each, trained_on(run, each)) for each in opened]
        return build(local, sets, out, chosen, thumbnails=thumbnails)
    finally:
        for each in opened:
            each.close()


def trained_on(run: Path, shards: ShardSet) -> NDArray[np.int64] | None:
    """Numbers of the records in a run's plans, ascending; None where it has no plans of these shards."""
    file = run / "data.json"
    if not file.is_file() or read_json(file).get("shards") != shards.data_hash:
        return None
    plans = plan_files(run)
    if not plans:
        return None
    return np.unique(
        np.concatenate([pq.read_table(plan, columns=["record"])["record"].to_numpy() for plan in plans])
    )  # fmt: skip
