"""Placements in chains of stages under a limit on hops: the largest flows for which programmes find chains.

Owns which flows are asked for. The numbers of stages and nodes come from ``stage_programs``, their places from
``stage_layout``; what links leave of a chain's flow is for the max flow to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from helix_df.graph.capacities import Ints
from helix_df.graph.judge import Judge
from helix_df.graph.sites import Sites
from helix_df.solvers.stage_layout import LinkFit, in_step, join_rest, place_nodes
from helix_df.solvers.stage_programs import NodeTypes, Stage, StageGroups, fill_stages, find_chains, find_lengths

MOST_TYPES = 40
"""Types of nodes up to which programmes are solved."""

HALVINGS = 9
"""Steps between a flow for which there are chains and one for which there are none."""

SHARES = 64
"""Parts of a flow in which it is split between two chains."""

LEAST_SHARE = 8
"""Parts that a chain gets at least."""

WIDE = 5
"""Nodes a stage from which it is worth to choose lengths without regard to whole nodes."""

GAIN = 1.0005
"""A flow that is asked for is so much above the best."""

Chains = list[list[Stage]]
Ask = Callable[[float], Chains | None]
"""Chains that serve so many tokens/s together, if there are any."""


class StageChainSearch:
    """Chains of at most ``most_stages`` stages from the nodes of a problem, for up to ``most`` tokens/s."""

    def __init__(self, judge: Judge, sites: Sites, most_stages: int, most: float, stop: Callable[[], bool]) -> None:
        self.judge, self.most_stages, self.most, self.stop = judge, most_stages, most, stop
        self._filled: dict[tuple[int, ...], list[Stage] | None] = {}
        self.types = NodeTypes(judge.capacity, [i for site in sites.members for i in site if judge.capacity[i].any()])

    def placements(self, least: float, seed: int) -> Iterator[tuple[Ints, Ints]]:
        """Start and count of placements with more than ``least`` tokens/s, each with more than the one before."""
        if not 1 <= len(self.types.have) <= MOST_TYPES:
            return
        for ask in self._asks():
            if least * GAIN > self.most or self.stop():
                return
            chains = self._largest(ask, least * GAIN, self.most)
            if chains is not None:
                start, count = self._laid_out(chains, seed)
                flow = self.judge.flow(start, count)
                if flow > least:
                    least = flow
                    yield start, count

    def _asks(self) -> Iterator[Ask]:
        """One chain of wide stages, one of any small groups, then two chains, by their shares of the flow."""
        if sum(self.types.have) >= WIDE * self.most_stages:
            yield self._wide
        groups = StageGroups(self.types)
        for part in range(SHARES, SHARES // 2 - 1, -1):
            if part == SHARES or SHARES - part >= LEAST_SHARE:
                yield self._side_by_side(groups, part / SHARES)

    def _wide(self, target: float) -> Chains | None:
        lengths = find_lengths(self.types, target, self.judge.num_layers, self.most_stages)
        if lengths is None:
            return None
        key = tuple(lengths)
        if key not in self._filled:
            self._filled[key] = fill_stages(self.types, lengths, self.most)
        chain = self._filled[key]
        return [chain] if chain is not None else None

    def _side_by_side(self, groups: StageGroups, share: float) -> Ask:
        shares = (share, 1 - share) if share < 1 else (1.0,)

        def ask(target: float) -> Chains | None:
            allowed = [groups.serving(part * target) for part in shares]
            return find_chains(self.types.have, allowed, self.judge.num_layers, self.most_stages)

        return ask

    def _largest(self, ask: Ask, least: float, most: float) -> Chains | None:
        """The best answer for flows between two, by bisection for the largest that has one."""
        best = ask(least)
        for _ in range(HALVINGS if best is not None else 0):
            if self.stop():
                break
            middle = (least + most) / 2
            chains = ask(middle)
            if chains is None:
                most = middle
                continue
            least = middle
            if best is None or self._served(chains) > self._served(best):
                best = chains
        return best

    def _served(self, chains: Sequence[Sequence[Stage]]) -> float:
        tables = self.types.tables
        return sum(min(float(np.array(nodes) @ tables[:, k]) for k, nodes in chain) for chain in chains)

    def _laid_out(self, chains: Chains, seed: int) -> tuple[Ints, Ints]:
        stages = place_nodes(self.types, in_step(chains), self.judge.num_layers)
        join_rest(self.judge, self.types, stages)
        served = self._served(chains) * (1 - 1e-6)
        return LinkFit(self.judge, stages, seed).run(served, self.stop)
