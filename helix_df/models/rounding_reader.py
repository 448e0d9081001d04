"""Weights that are rounded to few bits when they are loaded, whatever the file has."""

from __future__ import annotations

import numpy as np

from helix_df.models.quantized import Quantized, quantize
from helix_df.models.reader import WeightReader
from helix_df.profiles.packed_kinds import PackedKind


class RoundingReader:
    """Gives what ``reader`` gives, and matrices as the nearest numbers of ``kind``."""

    def __init__(self, reader: WeightReader, kind: PackedKind) -> None:
        self.reader = reader
        self._kind = kind

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """See ``WeightReader``."""
        return self.reader.tensor(name, shape)

    def quantized(self, name: str, shape: tuple[int, int]) -> Quantized:
        """See ``WeightReader``."""
        return quantize(self.tensor(name, shape), self._kind)
