"""Named random streams.

Every random decision draws from a stream named after what it decides, derived from the recipe's one
seed. Adding a new random decision therefore never shifts an existing one.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` under `seed`; stable across machines and versions."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream `names` under `seed`."""
    return np.random.default_rng(derive_seed(seed, *names))
