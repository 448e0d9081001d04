"""How far a declared number lies from a measured one.

Owns the comparison and its words. Doesn't know what was measured, or how.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TOLERANCE = 1.5
"""By which factor a declared number may differ from a measured one before anybody is told."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A measured number that is not what was declared or planned with. ``what`` says of whom and of what."""

    what: str
    declared: float
    measured: float
    unit: str

    @property
    def factor(self) -> float:
        """How many times the larger number is the smaller one."""
        return max(self.declared, self.measured) / min(self.declared, self.measured)

    @property
    def worse(self) -> bool:
        """Whether what was measured keeps less than was promised: more time, or less a second."""
        return self.measured < self.declared if self.unit.endswith("/s") else self.measured > self.declared

    def __str__(self) -> str:
        return (
            f"{self.what}: measured {_shown(self.measured)} {self.unit}, expected {_shown(self.declared)} {self.unit} "
            f"({self.factor:.1f} times apart)"
        )


def beyond(differences: Iterable[Difference], tolerance: float = TOLERANCE) -> tuple[Difference, ...]:
    """Those that are more than ``tolerance`` times apart."""
    return tuple(difference for difference in differences if difference.factor > tolerance)


def _shown(value: float) -> str:
    """Three digits, without an exponent where six will do."""
    return f"{float(f'{value:.3g}'):g}"
