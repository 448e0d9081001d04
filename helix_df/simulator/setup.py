"""What is simulated: stages with their timing and KV cache, the links between them, and the plan's flow.

Owns the step from a plan to these numbers. Doesn't know traces, schedulers or events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from helix_df.errors import SimulationError
from helix_df.graph.compile import compile_problem, origin_of
from helix_df.graph.flow import EdgeFlow
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.problem import COORDINATOR, Placement, Problem
from helix_df.graph.stage_timing import TimingChoice, node_timing
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.profiles.timing import LayerTiming


@dataclass(frozen=True, slots=True)
class StageSetup:
    """A node with its layers, the seconds one of them takes, and the tokens of KV cache beside them.

    ``max_batch`` and ``max_prefill_tokens`` are of its batches alone, instead of those of the options. ``windowed``
    and ``kv_window`` as in ``plan.Stage``; by the rules of the paper's artifact nothing is freed.
    """

    name: str
    layers: LayerRange
    timing: LayerTiming
    kv_tokens: int
    nic_bytes_per_s: float | None = None
    max_batch: int | None = None
    max_prefill_tokens: int | None = None
    windowed: int = 0
    kv_window: int = 0


@dataclass(frozen=True, slots=True)
class LinkSetup:
    """One direction of a hop that a request may take; ``COORDINATOR`` is both source and sink.

    ``token_bytes`` are what one token takes before the codec, whose ``ratio`` is compressed over plain size.
    """

    tail: str
    head: str
    bytes_per_s: float
    latency_s: float
    token_bytes: float
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Setup:
    """A placed model, ready to be simulated. ``flow`` is the plan's bound in tokens/s, ``edges`` how it splits.

    ``control`` are the links between the coordinator and every stage, over which it hears when requests are over; where
    there is none it hears at once. ``ways`` are the ``links`` with what they and the stages can carry, which says where
    requests go when a node is down; without it they keep to what is left of ``edges``.
    """

    name: str
    num_layers: int
    stages: tuple[StageSetup, ...]
    links: tuple[LinkSetup, ...]
    edges: tuple[EdgeFlow, ...]
    flow: float
    activation_bytes: float
    control: tuple[LinkSetup, ...] = ()
    ways: FlowGraph | None = None

    @property
    def placement(self) -> Placement:
        """Layers by node."""
        return {stage.name: stage.layers for stage in self.stages}

    def renamed(self, names: Mapping[str, str]) -> Setup:
        """The same setup under other node names."""

        def new(name: str) -> str:
            return names.get(name, name)

        return replace(
            self,
            stages=tuple(replace(stage, name=new(stage.name)) for stage in self.stages),
            links=tuple(replace(link, tail=new(link.tail), head=new(link.head)) for link in self.links),
            control=tuple(replace(link, tail=new(link.tail), head=new(link.head)) for link in self.control),
            edges=tuple(replace(edge, tail=new(edge.tail), head=new(edge.head)) for edge in self.edges),
            ways=None if self.ways is None else self.ways.renamed(new),
        )


def setup_of(
    plan: Plan,
    problem: Problem | None = None,
    *,
    timing: TimingChoice = "measured",
    codec_ratio: float | Mapping[tuple[str, str], float] | None = None,
) -> Setup:
    """What a plan looks like to the simulator.

    Args:
        plan: to be simulated.
        problem: ``compile_problem(plan.job)``, if the caller has it already.
        timing: the catalogue's measured curves wherever there are some, even where the job declares a table; or as
            ``planned``, so that a stage's closed form is what the job declares; or the curves as ``published``, by
            which the paper's simulator counts.
        codec_ratio: compressed over plain size of activations, for all links between nodes or by (tail, head);
            ``None`` for the codecs that the job declares.
    """
    job = plan.job
    problem = problem or compile_problem(job)
    origin = problem.origin or origin_of(job)
    stages = tuple(
        StageSetup(
            name=stage.node,
            layers=stage.layers,
            timing=node_timing(
                job,
                origin.geometry,
                origin.requests,
                stage.node,
                len(stage.layers),
                stage.kv_tokens,
                timing,
                origin.geometry.attention.shape(stage.layers),
            ),
            kv_tokens=stage.kv_tokens,
            nic_bytes_per_s=job.nodes[stage.node].nic,
            windowed=stage.windowed,
            kv_window=stage.kv_window,
        )
        for stage in plan.stages
    )
    return assemble_setup(job.name, problem, stages, plan.edges, plan.flow, codec_ratio=codec_ratio)


def assemble_setup(
    name: str,
    problem: Problem,
    stages: tuple[StageSetup, ...],
    edges: tuple[EdgeFlow, ...],
    flow: float,
    *,
    codec_ratio: float | Mapping[tuple[str, str], float] | None = None,
    graph: FlowGraph | None = None,
) -> Setup:
    """A setup of stages that exist already, with the hops of ``graph``, or every feasible one, between them."""
    graph = graph or build_graph(problem, {stage.name: stage.layers for stage in stages})
    links = []
    for edge in graph.edges:
        link = problem.links.find(edge.tail, edge.head)
        assert link is not None
        inner = COORDINATOR not in (edge.tail, edge.head)
        declared = problem.packed_bytes(link.codec) / problem.activation_bytes
        ratio = declared if codec_ratio is None else _ratio(codec_ratio, edge.tail, edge.head)
        links.append(
            LinkSetup(
                edge.tail,
                edge.head,
                link.bytes_per_s,
                link.latency_s,
                problem.activation_bytes if inner else problem.token_bytes,
                ratio if inner else 1.0,
            )
        )
    control = _control(problem, stages)
    return Setup(name, problem.num_layers, stages, tuple(links), edges, flow, problem.activation_bytes, control, graph)


def _control(problem: Problem, stages: tuple[StageSetup, ...]) -> tuple[LinkSetup, ...]:
    ends = [pair for stage in stages for pair in ((COORDINATOR, stage.name), (stage.name, COORDINATOR))]
    found = ((tail, head, problem.links.find(tail, head)) for tail, head in ends)
    return tuple(
        LinkSetup(tail, head, link.bytes_per_s, link.latency_s, problem.token_bytes)
        for tail, head, link in found
        if link is not None
    )


def _ratio(ratio: float | Mapping[tuple[str, str], float], tail: str, head: str) -> float:
    value = ratio.get((tail, head), 1.0) if isinstance(ratio, Mapping) else ratio
    if not 0 < value <= 1:
        raise SimulationError("a codec's ratio must be above 0 and at most 1", where=f"{tail} → {head}", found=value)
    return value
