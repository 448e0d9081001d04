"""Which shapes are compiled, and how what would need another one runs meanwhile: in more passes of a smaller shape.

So nobody waits for a program that is to come, and those that a first short request needs are enough to begin with. A
shape that is asked for again and again (``ASKED``) is worth its compiling there and then. Owns what was compiled and
asked for; doesn't know programs.
"""

from __future__ import annotations

from collections import Counter

from helix_df.runtime.worker.shapes import ASKED, Shape, ShapePlan


class WarmShapes:
    """Of one engine. Until the first is ``noted``, shapes are compiled as they are asked for."""

    def __init__(self, plan: ShapePlan) -> None:
        self._plan = plan
        self._warm: set[Shape] = set()
        self._asked: Counter[Shape] = Counter()

    def note(self, shape: Shape) -> None:
        """A shape is compiled."""
        self._warm.add(shape)

    def decodes_at_once(self, rows: int, longest: int) -> int:
        """Most decode steps in a pass, where ``rows`` are to run; ``longest`` is the longest context."""
        sizes = self._plan.batch_sizes
        most = min(rows, sizes[-1])
        if most < 1 or self._is_good(self._plan.apart(most, 1, longest)):
            return sizes[-1]
        return self._largest({self._plan.apart(size, 1, longest): size for size in sizes if size < most}, sizes[-1])

    def tokens_at_once(self, tokens: int, longest: int) -> int:
        """Most tokens of a prompt in a pass, where a piece of ``tokens`` is to run; ``longest`` is its context."""
        sizes = self._plan.prefill_sizes
        most = min(tokens, sizes[-1])
        if most < 2 or self._is_good(self._plan.apart(1, most, longest)):
            return sizes[-1]
        return self._largest({self._plan.apart(1, size, longest): size for size in sizes if size < most}, sizes[-1])

    def _is_good(self, shape: Shape) -> bool:
        """Whether a pass runs in this shape, or in smaller ones."""
        if not self._warm or shape in self._warm:
            return True
        self._asked[shape] += 1
        if self._asked[shape] <= ASKED:
            return False
        self._warm.add(shape)
        return True

    def _largest(self, found: dict[Shape, int], otherwise: int) -> int:
        """The size of the largest shape that is compiled; ``otherwise`` if none is."""
        return max((size for shape, size in found.items() if shape in self._warm), default=otherwise)
