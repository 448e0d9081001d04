"""Where a range of layers fills most of what is missing, compiled: the inner step of ``interval_cover``."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import numpy as np

from helix_df.solvers.compiled import compiled


@compiled
def best_window(missing, speed, enters, entry, leaves, leave, lacking, fit):
    """The first layer and the number of layers of the best range in a stretch of layers; the first of equal ones.

    Args:
        missing: tokens/s by layer of the stretch, shape (width,).
        speed: tokens/s by layers held, from 1; shape (most,), most ≤ width.
        enters, entry: ranges that begin up to this layer count with so many tokens/s at most.
        leaves, leave: those that end from this layer on, likewise.
        lacking: what is missing of KV cache by layer, in tokens/s; empty where no limit asks for any.
        fit: what a node adds to it by layers held, as a share of what is wanted.

    Ranges are compared by what they fill, summed over their layers.
    """
    width = len(missing)
    sums = np.zeros((4, width + 1))
    kv = np.zeros(width + 1)
    best, start, count = -1.0, 0, 1
    for k in range(1, len(speed) + 1):
        # Plain ranges, those that enter, that leave, and both.
        for which in range(4):
            most = speed[k - 1]
            if which % 2 == 1:
                most = min(most, entry)
            if which >= 2:
                most = min(most, leave)
            for layer in range(width):
                sums[which, layer + 1] = sums[which, layer] + min(most, missing[layer])
        if len(lacking):
            for layer in range(width):
                kv[layer + 1] = kv[layer] + min(fit[k - 1], lacking[layer])
        for first in range(width - k + 1):
            which = 0
            if first <= enters:
                which += 1
            if first + k >= leaves:
                which += 2
            gain = sums[which, first + k] - sums[which, first]
            if len(lacking):
                gain += kv[first + k] - kv[first]
            if gain > best:
                best, start, count = gain, first, k
    return start, count
