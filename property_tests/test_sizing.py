"""The cheapest fleet is the cheapest: beside every fleet and every placement, and as offers and rates change."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement, product
from typing import Any

import pytest
import yaml
from hypothesis import given, note
from hypothesis import strategies as st

from helix_df.graph.compile import compile_problem
from helix_df.graph.judge import Judge
from helix_df.graph.limits import broken_limits
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Placement
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.sizing import CheapestOf, cheapest_of
from helix_df.sizing.judging import REACHED, FleetJudge
from helix_df.sizing.losses import losses
from helix_df.sizing.market import Fleet, Market, restricted
from helix_df.sizing.necessary import Necessary
from helix_df.sizing.pipelines import PipelineChoice
from helix_df.solvers.api import Watch
from helix_df.spec.job import Job

LAYERS = 4
MOST_NODES = 4

tables = st.lists(st.integers(1, 60), min_size=1, max_size=LAYERS).map(
    lambda rates: [float(rate) for rate in sorted(rates, reverse=True)]
)
"""Tokens/s with 1, 2, … layers."""


@st.composite
def jobs(draw: st.DrawFn, limits: bool = True) -> Job:
    """A few offers of two or three types, at most four nodes in all, kept ones included; links that bind or don't."""
    rates = draw(st.lists(tables, min_size=2, max_size=3))
    gpus: dict[str, dict[str, Any]] = {
        f"g{i}": {"profile": {"tokens_per_s": table, "kv_tokens": [4000 // k for k in range(1, len(table) + 1)]}}
        for i, table in enumerate(rates)
    }
    for gpu in gpus.values():
        gpu["memory"], gpu["price"] = "1GB", draw(st.integers(1, 12)) / 4
    kept = draw(st.integers(0, 1))
    most = [1] * len(gpus)
    for place in draw(st.lists(st.integers(0, len(gpus) - 1), max_size=MOST_NODES - kept - len(gpus))):
        most[place] += 1
    regions = st.sampled_from(("east", "west"))
    offers: dict[str, dict[str, Any]] = {
        f"o{i}": {"gpu": f"g{i}", "most": count, "region": draw(regions)} for i, count in enumerate(most)
    }
    nodes = {"mine": {"gpu": draw(st.sampled_from(sorted(gpus))), "region": draw(regions)}} if kept else {}
    slow = {"between": ["east", "west"], "bandwidth": f"{draw(st.integers(1, 40)) * 256 * 8}bps"}
    used = {"east", *(one["region"] for one in [*offers.values(), *nodes.values()])}
    links: dict[str, Any] = {"default": {"bandwidth": "1Gbps"}}
    if draw(st.booleans()) and used == {"east", "west"}:
        links["regions"] = [slow]
    document: dict[str, Any] = {
        "model": {"source": "random:tiny"},
        "gpus": gpus,
        "nodes": nodes,
        "offers": offers,
        "links": links,
        "coordinator": {"region": "east"},
        "workload": {"input_length": 60, "output_length": 40, "rate": draw(st.integers(1, 90)) / 100},
    }
    if limits and draw(st.booleans()):
        hops = {"max_hops": draw(st.integers(1, 3))} if draw(st.booleans()) else {}
        document["limits"] = {**hops, "min_requests": draw(st.sampled_from((0, 8, 30)))}
    return parse_job(yaml.safe_dump(document))


def every_fleet(market: Market) -> Iterator[Fleet]:
    """In the order of cost."""
    counts = product(*(range((offer.most or 0) + 1) for offer in market.offers))
    yield from sorted(counts, key=market.cost_units)


def every_placement(market: Market, fleet: Fleet) -> Iterator[Placement]:
    """Nodes of one offer are alike, so their order doesn't matter."""
    ranges = [None, *(LayerRange(a, b) for a in range(LAYERS) for b in range(a + 1, LAYERS + 1))]
    groups = [[node] for node in market.whole.nodes[: market.kept]]
    problem = market.problem(fleet)
    added = iter(problem.nodes[market.kept :])
    groups += [[next(added) for _ in range(count)] for count in fleet if count]
    choices = []
    for group in groups:
        fit = [one for one in ranges if one is None or len(one) <= group[0].max_layers]
        choices.append(list(combinations_with_replacement(fit, len(group))))
    for chosen in product(*choices):
        yield {
            node.name: held
            for group, helds in zip(groups, chosen, strict=True)
            for node, held in zip(group, helds, strict=True)
            if held is not None
        }


def serves(market: Market, fleet: Fleet, flow: float) -> bool:
    """Whether any placement of a fleet does."""
    problem = market.problem(fleet)
    if sum(node.max_layers for node in problem.nodes) < LAYERS:
        return False
    judge = Judge(problem)
    return any(
        judge.flow(*judge.arrays(placement)) >= flow * REACHED and not broken_limits(problem, placement)
        for placement in every_placement(market, fleet)
    )


def brute_force(job: Job) -> float | None:
    """The least that a fleet which serves costs."""
    market = Market(job)
    flow = market.flow_of(job.workload.rate)
    return next((market.cost(fleet) for fleet in every_fleet(market) if serves(market, fleet, flow)), None)


def sized(job: Job, rate: float | None = None) -> CheapestOf:
    return cheapest_of(job, rate or job.workload.rate, "flow")


def cost(found: CheapestOf) -> float:
    return found.fleet.cost if found.fleet is not None else float("inf")


@pytest.mark.slow
@given(jobs())
def test_no_fleet_that_serves_costs_less(job):
    found, least = sized(job), brute_force(job)
    note(str(found))
    assert found.ending == "proven"
    assert (found.fleet and found.fleet.cost) == least
    assert found.lower_bound == least


@given(jobs())
def test_a_fleets_problem_is_what_its_job_compiles_to(job):
    market = Market(job)
    for fleet in list(every_fleet(market))[1:4]:
        assert market.problem(fleet) == compile_problem(market.job_of(fleet))


@given(jobs(), st.data())
def test_what_is_necessary_holds_for_every_fleet_that_serves(job, data):
    market = Market(job)
    *_, fleet = fleets = list(every_fleet(market))
    problem = market.problem(fleet)
    placement, covered = {}, 0
    for node in data.draw(st.permutations([node for node in problem.nodes if node.max_layers])):
        start = covered % LAYERS
        covered = min(LAYERS, start + data.draw(st.integers(1, node.max_layers)))
        placement[node.name] = LayerRange(start, covered)
    flow = placement_flow(problem, placement).value
    if flow <= 0 or broken_limits(problem, placement):
        return
    necessary = Necessary(market, flow)
    found = [necessary.first(), *necessary.against(data.draw(st.sampled_from(fleets)))]
    assert all(one is None or one.holds(fleet) for one in found)


@given(jobs(limits=False))
def test_pipelines_serve_what_they_promise_where_links_are_fast(job):
    job = job.model_copy(update={"links": job.links.model_copy(update={"regions": ()})})
    market = Market(job)
    flow = market.flow_of(job.workload.rate)
    packed = PipelineChoice(market).cheapest(flow)
    if packed is not None:
        fleet, placement = packed
        assert placement_flow(market.problem(fleet), placement).value >= flow * (1 - 1e-6)
        assert all(count <= offer.most for count, offer in zip(fleet, market.offers, strict=True))


@given(jobs())
def test_more_offers_or_more_of_one_never_cost_more(job):
    whole = cost(sized(job))
    first = next(iter(job.offers))
    fewer = job.model_copy(update={"offers": {**job.offers, first: job.offers[first].model_copy(update={"most": 1})}})
    assert whole <= cost(sized(fewer))
    assert whole <= cost(sized(restricted(job, list(job.offers)[1:]))) if len(job.offers) > 1 else True


@given(jobs(), st.integers(1, 5))
def test_a_higher_rate_never_costs_less(job, times):
    rate = job.workload.rate
    assert cost(sized(job, rate)) <= cost(sized(job, rate * (1 + times / 4)))


@given(jobs(limits=False), st.data())
def test_losses_are_the_worst(job, data):
    market = Market(job)
    fleet = data.draw(st.sampled_from([fleet for fleet in every_fleet(market) if any(fleet)]))
    problem = market.problem(fleet)
    placement = {node.name: LayerRange(0, node.max_layers) for node in problem.nodes if node.max_layers}
    judge = FleetJudge(market, job.workload.rate, Watch())
    for loss in losses(market, judge, fleet, placement, 2):
        names = dict(market.nodes_of(fleet))[[offer.name for offer in market.offers].index(loss.offer)]
        left = [
            placement_flow(problem, {name: held for name, held in placement.items() if name not in gone}).value
            for gone in combinations(names, loss.lost)
        ]
        assert loss.exact
        assert loss.kept_flow == pytest.approx(min(left))
        assert loss.replanned_flow >= loss.kept_flow
