"""Packed attention on this CPU: torch's fused kernel against ours, forward and backward.

    python benchmarks/attention.py

Prints one line a shape: milliseconds (best of several) of both and their ratio, measured in one run.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from infimed.core.run import environment
from infimed.model.attention import Document, PackedLayout, attend_by_document

SHAPES = {
    "nano, image with nine questions": (
        5,
        5,
        32,
        Document(147, (18, 18, 18, 18, 18, 22, 22, 54, 54)),
    ),
    "nano, image with a caption": (5, 5, 32, Document(147, (43,))),
    "mini, low grid, seven questions": (9, 3, 64, Document(68, (20,) * 7)),
    "mini, full grid, seven questions": (9, 3, 64, Document(580, (20,) * 7)),
}


def best_ms(run: Callable[[], Tensor], repeats: int = 12) -> float:
    """Fastest of `repeats` forward and backward passes, milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        out = run()
        out.backward(torch.ones_like(out))
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def main() -> None:
    print(
        f"{environment()['cpu']}, {torch.get_num_threads()} threads of {os.cpu_count()}, {platform.system()}, bf16"
    )
    for name, (heads, groups, width, document) in SHAPES.items():
        layout = PackedLayout((document,))

        def tensor(count: int, length: int = document.length, width: int = width) -> Tensor:
            return torch.randn(1, count, length, width, dtype=torch.bfloat16, requires_grad=True)

        query, key, value = tensor(heads), tensor(groups), tensor(groups)
        mask = document.mask()
        fused = best_ms(
            lambda q=query, k=key, v=value, m=mask: scaled_dot_product_attention(
                q, k, v, attn_mask=m, enable_gqa=True
            )
        )
        ours = best_ms(
            lambda q=query, k=key, v=value, at=layout: attend_by_document(
                q, k, v, at, q.shape[-1] ** -0.5
            )
        )
        print(f"{name:34s} fused {fused:7.2f} ms   ours {ours:7.2f} ms   {fused / ours:.2f}x")


if __name__ == "__main__":
    main()
