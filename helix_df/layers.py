"""Layer ranges: the one way this project says which layers somebody holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """Layers ``start, start + 1, …, stop - 1``; half-open and never empty.

    Raises:
        ValueError: unless ``0 <= start < stop``.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a layer range needs 0 <= start < stop, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, layer: int) -> bool:
        return self.start <= layer < self.stop

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"

    def covers(self, other: LayerRange) -> bool:
        """Whether every layer of ``other`` is held here."""
        return self.start <= other.start and other.stop <= self.stop
