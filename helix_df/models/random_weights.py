"""Weights made up from a seed, for tests, benchmarks and dry runs without a checkpoint.

Owns the distribution. Every tensor depends on (seed, name) alone, so a shard holds exactly what the whole model would.
"""

from __future__ import annotations

import hashlib

import numpy as np

from helix_df.models.quantized import Quantized

_DEVIATION = 0.02


class RandomReader:
    """Normal weights with deviation 0.02, and norms of one."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """See ``WeightReader``. float32; any name and shape exist."""
        if len(shape) == 1 and not name.endswith(".bias"):
            return np.ones(shape, np.float32)
        digest = hashlib.blake2b(f"{self._seed}:{name}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= np.float32(_DEVIATION)
        return values

    def quantized(self, name: str, shape: tuple[int, int]) -> Quantized | None:
        """See ``WeightReader``. Nothing is."""
        return None
