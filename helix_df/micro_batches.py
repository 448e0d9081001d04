"""How many batches of one pipeline should be on their way at once, so that every stage works. Pure.

Used by the runtime and the simulator alike. Knows nothing of requests, sockets or clocks.

Requests that decode together stay together: they leave a stage in one message and come home in one. Were they one
batch, all stages but one would wait at any time. A pipeline is full when as many batches are under way as the time
around it is longer than its slowest stage (Little's law at the slowest stage): as many as stages where all take alike,
and one where a single stage takes nearly all the time, since there more batches would only be smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_ROUNDING = 1e-9


def micro_batches(seconds: Sequence[float]) -> int:
    """Batches under way on a pipeline whose stages take so long for the same work; at least 1, at most its stages."""
    slowest = max(seconds)
    return max(1, round(sum(seconds) / slowest)) if slowest > 0 else 1


def stage_seconds(layers_run: int, layers_held: int, tokens_per_s: float) -> float:
    """Seconds a token takes through ``layers_run`` of the layers that a node holds and serves ``tokens_per_s`` with."""
    return layers_run / layers_held / tokens_per_s


def entering_share(entering: Iterable[tuple[int, int]]) -> int:
    """Requests that a pipeline's first stage should decode at once.

    Args:
        entering: how many requests enter a pipeline there, by the micro-batches of the pipeline.
    """
    return math.ceil(sum(requests / batches for batches, requests in entering) - _ROUNDING)
