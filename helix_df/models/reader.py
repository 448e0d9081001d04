"""The one way a model family asks for weights, whatever file they lie in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from helix_df.errors import ModelError
from helix_df.models.quantized import Quantized


class WeightReader(Protocol):
    """Gives single tensors by their Hugging Face name, reading nothing else."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor ``name``, in Hugging Face's orientation ([out, in] for a projection).

        Raises:
            ModelError: when it is missing, unreadable or not of ``shape``.
        """

    def quantized(self, name: str, shape: tuple[int, int]) -> Quantized | None:
        """The matrix ``name`` as it is to be kept; ``None`` for one that is to be kept as numbers (``tensor``).

        Raises:
            ModelError: as ``tensor``.
        """


@runtime_checkable
class PieceReader(Protocol):
    """A reader that needn't have a whole tensor in memory."""

    def pieces(self, name: str, shape: tuple[int, int]) -> Iterator[np.ndarray]:
        """The matrix ``name`` in stretches of its rows, one after the other, each a multiple of 64 rows but the last.

        Raises:
            ModelError: as ``tensor``.
        """


_ALIGNMENT = 64
"""Bytes: on a CPU, XLA copies what doesn't begin at a multiple."""


def blank_array(shape: tuple[int, ...], dtype: np.dtype | type[np.generic]) -> np.ndarray:
    """An array that XLA takes on a CPU as it lies, without a copy; with anything in it."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(kind).reshape(shape)


def missing_tensor(name: str, where: str, hint: str | None = None) -> ModelError:
    """The error for a tensor that isn't there."""
    return ModelError("a tensor is missing from the weights", where=where, expected=name, hint=hint)


def require_shape(array: np.ndarray, shape: tuple[int, ...], name: str, where: str) -> np.ndarray:
    """``array`` itself.

    Raises:
        ModelError: when its shape isn't ``shape``.
    """
    if array.shape != shape:
        raise ModelError(
            f"the tensor {name} doesn't fit the model's config", where=where, found=array.shape, expected=str(shape)
        )
    return array
