"""MinHash of data-juicer and datatrove over the same captions; run by `matching_texts.py`.

    PYTHON_WITH_PEERS benchmarks/matching_peers.py data-juicer|datatrove captions.json

Prints one JSON line: {"tool", "version", "seconds", "cpu_seconds", "kept"}, imports and set-up
excluded. Needs nothing of InfiMed. Both tools run on their word 5-grams, which is less work than
the character 5-grams that InfiMed compares, and without the exact comparison that follows there.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def data_juicer(captions: list[str]) -> tuple[str, float, float, int]:
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import (
        DocumentMinhashDeduplicator,
    )

    operator = DocumentMinhashDeduplicator(
        tokenization="space", window_size=5, num_permutations=128, jaccard_threshold=0.8
    )
    data = NestedDataset.from_list([{"text": text} for text in captions])
    began, cpu = time.perf_counter(), _cpu()
    hashed = data.map(operator.compute_hash, num_proc=1, load_from_cache_file=False)
    kept, _ = operator.process(hashed)
    return version("py-data-juicer"), time.perf_counter() - began, _cpu() - cpu, len(kept)


def datatrove(captions: list[str]) -> tuple[str, float, float, int]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.utils.hashing import HashConfig

    # The default hash (xxhash) refuses text from version 4 of that package on.
    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(hash_fc="sha1")
    )
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(captions)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        signs, pairs, removed = (str(root / name) for name in ("signs", "pairs", "removed"))
        sign: Any = MinhashDedupSignature(signs, config=config)
        bucket = MinhashDedupBuckets(signs, pairs, config=config)
        cluster = MinhashDedupCluster(pairs, removed, config=config)
        keep = MinhashDedupFilter(removed)
        began, cpu = time.perf_counter(), _cpu()
        sign.run(iter(documents), 0, 1)
        for rank in range(config.num_buckets):
            bucket.run(None, rank, config.num_buckets)
        cluster.run(None, 0, 1)
        kept = sum(1 for _ in keep.run(iter(documents), 0, 1))
        return version("datatrove"), time.perf_counter() - began, _cpu() - cpu, kept


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> int:
    tool, file = sys.argv[1], Path(sys.argv[2])
    captions = json.loads(file.read_text())
    try:
        found, seconds, cpu, kept = {"data-juicer": data_juicer, "datatrove": datatrove}[tool](
            captions
        )
    except ImportError as error:
        print(json.dumps({"tool": tool, "error": f"not installed ({error})"}))
        return 0
    print(
        json.dumps(
            {"tool": tool, "version": found, "seconds": seconds, "cpu_seconds": cpu, "kept": kept}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
