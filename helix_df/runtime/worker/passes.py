"""Which steps of a batch run together, in one pass over the weights. Pure: no arrays, no device.

Decode steps of the same layers run together. The longest piece of a prompt of these layers rides with them: the weights
are read once for both, and a piece that rides costs little more than its arithmetic (``profiles.timing.riding_s``).
Every other piece runs on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from helix_df.layers import LayerRange
from helix_df.runtime.worker.steps import Step


@dataclass(frozen=True, slots=True)
class Pass:
    """Decode steps and a piece of a prompt, all of the same layers; one of both may be missing."""

    decodes: tuple[Step, ...]
    piece: Step | None


def passes(steps: Sequence[Step], most: int) -> Iterator[Pass]:
    """``steps`` in passes of at most ``most`` decode steps; a piece rides with the first of its layers."""
    decodes: dict[LayerRange, list[Step]] = {}
    pieces: dict[LayerRange, list[Step]] = {}
    for step in steps:
        kind = decodes if step.is_decode else pieces
        kind.setdefault(step.layers, []).append(step)
    for layers, group in decodes.items():
        waiting = pieces.get(layers, [])
        rides = max(waiting, key=lambda step: len(step.inputs), default=None)
        if rides is not None:
            waiting.remove(rides)
        yield Pass(tuple(group[:most]), rides)
        for at in range(most, len(group), most):
            yield Pass(tuple(group[at : at + most]), None)
    for group in pieces.values():
        for piece in group:
            yield Pass((), piece)
