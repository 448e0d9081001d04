"""No placement, routing and rules generate more in simulation than the bound on goodput says, whatever its prices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from random import Random

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from helix_df.graph.batch_costs import pass_table
from helix_df.graph.flow import EdgeFlow
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.goodput_bound import FlightPrices, LayerSurcharge, PassPrices, serving_cluster
from helix_df.graph.goodput_prices import GoodputBound, goodput_bound
from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Origin, Placement, Problem
from helix_df.graph.serving_load import ServingLoad, load_of
from helix_df.layers import LayerRange
from helix_df.profiles.expected_drafts import NO_DRAFTS, ExpectedDrafts
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.throughput import Requests
from helix_df.profiles.timing import LayerTiming
from helix_df.rules.routing import leading_to_sink
from helix_df.simulator.kernel.memory import column
from helix_df.simulator.options import Options
from helix_df.simulator.setup import StageSetup, assemble_setup
from helix_df.simulator.simulation import Course, Simulation
from helix_df.simulator.trace import Trace, TraceRequest
from helix_df.spec.source import parse_source
from property_tests.brute_force import all_placements, placement_count

EXAMPLES = int(os.environ.get("HELIX_DF_EXAMPLES", "12"))
"""Small clusters of which every placement is simulated; more of them once in a while: HELIX_DF_EXAMPLES=400."""

TOKENS = 800
"""Tokens of the longest simulations, if the bound were reached."""

MOST_PLACEMENTS = 30
ROUNDING = 1e-9

_TINY = read_geometry(parse_source("random:tiny"))
Lengths = tuple[tuple[int, int], ...]

RULES = (
    Options(max_batch=4, max_prefill_tokens=16, prefill_chunk=16, kv_high_water=1.0, expected_output=1.0),
    Options(max_batch=64, max_prefill_tokens=64, prefill_chunk=64, kv_high_water=1.0, expected_output=0.5),
    Options(max_batch=256, max_prefill_tokens=1024, prefill_chunk=1024, kv_high_water=0.9, expected_output=0.2),
)


@dataclass(frozen=True)
class ServingCase:
    """A small cluster, the seconds of its GPU types' layers, and requests that never run out."""

    problem: Problem
    timings: dict[str, LayerTiming]
    lengths: Lengths
    drafted: ExpectedDrafts

    def timing_of(self, node: NodeProfile, layers: int) -> LayerTiming:
        """As ``TimingOf``; it does not depend on the layers."""
        assert layers > 0
        return self.timings[node.gpu]

    def bound(self, load: ServingLoad | None = None) -> GoodputBound:
        """Of its own requests, or of others."""
        found = goodput_bound(self.problem, self.timing_of, load or load_of(self.lengths))
        assert found is not None
        return found

    def finished(self, placement: Placement, rules: Options, seconds: float, seed: int) -> list[tuple[int, int]]:
        """(Prompt, output) tokens of the requests that end within so many seconds, from an empty cluster on."""
        useful = leading_to_sink([(edge.tail, edge.head) for edge in build_graph(self.problem, placement).edges])
        if not useful.get(COORDINATOR):
            return []
        chance = Random(seed)
        edges = tuple(
            EdgeFlow(tail, head, chance.uniform(0.2, 1.0)) for tail, heads in useful.items() for head in heads
        )
        profiles = {node.name: node for node in self.problem.nodes}
        stages = tuple(
            StageSetup(name, layers, self.timings[profiles[name].gpu], profiles[name].kv_tokens[len(layers) - 1], None)
            for name, layers in placement.items()
        )
        requests = tuple(TraceRequest(0.0, prompt, output, output) for prompt, output in self.lengths)
        setup = assemble_setup("case", self.problem, stages, edges, 1.0)
        options = replace(rules, warmup_s=0.0, seconds=seconds, seed=seed, **asdict(self.drafted))
        run = Simulation(setup, Course(Trace("case", requests, saturating=True), options), form="plain")
        run.run()
        rows = [column(run.state.requests, name, run.arrived) for name in ("wanted", "finished_s", "rejected")]
        return [
            self.lengths[int(wanted)]
            for wanted, finished_s, rejected in zip(*rows, strict=True)
            if finished_s == finished_s and finished_s <= seconds and not rejected
        ]


def generated(finished: Sequence[tuple[int, int]]) -> int:
    return sum(output for _, output in finished)


@st.composite
def layer_timings(draw: st.DrawFn) -> LayerTiming:
    """Curves that rise from a floor or from nothing, and some that fall here and there, as measured ones do."""
    random = Random(draw(st.integers(0, 2**32)))
    token_s, step_s = random.choice((1e-4, 1e-3)), random.choice((1e-4, 2e-3))
    floor_s = random.choice((1e-3, 2e-2))
    corner = max(1.0, floor_s / token_s)
    prefill = [(0.0, random.choice((0.0, floor_s))), (corner, floor_s)]
    prefill += [(corner + n, (corner + n) * token_s * random.choice((0.85, 1.0, 1.1))) for n in (10.0, 25.0, 60.0)]
    decode = [(0.0, floor_s)]
    decode += [(b, floor_s + b * step_s * random.choice((0.7, 1.0, 1.2))) for b in (2.0, 5.0, 9.0, 30.0)]
    return LayerTiming(tuple(prefill), tuple(decode), None, draw(st.sampled_from((None, 3, 20))))


@st.composite
def links(draw: st.DrawFn) -> Link:
    return Link(draw(st.sampled_from((1e5, 1e7))), draw(st.sampled_from((1e-4, 5e-3, 5e-2))))


@st.composite
def serving_cases(draw: st.DrawFn, alike: bool, max_nodes: int = 3, max_layers: int = 3) -> ServingCase:
    """One to three nodes in one or two regions that hold a few layers each, with caches from tight to roomy."""
    num_layers = draw(st.integers(1, max_layers))
    kinds = {f"gpu{at}": draw(layer_timings()) for at in range(draw(st.integers(1, 2)))}
    prompts, outputs = st.sampled_from((1, 2, 9, 40, 90)), st.sampled_from((1, 2, 8, 40))
    pairs = draw(st.lists(st.tuples(prompts, outputs), min_size=1, max_size=1 if alike else 6))
    longest = max(prompt + output for prompt, output in pairs)
    room = {kind: draw(st.sampled_from((1, 3, 12, 60))) for kind in kinds}
    names = [f"n{at}" for at in range(draw(st.integers(1, max_nodes)))]
    regions = {name: draw(st.sampled_from(("east", "west"))) for name in [COORDINATOR, *names]}
    nodes = []
    for name in names:
        gpu = draw(st.sampled_from(sorted(kinds)))
        most = num_layers if name == "n0" else draw(st.integers(1, num_layers))
        kv_tokens = tuple(
            -(-longest * room[gpu] * (num_layers + 1 - k) // k // 16) * 16 + 16 for k in range(1, most + 1)
        )
        nodes.append(NodeProfile(name, gpu, regions[name], tuple(1.0 for _ in kv_tokens), kv_tokens))
    between = {("east", "west"): draw(links())} if draw(st.booleans()) else {}
    named = LinkTable.symmetric([(names[0], COORDINATOR, draw(links()))] if draw(st.booleans()) else [])
    table = LinkTable(regions, draw(links()), between, named)
    drafted = draw(st.just(NO_DRAFTS) | st.builds(ExpectedDrafts, st.integers(1, 7), st.just(0.95), st.just(1.0)))
    origin = Origin(replace(_TINY, num_layers=num_layers), Requests(1.0, 1.0, 1, drafted=drafted))
    problem = Problem(num_layers, tuple(nodes), table, 2, 640, draw(st.booleans()), origin=origin)
    return ServingCase(problem, kinds, tuple(pairs), drafted)


def runs(case: ServingCase, seconds: float) -> Iterator[list[tuple[int, int]]]:
    """What every placement finishes by each of the rules."""
    for seed, (placement, rules) in enumerate(product(all_placements(case.problem), RULES)):
        yield case.finished(placement, rules, seconds, seed)


@given(case=serving_cases(alike=True))
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
def test_no_placement_and_rules_beat_the_bound(case: ServingCase) -> None:
    assume(placement_count(case.problem) <= MOST_PLACEMENTS)
    bound = case.bound()
    seconds = TOKENS / bound.tokens_per_s
    best = max(generated(finished) for finished in runs(case, seconds)) / seconds
    assert best <= bound.tokens_per_s * (1 + ROUNDING)
    event(f"reached: {best / bound.tokens_per_s:.1f}")


@given(case=serving_cases(alike=False, max_nodes=5, max_layers=4), data=st.data())
@settings(max_examples=5 * EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
def test_nor_do_requests_of_all_lengths(case: ServingCase, data: st.DataObject) -> None:
    """The bound of the requests that ended holds for them, whoever was served first."""
    placement = data.draw(placements_of_case(case.problem))
    rules, seed = data.draw(st.sampled_from(RULES)), data.draw(st.integers(0, 1000))
    seconds = TOKENS / case.bound().tokens_per_s
    finished = case.finished(placement, rules, seconds, seed)
    assume(finished)
    bound = case.bound(load_of(finished)).tokens_per_s
    assert generated(finished) / seconds <= bound * (1 + ROUNDING)
    event(f"reached: {generated(finished) / seconds / bound:.1f}")


@st.composite
def placements_of_case(draw: st.DrawFn, problem: Problem) -> Placement:
    """A placement that the first nodes make whole."""
    placement, done = {}, 0
    for node in problem.nodes:
        length = draw(st.integers(1, node.max_layers))
        start = min(done, problem.num_layers - length) if done < problem.num_layers else 0
        if done >= problem.num_layers:
            start = draw(st.integers(0, problem.num_layers - length))
        placement[node.name] = LayerRange(start, start + length)
        done = max(done, start + length)
    return placement


@given(case=serving_cases(alike=True), data=st.data())
@settings(max_examples=5 * EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
def test_any_prices_give_a_true_bound(case: ServingCase, data: st.DataObject) -> None:
    load = load_of(case.lengths)
    cluster = serving_cluster(case.problem, case.timing_of, load)
    best = case.bound()
    factors = st.sampled_from((0.0, 0.5, 0.9, 1.0, 1.0, 1.1, 3.0, -1.0, float("inf"), float("nan")))
    whole, ranges = best.witness.whole, best.witness.ranges
    at = data.draw(st.integers(0, len(ranges)))
    changed = [whole, *ranges]
    changed[at] = changed_prices(changed[at], factors, data)
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(1, len(ranges)))]
    witness = FlightPrices(changed[0], tuple(changed[1:]))
    # No bound is much below the best that was found, so changed prices prove no more than that or nothing.
    assert not witness.evaluate(cluster) < best.tokens_per_s * (1 - 2e-3)


def changed_prices(prices: PassPrices, factors: st.SearchStrategy[float], data: st.DataObject) -> PassPrices:
    """Some of the numbers multiplied, some surcharges missing."""
    names = (
        "requests_per_s",
        "least_in_flight",
        "most_in_flight",
        "least_step",
        "most_step",
        "prompt",
        "flight",
        "cache",
    )
    return replace(
        prices,
        **{name: getattr(prices, name) * data.draw(factors) for name in names},
        surcharges={
            name: tuple(LayerSurcharge(one.step * data.draw(factors), one.prompt * data.draw(factors)) for one in row)
            for name, row in prices.surcharges.items()
            if data.draw(st.integers(0, 3))
        },
    )


@given(timing=layer_timings(), steps=st.integers(1, 40), tokens=st.integers(0, 120))
@settings(max_examples=300, deadline=None)
def test_the_table_has_the_best_passes(timing: LayerTiming, steps: int, tokens: int) -> None:
    """No pass is worth more than the best row of its steps, at any prices."""
    table = pass_table(timing, 40, False)
    covered = timing.prefill_s(steps)
    seconds = timing.decode_s(steps) + max(0.0, timing.prefill_s(steps + tokens) - covered)
    rows = table.steps == steps
    for step, prompt in ((1.0, 0.0), (1.0, 0.3), (1.0, 1.0), (0.1, 1.0), (0.0, 1.0), (1.0, -0.2)):
        best = float((step * table.steps_per_s[rows] + prompt * table.prompts_per_s[rows]).max())
        alone = max(0.0, prompt) * table.prompts_alone_per_s
        assert (step * steps + prompt * tokens) / seconds <= max(best, alone) * (1 + 1e-9)


def test_one_node_comes_near() -> None:
    """A node that holds all layers serves nearly what the bound says: so it isn't true for being high."""
    timing = LayerTiming(((0.0, 0.001), (10.0, 0.001), (100.0, 0.01)), ((0.0, 0.001), (64.0, 0.004)), None, None)
    node = NodeProfile("n0", "gpu", "east", (1.0, 1.0), (40_000, 20_000))
    table = LinkTable({COORDINATOR: "east", "n0": "east"}, Link(1e9, 1e-5))
    problem = Problem(2, (node,), table, 2, 640)
    case = ServingCase(problem, {"gpu": timing}, ((20, 100),), NO_DRAFTS)
    rules = Options(max_batch=256, max_prefill_tokens=64, prefill_chunk=64, kv_high_water=1.0, expected_output=1.0)
    bound = case.bound().tokens_per_s
    seconds = 40_000 / bound
    served = generated(case.finished({"n0": LayerRange(0, 2)}, rules, seconds, 0)) / seconds
    assert 0.8 * bound <= served <= bound
