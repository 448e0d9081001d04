"""Planning for goodput on a small cluster: the plan is right, no worse than the flow's, and keeps the limits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from helix_df.errors import Infeasible, PlanError, SolverError, SpecError
from helix_df.graph.compile import compile_problem
from helix_df.graph.even_flow import COST_PRESETS, CostPreset
from helix_df.load import parse_job
from helix_df.plan.diff import stay_near
from helix_df.plan.moves import move_bytes
from helix_df.plan.plan import from_document, read_plan, to_document, write_plan
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.simulator.simulate import simulate
from helix_df.simulator.simulation import Simulation
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.choice import choose_solver
from helix_df.solvers.goodput.config import HELD_OUT, SEARCHED, WHOLE_S, SearchConfig
from helix_df.solvers.goodput.evaluator import Evaluator, Threshold
from helix_df.solvers.goodput.exploration import Chain, explored
from helix_df.solvers.goodput.flow_split import split_flow
from helix_df.solvers.goodput.kv_split import kv_limited_split
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.solvers.goodput.placements import Ranges, Scored, arrays, different, ranges_of
from helix_df.solvers.goodput.racing import HEAD_START_S, RaceResult, TokenCurve, race, tokens_at
from helix_df.solvers.goodput.search import GoodputSearch, Trial
from helix_df.solvers.goodput.surrogate import estimate
from helix_df.solvers.goodput.worker_pool import open_pool
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import get_solver
from helix_df.spec.job import Job

JOB = """\
name: small
model: {source: random:llama-3.2-1b, dtype: float16}
gpus:
  big: {profile: {tokens_per_s: [450, 200, 125, 90], kv_tokens: [90000, 60000, 40000, 20000]}}
  small: {profile: {tokens_per_s: [200, 95], kv_tokens: [30000, 9000]}}
nodes: {NODES}
links: {default: {bandwidth: 10Gbps, latency: 1ms}}
"""
QUICK = {
    "work": 1000,
    "explore": 120,
    "screened": 3,
    "orders": 2,
    "climbs": 2,
    "validated": 1,
    "visits": 20_000,
    "validation_visits": 50_000,
}


def job(**solver: object) -> Job:
    """16 layers on 5 big and 3 small nodes."""
    nodes = [f"b{i}: {{gpu: big}}" for i in range(5)] + [f"s{i}: {{gpu: small}}" for i in range(3)]
    given = parse_job(JOB.replace("NODES", ", ".join(nodes)))
    return given.with_solver(**{"name": "goodput", "options": QUICK, "time_limit": 600.0, **solver})


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    given = job()
    return Evaluator(SearchConfig(given, GoodputOptions(**cast(Any, QUICK))), compile_problem(given), 0)


@pytest.fixture(scope="module")
def plan():
    return make_plan(job())


def test_the_plan_is_right_and_says_what_was_simulated(plan):
    assert violations(plan) == []
    assert plan.solver.name == "goodput"
    assert "generated tokens/s when saturated, in simulation" in plan.solver.detail


def test_the_plan_has_a_bound_on_goodput_that_can_be_checked(plan, tmp_path):
    goodput = plan.goodput
    assert 0 < goodput.generated.tokens_per_s < goodput.bound
    assert f"{goodput.generated.tokens_per_s:,.1f} generated" in plan.solver.detail
    write_plan(plan, tmp_path / "goodput.plan.json")
    assert read_plan(tmp_path / "goodput.plan.json").goodput == goodput

    def wrong(**changes: object) -> list[str]:
        return violations(replace(plan, goodput=replace(goodput, **changes)))

    assert wrong(bound=1.01 * goodput.bound) == []
    assert "proves no less than" in wrong(bound=0.99 * goodput.bound)[0]
    cheap = replace(goodput.witness.whole, prompt=0.0, least_step=0.0, most_step=0.0)
    assert "proves none" in wrong(witness=replace(goodput.witness, whole=cheap))[0]
    assert "kinds that can be checked" in wrong(kind="oath")[0]
    assert "under the bound" in wrong(bound=float("nan"))[0]
    generated = goodput.generated
    assert "under the bound" in wrong(generated=replace(generated, tokens_per_s=2 * goodput.bound))[0]
    longer = replace(generated.load, prompt_tokens=1.5 * generated.load.prompt_tokens)
    assert "mean tokens where the job's have" in wrong(generated=replace(generated, load=longer))[0]
    mixed = replace(generated.load, mean_context=0.5 * generated.load.least_context)
    assert "no requests have the figures" in wrong(generated=replace(generated, load=mixed))[0]


def test_a_damaged_bound_on_goodput_is_told_of(plan):
    document = json.loads(json.dumps(to_document(plan)))
    document["goodput"]["witness"]["whole"]["prompt"] = "much"
    with pytest.raises(PlanError, match="bound on goodput"):
        from_document(document)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_plans_the_same(plan, workers):
    found = make_plan(job(options={**QUICK, "workers": workers}))
    assert found.placement == plan.placement
    assert found.edges == plan.edges
    assert found.solver.detail == plan.solver.detail


def test_it_serves_no_less_than_the_flows_plan(plan, evaluator):
    """The flow's plan is among the starts, so on the search's own half nothing worse can win, each by its own rules."""
    flow = make_plan(job(name="auto", options={}, time_limit=2.0))
    scores = []
    for one in (plan, flow):
        judge = evaluator.under(one.rules or evaluator.rules)
        ranges = ranges_of(*judge.judge.arrays(one.placement))
        scores.append(judge.simulated(ranges, lambda: False, 0, WHOLE_S).tokens_per_s)
    assert scores[0] >= 0.97 * scores[1] > 0


def test_limits_on_latency_are_kept_or_refused(evaluator):
    given = job()
    rated = given.model_copy(update={"workload": given.workload.model_copy(update={"rate": 0.02})})

    def limited(ttft_p95: float) -> Job:
        return rated.model_copy(update={"limits": rated.limits.model_copy(update={"ttft_p95": ttft_p95})})

    assert "95 % of first tokens within" in make_plan(limited(5000.0)).solver.detail
    with pytest.raises(Infeasible, match="keeps the limits on latency") as caught:
        make_plan(limited(1e-6))
    assert "95 % of first tokens within" in str(caught.value)


def test_hops_are_limited_here_too():
    given = job()
    limited = given.model_copy(update={"limits": given.limits.model_copy(update={"max_hops": 5})})
    plan = make_plan(limited)
    assert max(len(path.hops) for path in plan.paths()) <= 5
    assert violations(plan) == []


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SolverError, match="no option 'restarts'"):
        make_plan(job(options={"restarts": 3}))
    with pytest.raises(SolverError, match="no such rules"):
        make_plan(job(options={"rules": "mine"}))
    with pytest.raises(SolverError, match="somebody has to simulate"):
        make_plan(job(options={"workers": 0}))
    with pytest.raises(SolverError, match="no backends"):
        make_plan(job(backend="highs"))
    problem = compile_problem(job())
    with pytest.raises(SolverError, match="needs the whole job"):
        solve_problem(problem, get_solver("goodput"), SolveOptions(), Watch())


def test_options_of_before_are_read():
    old = {"auditions": 3, "finals": 1, "final_visits": 50_000}
    new = {key: QUICK[key] for key in ("work", "explore", "orders", "climbs", "visits")}
    assert make_plan(job(options={**new, **old})).solver.detail == make_plan(job()).solver.detail


def test_work_follows_the_time_limit_unless_it_is_said():
    usual = GoodputOptions()
    assert usual.within(300).explore == usual.within(3000).explore == 10 * usual.within(30).explore
    assert usual.within(600).work == 2 * usual.within(300).work > 0
    assert usual.within(3).visits < usual.within(30).visits < usual.within(3000).visits
    told = GoodputOptions(work=7, explore=9, visits=1, validation_visits=2)
    assert told.within(30) == told


def test_nodes_are_timed_by_curves_and_by_those_as_published_under_the_artifacts_rules():
    assert GoodputOptions().node_timing == "measured"
    assert GoodputOptions(rules="artifact").node_timing == "published"
    assert GoodputOptions(rules="artifact", timing="planned").node_timing == "planned"


def test_a_time_limit_that_cuts_the_search_off_is_told():
    cut = make_plan(job(time_limit=1e-3))
    assert (cut.solver.reason, cut.solver.limit) == ("limit", "time")
    assert violations(cut) == []


def test_a_search_says_what_it_is_at():
    heard: list[str] = []
    make_plan(job(), watch=Watch(on_word=lambda _elapsed_s, words: heard.append(words)))
    assert heard[0].startswith("goodput: compiling")
    assert len(heard) == len(set(heard)) > 3


def test_near_a_plan_only_moves_that_pay_are_made():
    even = make_plan(job(name="even", options={}))

    def loaded(price: float) -> int:
        near = stay_near(even, job(), price)
        found = make_plan(job(), near=near)
        return sum(move_bytes(near.placement, found.placement, near.geometry, near.element_bytes).values())

    assert loaded(1e9) == 0
    assert loaded(0.0) > 0


def test_a_chain_finds_the_same_again_and_nothing_worse_than_its_start(evaluator):
    start = ranges_of(*evaluator.judge.arrays(make_plan(job(name="even", options={})).placement))
    found = explored(evaluator, Chain(3, 200, start), lambda: False)
    assert found == explored(evaluator, Chain(3, 200, start), lambda: False)
    assert found[0].score >= evaluator.value(*arrays(start)) > 0
    assert explored(evaluator, Chain(3, 200, start), lambda: True) == []


def test_visits_are_what_was_simulated(evaluator):
    given = evaluator.screened(MIDDLE, Threshold(120.0, score=1e9), "any", lambda: False)
    assert given.visits == pytest.approx(given.score * 120.0 * evaluator.hops(MIDDLE))
    twice = evaluator.screened(MIDDLE, Threshold(120.0), "any", lambda: False)
    assert twice.visits == pytest.approx(2 * twice.score * 120.0 * evaluator.hops(MIDDLE))


def test_the_held_out_half_is_another(evaluator):
    seen = evaluator.config.offline(evaluator.rules, 0, SEARCHED, 60.0).trace
    other = evaluator.config.offline(evaluator.rules, 0, HELD_OUT, 60.0).trace
    assert seen.requests != other.requests


def test_more_cache_serves_no_less_and_slower_links_no_more(evaluator):
    start, count = evaluator.judge.arrays(make_plan(job(name="even", options={})).placement)
    split = split_flow(evaluator.judge, start, count)
    base = estimate(evaluator.costs, split).decode_tokens_per_s
    roomy = replace(evaluator.costs, kv_tokens=evaluator.costs.kv_tokens * 2)
    slow = replace(evaluator.costs, bytes_per_s=evaluator.costs.bytes_per_s / 100)
    assert estimate(roomy, split).decode_tokens_per_s >= base > 0
    assert estimate(slow, split).decode_tokens_per_s <= base


def test_different_leaves_out_near_copies():
    one = ((0, 4), (4, 4), (8, 4))
    near = ((0, 4), (4, 4), (8, 3))
    far = ((8, 3), (0, 5), (5, 3))
    assert [item.ranges for item in different([Scored(3, one), Scored(2, near), Scored(1, far)], 5)] == [one, far]


MIDDLE = ((0, 3), (3, 3), (10, 3), (6, 4), (6, 4), (13, 1), (14, 1), (15, 1))
FRONT = ((4, 3), (7, 3), (10, 3), (0, 4), (0, 4), (13, 1), (14, 1), (15, 1))
"""The same seven stages, one of them on two nodes."""


def test_two_nodes_side_by_side_are_worth_most_where_they_break_a_chain(evaluator):
    """Steps overtake whole prompts there, so at the front, where nothing has piled up yet, they'd be wasted."""
    small = replace(evaluator.costs, kv_tokens=evaluator.costs.kv_tokens / 5, pieces=None)
    broken, wasted = (estimate(small, split_flow(evaluator.judge, *arrays(ranges))) for ranges in (MIDDLE, FRONT))
    assert broken.in_flight == pytest.approx(wasted.in_flight, rel=0.02)
    assert broken.decode_tokens_per_s > 1.01 * wasted.decode_tokens_per_s


def test_caches_of_a_stage_are_filled_together(evaluator):
    """Where the busier of two nodes has little cache, requests go to the other one instead of waiting."""
    costs, split = evaluator.costs, split_flow(evaluator.judge, *arrays(MIDDLE))
    busier = max((3, 4), key=lambda node: split.share[split.nodes == node][0])
    tight = 100 * costs.kv_tokens
    tight[[3, 4]] = costs.kv_tokens[[3, 4]] / np.array([[1.0 + (node == busier)] for node in (3, 4)])
    share = split.share[split.nodes == busier][0]
    alone = tight[busier, 4] * costs.admitted * costs.fullest / costs.request_tokens / share
    shifted, in_flight = kv_limited_split(replace(costs, kv_tokens=tight), split)
    assert in_flight > 1.2 * alone
    assert shifted.share[split.nodes == busier][0] < share


def test_a_race_is_given_up_only_far_behind(evaluator):
    setup = evaluator.setup(MIDDLE)
    course = evaluator.config.offline(evaluator.rules, 0, SEARCHED, 900.0)
    options = course.options

    def run(baseline: TokenCurve = (), stopped: bool = False) -> RaceResult:
        return race(
            Simulation(setup, course, form="compiled"), options.warmup_s, options.seconds, baseline, lambda: stopped
        )

    full = run()
    assert full.tokens_per_s == simulate(setup, course.trace, options).decode_tokens_per_s > 0
    assert full.curve[-1] == (options.end_s, round(full.tokens_per_s * options.seconds))
    assert run(full.curve) == full
    behind = run(tuple((time_s, 2 * tokens) for time_s, tokens in full.curve))
    assert behind.tokens_per_s == run(stopped=True).tokens_per_s == 0.0
    assert behind.curve == full.curve[: len(behind.curve)]
    assert behind.curve[-1][0] == options.warmup_s + HEAD_START_S


def test_the_spread_of_the_flow_is_simulated_and_planned(evaluator, plan):
    """What the search simulates is the flow that the plan then has."""
    ranges = ranges_of(*evaluator.judge.arrays(plan.placement))
    edges = {spread: evaluator.setup(ranges, spread).edges for spread in COST_PRESETS}
    assert set(plan.edges) in [set(found) for found in edges.values()]


def test_identical_nodes_are_not_tried_twice(evaluator):
    with open_pool(1) as pool:
        search = GoodputSearch(evaluator, pool, Watch(), SolveOptions(), 1.0)
        search.seconds = 120.0
        other = (MIDDLE[1], MIDDLE[0], *MIDDLE[2:5], MIDDLE[7], *MIDDLE[5:7])
        trials: list[tuple[Ranges, CostPreset]] = [(MIDDLE, "any"), (other, "any"), (other, "even-nodes")]
        search._simulate([Trial(ranges, spread, evaluator.rules) for ranges, spread in trials])
    assert [(one.ranges, one.spread) for one in search.simulated] == [(MIDDLE, "any"), (other, "even-nodes")]


def test_a_curve_is_read_between_its_points():
    curve = ((10.0, 0), (20.0, 100), (40.0, 300))
    assert [tokens_at(curve, time_s) for time_s in (5.0, 15.0, 20.0, 30.0, 50.0)] == [0.0, 50.0, 100.0, 200.0, 0.0]


def written(solver: str) -> Job:
    return parse_job(f"{JOB.replace('NODES', 'b: {gpu: big}')}solver: {solver}\n")


def test_the_objective_of_files_of_before_names_the_solver():
    assert written("{objective: goodput, seed: 3}").solver == written("{name: goodput, seed: 3}").solver
    assert written("{name: auto, objective: goodput}").solver.name == "goodput"
    assert written("{name: cover, objective: flow}").solver == written("cover").solver
    assert job().solver.objective is job(name="auto", objective="goodput").solver.objective is None


@pytest.mark.parametrize("solver", ["{name: cover, objective: goodput}", "{name: goodput, objective: flow}"])
def test_an_objective_of_another_solver_is_refused(solver):
    with pytest.raises(SpecError, match=r"solver: the (objective|solver) goodput"):
        written(solver)


def test_limits_on_latency_need_a_solver_that_keeps_them():
    given = job(name="cover", options={})
    limited = given.model_copy(update={"limits": given.limits.model_copy(update={"itl_p95": 1.0})})
    with pytest.raises(SolverError, match=r"limits\.itl_p95: the solver cover keeps no limits") as caught:
        choose_solver(limited)
    assert "the solver goodput" in str(caught.value)
