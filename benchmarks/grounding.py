"""Does the grounding gap find records whose image is another patient's? AUROC on planted swaps.

Every second image set of the shards is exchanged with that of another patient of the same modality (the
hard case: operator "swap question and answer between same-modality images"). The gaps of a checkpoint
should then tell the exchanged records from the others. Use a run whose training records are not in the
shards, or name a split it was not trained on.

    python benchmarks/grounding.py RUN_OR_CHECKPOINT SHARDS [--split test] [--records 400] [--swaps 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from infimed.curation import curate
from infimed.curation.grounding import measure_grounding
from infimed.curation.grounding_sets import arranged, foreign_keys, image_key, image_sets
from infimed.curation.grounding_table import read_grounding
from infimed.data.record import ImageRef, Record
from infimed.data.shards import ShardSet, open_shards
from infimed.inference.local import LocalModel


@dataclass
class Planted:
    """Records of shards, some of them with the images of another patient."""

    shards: ShardSet
    records: list[Record]
    data_hash: str = "planted"

    def __len__(self) -> int:
        return len(self.records)

    def record(self, number: int) -> Record:
        """One record."""
        return self.records[number]

    def pixels(self, ref: ImageRef) -> np.ndarray:
        """Pixels of an image."""
        return self.shards.pixels(ref)


def planted(shards: ShardSet, split: str, most: int) -> tuple[Planted, np.ndarray]:
    """Records with one image each, and which of them were given another patient's."""
    chosen = [r for r in shards if len(r.images) == 1 and r.response and split in ("", r.split)]
    random = np.random.default_rng(0)
    chosen = [chosen[int(i)] for i in sorted(random.permutation(len(chosen))[:most])]
    order = arranged(image_sets(list(enumerate(chosen))), 0)
    partner = {key: others[0] for key, others in foreign_keys(order, 1).items() if others}
    swapped = {each.key for each in order[::2] if each.key in partner}
    refs = {image_key(record): record.images for record in chosen}
    made = [
        replace(r, images=refs[partner[image_key(r)]]) if image_key(r) in swapped else r
        for r in chosen
    ]
    return Planted(shards, made), np.array([image_key(r) in swapped for r in chosen])


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative; ties count half."""
    higher = score[positive][:, None] - score[~positive][None, :]
    return float(((higher > 0) + 0.5 * (higher == 0)).mean())


def main() -> None:
    """Run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--split", default="test", help="'' for all records")
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--swaps", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source, exchanged = planted(open_shards(arguments.shards), arguments.split, arguments.records)
    local = LocalModel.open(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        curate(source, Path(folder))
        started = time.process_time()
        measure_grounding(Path(folder), source, local, swaps=arguments.swaps)
        seconds = time.process_time() - started
        rows = read_grounding(Path(folder)).to_pylist()
    print(f"{len(rows)} records, {exchanged.sum()} with another patient's image; "
          f"{1e3 * seconds / len(rows):.0f} ms of CPU a record")  # fmt: skip
    kinds: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        record = source.record(row["row"])
        if row["gap_swapped"] is not None:
            kind = str(record.facts.get("question_type") or "")
            for name in ("all", record.task, f"{record.task} / {kind}" if kind else ""):
                if name:
                    kinds[name].append(row["row"])
    print(
        f"{'':28s} {'records':>8s} {'gap_swapped':>12s} {'gap_without':>12s} {'loss':>8s}  (AUROC)"
    )
    for name, members in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        bad = exchanged[members]
        if 10 <= bad.sum() <= len(bad) - 10:
            columns = [
                auroc(sign * np.array([rows[m][column] for m in members], float), bad)
                for column, sign in (("gap_swapped", -1), ("gap_without", -1), ("loss", 1))
            ]
            print(f"{name:28s} {len(bad):8d} " + " ".join(f"{value:12.3f}" for value in columns))


if __name__ == "__main__":
    main()
