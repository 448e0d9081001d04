"""Small clusters, what happens to them, and how runtime and simulator are each asked what comes of it.

All times and rates are a little off round numbers, so that things rarely happen at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from hypothesis import strategies as st

from helix_df.graph.flow import EdgeFlow, MinCut
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Problem
from helix_df.layers import LayerRange
from helix_df.plan.plan import Certificate, Plan, SolverReport, Stage
from helix_df.profiles.identity import ModelIdentity
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.routing import leading_to_sink
from helix_df.simulator.kernel.memory import column
from helix_df.simulator.options import MESSAGE_BYTES, NodeEvent, Options, options_of
from helix_df.simulator.setup import Setup, StageSetup, assemble_setup
from helix_df.simulator.simulation import Course, Form, Simulation
from helix_df.simulator.trace import Trace, TraceRequest
from helix_df.spec.job import Job
from helix_df.spec.source import parse_source
from property_tests.virtual_time import Sizes, Told, VirtualJob

TOKEN_BYTES, HIDDEN_BYTES = 2, 640
_TINY = read_geometry(parse_source("random:tiny"))

Off = Callable[[float], float]
"""A number near the given one."""


@dataclass(frozen=True)
class Case:
    """A small cluster with what happens to it until ``end_s``."""

    problem: Problem
    plan: Plan
    timings: dict[str, LayerTiming]
    page_tokens: int
    trace: Trace
    events: tuple[tuple[float, str, bool], ...]
    end_s: float
    most_rejections: int

    def runtime(self) -> VirtualJob:
        """What the state machines make of it."""
        job = VirtualJob(
            plan=self.plan,
            links=self.problem.links,
            timings=self.timings,
            sizes=Sizes(TOKEN_BYTES, HIDDEN_BYTES, MESSAGE_BYTES),
            page_tokens=self.page_tokens,
            trace=self.trace,
            events=self.events,
            end_s=self.end_s,
            ways=build_graph(self.problem, self.plan.placement),
        )
        job.run()
        return job

    def simulator(self, form: Form = "plain") -> list[Told]:
        """What the simulator makes of it."""
        stages = tuple(
            StageSetup(
                stage.node,
                stage.layers,
                self.timings[stage.node],
                stage.kv_tokens,
                windowed=stage.windowed,
                kv_window=stage.kv_window,
            )
            for stage in self.plan.stages
        )
        setup = assemble_setup("case", self.problem, stages, self.plan.edges, 1.0)
        options = options_of(
            self.plan.job,
            warmup_s=0.0,
            seconds=self.end_s,
            events=tuple(NodeEvent(time_s, node, up) for time_s, node, up in self.events),
            kv_page_tokens=self.page_tokens,
        )
        return recorded(setup, self.trace, options, form)


def recorded(setup: Setup, trace: Trace, options: Options, form: Form) -> list[Told]:
    """Run the simulator, and note every token."""
    simulation = Simulation(setup, Course(trace, options), form=form, record_tokens=True)
    simulation.run()
    count = simulation.arrived
    names = ("arrived_s", "finished_s", "rejected")
    arrived_s, finished_s, rejected = (column(simulation.state.requests, name, count) for name in names)
    told = [
        Told(float(arrived_s[at]), [], bool(finished_s[at] == finished_s[at]), bool(rejected[at]))
        for at in range(count)
    ]
    for request, _, time_s in zip(*simulation.tokens, strict=True):
        told[request].tokens_s.append(float(time_s))
    return told


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Clusters of one to five nodes, with roomy, tight and overflowing caches."""
    random = Random(draw(st.integers(0, 2**32)))

    def off(value: float) -> float:
        return value * random.uniform(0.8, 1.25)

    caches = draw(st.sampled_from(("roomy", "tight", "overflowing")))
    num_layers = draw(st.integers(1, 4))
    names = [f"n{index}" for index in range(draw(st.integers(1, 5)))]
    page = draw(st.sampled_from((1, 4, 16)))
    placement = draw(_placements(num_layers, names))
    problem = draw(_problems(num_layers, names, off))
    return Case(
        problem=problem,
        plan=draw(_plans(problem, placement, page, caches, off)),
        timings={name: draw(_timings(off)) for name in names},
        page_tokens=page,
        trace=draw(_traces(off, (20,) if caches == "overflowing" else (1, 2, 5, 20))),
        events=draw(_events(names, off)),
        end_s=off(1.5),
        most_rejections=draw(st.sampled_from((2, 10))),
    )


@st.composite
def _placements(draw: st.DrawFn, num_layers: int, names: Sequence[str]) -> dict[str, LayerRange]:
    """The first nodes hold the model between them, the others whatever they like."""
    placement: dict[str, LayerRange] = {}
    done = 0
    for index, name in enumerate(names):
        start = done if done < num_layers else draw(st.integers(0, num_layers - 1))
        last = done < num_layers and index == len(names) - 1
        placement[name] = LayerRange(start, num_layers if last else draw(st.integers(start + 1, num_layers)))
        done = max(done, placement[name].stop)
    return placement


@st.composite
def _problems(draw: st.DrawFn, num_layers: int, names: list[str], off: Off) -> Problem:
    """Links between all, slow and fast, near and far, some of them otherwise on the way back; with and without partial
    inference.
    """
    ends = [*names, COORDINATOR]
    rates, latencies = st.sampled_from((2e4, 1e6, 3e7)), st.sampled_from((1e-4, 0.02))
    links = LinkTable.symmetric(
        (one, other, Link(off(draw(rates)), off(draw(latencies)))) for at, one in enumerate(ends) for other in ends[:at]
    )
    for way in draw(st.lists(st.sampled_from(sorted(links)), max_size=2, unique=True)):
        links[way] = Link(off(draw(rates)), off(draw(latencies)))
    nodes = tuple(NodeProfile(name, "toy", "here", (1.0,) * num_layers, (1,) * num_layers) for name in names)
    table = LinkTable(dict.fromkeys(ends, "here"), None, {}, links)
    return Problem(num_layers, nodes, table, TOKEN_BYTES, HIDDEN_BYTES, partial_inference=draw(st.booleans()))


@st.composite
def _plans(
    draw: st.DrawFn, problem: Problem, placement: dict[str, LayerRange], page: int, caches: str, off: Off
) -> Plan:
    """A flow, with the runtime's parameters."""
    least, most = {"roomy": (500, 500), "tight": (48, 200), "overflowing": (80, 120)}[caches]
    pages = st.integers(-(-least // page), -(-most // page))
    shares = {"roomy": (1.0,), "tight": (0.1, 0.6, 1.0), "overflowing": (0.1,)}[caches]
    answers = {"roomy": (240,), "tight": (2, 12, 240), "overflowing": (1,)}[caches]
    runtime = {
        "prefix_cache": False,
        "max_batch": draw(st.sampled_from((1, 2, 3, 16))),
        "max_prefill_tokens": draw(st.sampled_from((16, 17, 40))),
        "max_queue": draw(st.sampled_from((2, 1000))),
        "kv_high_water": draw(st.sampled_from((0.5, 0.9, 1.0))),
        "expected_output": draw(st.sampled_from(shares)),
        "micro_batches": draw(st.sampled_from((True, True, False))),
        "shortest_first": draw(st.booleans()),
        "speculation": draw(st.none() | _speculations()),
    }
    job = Job.model_validate(
        {
            "model": {"source": "random:tiny"},
            "nodes": {name: {"gpu": "toy"} for name in placement},
            "workload": {"input_length": 20, "output_length": draw(st.sampled_from(answers))},
            "runtime": runtime,
        }
    )
    graph = build_graph(problem, placement)
    useful = leading_to_sink([(edge.tail, edge.head) for edge in graph.edges])
    hops = [EdgeFlow(tail, head, off(1.0)) for tail, heads in useful.items() for head in heads]
    # Of a maximum flow, which leaves hops without any, or of some flow on all.
    edges = draw(st.sampled_from((solve_max_flow(graph).edges, tuple(hops))))
    return Plan(
        job=job,
        num_layers=problem.num_layers,
        stages=tuple(
            Stage(name, layers, 1.0, page * draw(pages), *draw(_windows(len(layers))))
            for name, layers in placement.items()
        ),
        flow=1.0,
        edges=edges,
        cut=MinCut((), (), 1.0),
        certificate=Certificate("none", 1.0),
        # Of a model whose hidden states have the size of those here: so the coordinator knows what they take on links.
        model=ModelIdentity(replace(_TINY, hidden_size=HIDDEN_BYTES // job.model.element_bytes)),
        solver=SolverReport("hand", None, "", "", None, 0.0),
    )


def _speculations() -> st.SearchStrategy[dict[str, object]]:
    """Drafts that are often, seldom and never right."""

    def section(drafts: int, acceptance: float, coverage: float) -> dict[str, object]:
        drawn = {"seed": 0, "acceptance": acceptance, "coverage": coverage}
        return {"drafter": "drawn", "drafts": drafts, "options": drawn, "acceptance": acceptance, "coverage": coverage}

    shares = st.sampled_from((0.0, 0.3, 0.8, 0.95, 1.0))
    return st.builds(section, st.sampled_from((1, 3, 15)), shares, st.sampled_from((0.5, 1.0)))


def _windows(layers: int) -> st.SearchStrategy[tuple[int, int]]:
    """In how many layers cache is freed, and behind how many tokens."""
    some = st.tuples(st.integers(1, layers), st.sampled_from((1, 7, 16, 30)))
    return st.just((0, 0)) | some | some


@st.composite
def _timings(draw: st.DrawFn, off: Off) -> LayerTiming:
    decode, each = off(draw(st.sampled_from((1e-3, 2e-2)))), off(draw(st.sampled_from((1e-4, 3e-3))))
    prompt, floor = off(draw(st.sampled_from((1e-4, 1e-3)))), off(1e-3)
    return LayerTiming(
        ((0.0, floor), (8.0, floor + 2 * prompt), (64.0, floor + 40 * prompt)),
        ((0.0, decode), (2.0, decode + each), (32.0, decode + 31 * each)),
    )


@st.composite
def _traces(draw: st.DrawFn, off: Off, outputs: Sequence[int]) -> Trace:
    """Prompts around the sizes of pieces and pages, at some distance or at all times."""
    requests = []
    arrival_s = 0.0
    for _ in range(draw(st.integers(1, 10))):
        arrival_s += off(draw(st.sampled_from((1e-3, 0.1, 0.6))))
        output = draw(st.sampled_from(outputs))
        most = output + draw(st.sampled_from((0, 0, 1, 12)))
        requests.append(TraceRequest(arrival_s, draw(st.sampled_from((1, 2, 15, 16, 17, 33, 34, 60))), output, most))
    return Trace("case", tuple(requests), saturating=draw(st.booleans()))


@st.composite
def _events(draw: st.DrawFn, names: Sequence[str], off: Off) -> tuple[tuple[float, str, bool], ...]:
    """Up to two nodes are lost, and come back sooner or later."""
    events: list[tuple[float, str, bool]] = []
    for name in draw(st.lists(st.sampled_from(names), max_size=2, unique=True)):
        lost_s = off(draw(st.sampled_from((0.05, 0.3, 0.8))))
        events += [(lost_s, name, False), (lost_s + off(draw(st.sampled_from((0.02, 0.3, 5.0)))), name, True)]
    return tuple(sorted(events))
