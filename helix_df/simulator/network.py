"""The stages and links of a setup as moving parts, under names of their own.

Routers see nodes as their place in the setup, so that what a node is called changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from helix_df.errors import SimulationError
from helix_df.graph.flow import EdgeFlow
from helix_df.graph.problem import COORDINATOR
from helix_df.rules.routing import leading_to_sink
from helix_df.rules.schedulers.registry import follows_flow
from helix_df.simulator.options import Options
from helix_df.simulator.parts import Link, Nic
from helix_df.simulator.setup import Setup
from helix_df.simulator.stage import LayeredStage, Stage


class Network:
    """Stages, links, and the ways that lead from the coordinator through all layers and back."""

    def __init__(self, setup: Setup, options: Options) -> None:
        self._codes = {stage.name: f"{index:05d}" for index, stage in enumerate(setup.stages)}
        self._codes[COORDINATOR] = COORDINATOR
        self._message_bytes = options.message_bytes
        self._names = [stage.name for stage in setup.stages]
        self.edges = tuple(
            EdgeFlow(self._codes[edge.tail], self._codes[edge.head], edge.tokens_per_s) for edge in setup.edges
        )
        flowing = {(edge.tail, edge.head) for edge in self.edges if edge.tokens_per_s > 0}
        only_flow = options.ways == "flow" or follows_flow(options.scheduler)
        pairs = [
            (self._codes[link.tail], self._codes[link.head])
            for link in setup.links
            if not only_flow or (self._codes[link.tail], self._codes[link.head]) in flowing
        ]
        self.ways = leading_to_sink(pairs)
        self.stages = [self._stage(index, setup, options) for index in range(len(setup.stages))]
        self._links = self._connect(setup)
        self.first_links = [self.link(COORDINATOR, head) for head in self.ways.get(COORDINATOR, ())]
        if not self.first_links:
            raise SimulationError("no pipeline leads through all layers", where=setup.name)

    def _stage(self, index: int, setup: Setup, options: Options) -> Stage:
        given = setup.stages[index]
        code = self._codes[given.name]
        stops = {
            setup.stages[int(tail)].layers.stop if tail != COORDINATOR else 0
            for tail, heads in self.ways.items()
            if code in heads
        }
        mixed = any(stop != given.layers.start for stop in stops)
        kind = LayeredStage if mixed and options.layer_steps and len(given.layers) > 1 else Stage
        stage = kind(index, given, options, setup.activation_bytes)
        stage.mixed = mixed
        return stage

    def _connect(self, setup: Setup) -> dict[tuple[str, str], Link]:
        links: dict[tuple[str, str], Link] = {}
        for given in setup.links:
            tail, head = self._codes[given.tail], self._codes[given.head]
            if head not in self.ways.get(tail, ()):
                continue
            size = given.token_bytes * given.ratio
            link = Link(tail, head, given.bytes_per_s, given.latency_s, size, self._message_bytes)
            stop = self.stages[int(tail)].layers.stop if tail != COORDINATOR else 0
            if head != COORDINATOR:
                link.head = self.stages[int(head)]
                link.width = link.head.layers.stop - stop
                link.skipped = stop - link.head.layers.start
            links[tail, head] = link
            if tail != COORDINATOR:
                self.stages[int(tail)].links[head] = link
        for stage in self.stages:
            if len(stage.links) == 1:
                (stage.only_link,) = stage.links.values()
        self._share_nics(setup, links)
        return links

    def _share_nics(self, setup: Setup, links: dict[tuple[str, str], Link]) -> None:
        """Put a NIC before the links that together could want more than it has."""
        for index, stage in enumerate(setup.stages):
            if stage.nic_bytes_per_s is None:
                continue
            code = self._codes[self._names[index]]
            sent = [link for (tail, _), link in links.items() if tail == code]
            received = [link for (_, head), link in links.items() if head == code]
            for direction in (sent, received):
                if sum(link.bytes_per_token / link.s_per_token for link in direction) <= stage.nic_bytes_per_s:
                    continue
                nic = Nic(stage.nic_bytes_per_s)
                for link in direction:
                    link.nics = (*link.nics, nic)

    def code(self, index: int) -> str:
        """What routers call the stage at that place."""
        return self._codes[self._names[index]]

    def name(self, code: str) -> str:
        """What the setup calls it."""
        return code if code == COORDINATOR else self._names[int(code)]

    def find(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            SimulationError: if there is none.
        """
        if name not in self._codes or name == COORDINATOR:
            raise SimulationError(
                "there is no such node in the plan", where="events", found=name, expected=", ".join(self._names)
            )
        return self.stages[int(self._codes[name])]

    def link(self, tail: str, head: str) -> Link:
        """The link of a hop, by codes."""
        return self._links[tail, head]

    @property
    def links(self) -> list[Link]:
        """All links that some request may take."""
        return list(self._links.values())

    def path_up(self) -> bool:
        """Whether a pipeline leads through nodes that are up."""
        return self.widest(lambda stage: 1 if stage.up else 0) > 0

    def widest(self, room: Callable[[Stage], int]) -> int:
        """The most that fits through every stage of some pipeline, by what ``room`` says of each."""
        best = {COORDINATOR: 2**62}
        order = sorted(range(len(self.stages)), key=lambda index: self.stages[index].layers.stop)
        found = 0
        for code in (COORDINATOR, *(self.code(index) for index in order)):
            width = best.get(code, 0)
            if width == 0:
                continue
            for head in self.ways.get(code, ()):
                if head == COORDINATOR:
                    found = max(found, width)
                else:
                    best[head] = max(best.get(head, 0), min(width, room(self.stages[int(head)])))
        return found
