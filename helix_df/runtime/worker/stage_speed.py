"""How fast a warm stage is, in a few batches before it serves.

Owns which batches: those that the first warm-up compiled anyway. Doesn't know engines; it is handed how to run steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from helix_df.layers import LayerRange
from helix_df.profiles.geometry import ModelGeometry
from helix_df.runtime.requests import StageSpeed
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.worker.steps import Step, StepResult

RUNS = 3
PREFILL_TOKENS = 16
"""The smallest batch of a prompt: always compiled first, and short enough for any cache."""

_REQUEST = "stage-speed"


def time_stage(
    run: Callable[[Sequence[Step]], Sequence[StepResult]],
    release: Callable[[str], None],
    layers: LayerRange,
    geometry: ModelGeometry,
    clock: Callable[[], float],
) -> StageSpeed | None:
    """The fastest of a few runs, since workers of one machine start beside each other.

    Args:
        run: an engine's, warm.
        release: the engine's.
        layers: that it holds.
        geometry: of the model.
        clock: seconds of any monotonic clock.

    Returns:
        ``None`` where not even such a prompt fits the KV cache.
    """
    last = layers.stop == geometry.num_layers

    def step(position: int, count: int) -> Step:
        # Sampled, so that what the model's end costs the last stage counts.
        sampling = SamplingParams() if last else None
        if layers.start == 0:
            return Step(_REQUEST, layers, position, tokens=np.zeros(count, np.int32), sampling=sampling)
        hidden = np.zeros((count, geometry.hidden_size), np.float32)
        return Step(_REQUEST, layers, position, hidden=hidden, sampling=sampling)

    def fastest(one: Step) -> float | None:
        took = []
        for _ in range(RUNS):
            start = clock()
            if any(result.kv_full for result in run([one])):
                return None
            took.append(clock() - start)
        return min(took)

    try:
        prefill_s = fastest(step(0, PREFILL_TOKENS))
        decode_s = fastest(step(PREFILL_TOKENS, 1))
    finally:
        release(_REQUEST)
    if prefill_s is None or decode_s is None:
        return None
    return StageSpeed(PREFILL_TOKENS, prefill_s, decode_s)
