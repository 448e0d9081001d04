"""What a checkpoint is expected to hold under a name: a shape, and number formats that can be read."""

from __future__ import annotations

from typing import NamedTuple

from helix_df.profiles.geometry import Shape

DTYPES = ("F64", "F32", "F16", "BF16")
"""Number formats of safetensors that hold a weight as it is; the others need scales."""


class Expected(NamedTuple):
    """Shape and possible number formats of a stored tensor; ``also`` are shapes that mean the same."""

    shape: Shape
    dtypes: tuple[str, ...] = DTYPES
    also: tuple[Shape, ...] = ()

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """All shapes that it may have."""
        return (self.shape, *self.also)
