"""Placements of many nodes in one chain of wide stages, each with its share of every site.

With hundreds of nodes whole ones matter little: lengths of stages are chosen as if nodes of a type could be divided
(``stage_programs.find_lengths``), whole nodes are shared out afterwards (``stage_filling``), and alike nodes go where
their site has least of its share, so that most of what flows stays inside sites (``stage_layout``). Owns how many
stages are tried. What links leave of the flow is for the max flow to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.graph.sites import Sites
from helix_df.solvers.stage_chains import GAIN, MOST_TYPES
from helix_df.solvers.stage_filling import fill_by_exchange
from helix_df.solvers.stage_layout import LinkFit, share_sites
from helix_df.solvers.stage_programs import NodeTypes, Stage, find_lengths

SHARES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3)
"""Stages that are tried, as shares of the most: fewer and wider ones serve less, but more links join them."""

HALVINGS = 9
"""Steps of the search for the largest flow for which there are lengths."""

WORK = 0.05
"""Work on one programme for lengths, in CP-SAT's deterministic seconds: the many that have an answer take less."""


class WideStageSearch:
    """Chains of up to ``most_stages`` stages from the nodes of a problem, for up to ``most`` tokens/s."""

    def __init__(self, judge: Judge, sites: Sites, most_stages: int, most: float, stop: Callable[[], bool]) -> None:
        self.judge, self.sites, self.most_stages, self.most, self.stop = judge, sites, most_stages, most, stop
        self.types = NodeTypes(judge.capacity, [i for site in sites.members for i in site if judge.capacity[i].any()])

    def placements(self, least: float, seed: int) -> Iterator[tuple[Ints, Ints]]:
        """Start and count of placements with more than ``least`` tokens/s, each with more than the one before."""
        if not 1 <= len(self.types.have) <= MOST_TYPES:
            return
        for stages in sorted({max(1, round(self.most_stages * share)) for share in SHARES}, reverse=True):
            target, lengths = self._lengths(stages, least * GAIN)
            # Fewer stages don't serve more.
            if lengths is None or self.stop():
                return
            chain = fill_by_exchange(self.types, lengths, target)
            served = self._weakest(chain)
            if served <= least:
                continue
            placed = share_sites(self.judge, self.types, self.sites, chain)
            start, count = LinkFit(self.judge, placed, seed).run(served * (1 - 1e-6), self.stop)
            flow = self.judge.flow(start, count)
            if flow > least:
                least = flow
                yield start, count

    def _lengths(self, stages: int, least: float) -> tuple[float, list[int] | None]:
        """The largest flow above ``least`` for which lengths of so many stages were found, and the lengths."""
        low, high, best = least, self.most, None
        for _ in range(HALVINGS if low < high else 0):
            middle = (low + high) / 2
            lengths = find_lengths(self.types, middle, self.judge.num_layers, stages, WORK)
            if lengths is None:
                high = middle
            else:
                low, best = middle, lengths
            if self.stop():
                break
        return low, best

    def _weakest(self, chain: list[Stage]) -> float:
        return min(float(np.array(nodes) @ self.types.tables[:, layers]) for layers, nodes in chain)
