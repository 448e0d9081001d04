"""Schedulers that the loop doesn't take itself: asked for each pipeline or hop, over what they may see.

A router of ``rules.schedulers`` is a Python object, and the loop is compiled; so the loop comes back with a question,
and goes on when the answer is in its tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helix_df.graph.problem import COORDINATOR
from helix_df.rules.routing import Pipeline
from helix_df.rules.schedulers.api import View
from helix_df.simulator.kernel.build import HopNetwork
from helix_df.simulator.kernel.memory import Row, cells, plain_rows
from helix_df.simulator.kernel.tables import NOTHING, Fixed, Rules, State


class Routing:
    """A router, and how it is asked. ``state`` is set anew whenever tables were."""

    def __init__(self, network: HopNetwork, seed: int) -> None:
        self.network = network
        self.router: Any = None
        self.scheduler: Any = None
        self._flow = 0
        self.state: State | None = None
        self._numbers = network.numbers
        self._ends = [(network.codes[link.tail], network.codes[link.head]) for link in network.links]
        self._blocked: tuple[int, list[int]] = (NOTHING, [])
        self.view = View(
            placement={network.codes[name]: layers for name, layers in network.setup.placement.items()},
            adjacency=network.adjacency,
            edges=network.edges,
            seed=seed,
            waiting=lambda name: int(self._row("stages", int(name)).seen),
            link_free_in_s=lambda tail, head: float(self._row("links", self._numbers[tail, head]).seen_s),
        )

    def _row(self, table: str, at: int) -> Row:
        return Row(getattr(self.state, table), at)

    def choose(self, state: State) -> None:
        """Answer where a prompt goes next."""
        self.state, counts = state, Row(state.counts)
        self.tell(state)
        tail = COORDINATOR if counts.asked_vertex == 0 else f"{counts.asked_vertex - 1:05d}"
        up = cells(state.stages, "up")
        heads = [head for head in self.network.adjacency[tail] if head == COORDINATOR or up(int(head))]
        counts.answer = self._numbers[tail, self.router.choose(tail, heads, counts.asked_tokens)]

    def route(self, state: State, fixed: Fixed, rules: Rules) -> None:
        """Answer which pipeline a request takes: put its hops into ``walk``."""
        self.state, counts = state, Row(state.counts)
        self.tell(state)
        if counts.flow != self._flow:
            self._flow, self._blocked = counts.flow, (NOTHING, [])
            self.router = self.scheduler(replace(self.view, edges=self.network.flows[counts.flow]))
        if rules.counts_tokens:
            self.router.weigh(counts.asked_tokens)
            self._spend(state, rules)
        pipeline = self._route(counts.asked_request, always=rules.counts_tokens)
        if pipeline is None:
            counts.answer = 0
            return
        names = [*(hop.node for hop in pipeline), COORDINATOR]
        for turn, (tail, head) in enumerate(zip([COORDINATOR, *names], names, strict=False)):
            row = Row(state.walk, turn)
            row.vertex = 0 if tail == COORDINATOR else int(tail) + 1
            row.choice = self.network.adjacency[tail].index(head)
        counts.answer = len(names)

    def _route(self, request: int, *, always: bool) -> Pipeline | None:
        full: list[int] = []

        def eligible(name: str) -> bool:
            if self._row("stages", int(name)).eligible:
                return True
            full.append(int(name))
            return False

        # Whoever found no way last time finds none until one of the nodes that were in its way has room.
        blocked, before = self._blocked
        if blocked == request and not any(self._row("stages", at).eligible for at in before):
            return None
        pipeline: Pipeline | None = self.router.route(eligible)
        if pipeline is None:
            self._blocked = (NOTHING if always else request, full)
        return pipeline

    def tell(self, state: State) -> None:
        """Tell the router how long hops took since it was asked last."""
        counts = Row(state.counts)
        if not counts.observed:
            return
        observe, ends = self.router.observe, self._ends
        for link, steps, seconds in plain_rows(state.hop_times, counts.observed):
            observe(*ends[link], seconds, steps)
        counts.noted -= counts.observed
        counts.observed = 0

    def _spend(self, state: State, rules: Rules) -> None:
        """Tell the router of tokens that were given."""
        counts = Row(state.counts)
        for index in range(counts.pending):
            path = Row(state.paths, index).turn
            row = Row(state.paths, path)
            hops = [Row(state.hops, path * rules.vertices + hop).link for hop in range(row.hops)]
            self.router.spent(tuple(self._ends[link][1] for link in hops), row.pending)
            row.pending = 0
        counts.pending = 0
