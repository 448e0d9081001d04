"""Many nodes shared out over stages of given lengths, so that the weakest stage serves as much as can be.

Owns the greedy start and the exchanges. Integer programmes (``stage_programs.fill_stages``) do better on few stages and
take too long on many. Knows neither positions nor links.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helix_df.graph.capacities import Floats, Ints
from helix_df.solvers.stage_programs import NodeTypes, Stage

EXCHANGES = 20_000
"""Exchanges at most; a thousand nodes take some hundreds."""

SMALL = 1e-9
"""Share of the target by which an exchange must gain."""


def fill_by_exchange(types: NodeTypes, lengths: Sequence[int], target: float) -> list[Stage]:
    """Whole nodes on stages of these lengths, as evenly as exchanges make it; nothing is gained above ``target``."""
    k = np.array(lengths, dtype=np.int64)
    rates = types.tables[:, k].T
    counts = _greedy(types, rates, k, target)
    served = (counts * rates).sum(axis=1)
    for _ in range(EXCHANGES):
        weakest = int(served.argmin())
        found = _best_exchange(counts, rates, served, weakest, target)
        if found is None:
            break
        other, gives, takes = found
        counts[other, gives] -= 1
        counts[weakest, gives] += 1
        if takes < rates.shape[1]:
            counts[weakest, takes] -= 1
            counts[other, takes] += 1
        served[[weakest, other]] = (counts[[weakest, other]] * rates[[weakest, other]]).sum(axis=1)
    return [(int(layers), tuple(row)) for layers, row in zip(k, counts.tolist(), strict=True)]


def _greedy(types: NodeTypes, rates: Floats, lengths: Ints, target: float) -> Ints:
    """Nodes one after the other, the fastest types first, each where it fills most, or else where least is served."""
    counts = np.zeros(rates.shape, dtype=np.int64)
    served = np.zeros(len(lengths))
    for t in np.argsort(-types.tables.max(axis=1), kind="stable").tolist():
        fits = rates[:, t] > 0
        for _ in range(types.have[t] if fits.any() else 0):
            gains = np.minimum(rates[:, t], np.maximum(target - served, 0.0)) * lengths
            gains = np.where(fits, gains, -1.0)
            best = np.flatnonzero(gains >= gains.max() * (1 - SMALL))
            r = int(best[served[best].argmin()]) if gains.max() > 0 else int(np.where(fits, served, np.inf).argmin())
            counts[r, t] += 1
            served[r] += rates[r, t]
    return counts


def _best_exchange(
    counts: Ints, rates: Floats, served: Floats, weakest: int, target: float
) -> tuple[int, int, int] | None:
    """The stage that gives the weakest a node, of which type, and of which it takes one in return (none: one past).

    The exchange after which the weaker of the two serves most; ``None`` where none gains.
    """
    kinds = rates.shape[1]
    mine = np.append(rates[weakest], 0.0)
    theirs = np.concatenate([rates, np.zeros((len(rates), 1))], axis=1)
    # Axes: the other stage, the type it gives, the type it takes.
    after = served[weakest] + mine[None, :kinds, None] - mine[None, None, :]
    left = served[:, None, None] - rates[:, :, None] + theirs[:, None, :]
    can = (counts[:, :, None] > 0) & (np.append(counts[weakest], 1) > 0)[None, None, :]
    can &= (mine[:kinds] > 0)[None, :, None] & np.append(rates > 0, np.ones((len(rates), 1), np.bool_), axis=1)[
        :, None, :
    ]
    can[weakest] = False
    worth = np.where(can, np.minimum(after, left), -np.inf)
    best = int(worth.argmax())
    if worth.ravel()[best] <= served[weakest] + SMALL * target:
        return None
    other, gives, takes = np.unravel_index(best, worth.shape)
    return int(other), int(gives), int(takes)
