"""Planning for goodput on a small cluster: the plan is right, no worse than the flow's, and keeps the limits."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import asdict, replace

import numpy as np
import pytest

from helix_df.errors import Infeasible, SolverError
from helix_df.goodput.brief import HELD_OUT, SEARCHED, WHOLE_S, Brief, GoodputOptions
from helix_df.goodput.crew import Crew, CrewOfTwo, read_scored, read_task, task_document
from helix_df.goodput.crowding import crowd
from helix_df.goodput.planner import plan_goodput
from helix_df.goodput.race import HEAD_START_S, Pace, Run, race, tokens_at
from helix_df.goodput.routes import route
from helix_df.goodput.search import GoodputSearch
from helix_df.goodput.surrogate import estimate
from helix_df.goodput.workshop import (
    Audition,
    Bar,
    Explore,
    Final,
    Scored,
    Workshop,
    arrays,
    different,
    ranges_of,
)
from helix_df.graph.compile import compile_problem
from helix_df.graph.even_flow import SPREADS
from helix_df.load import parse_job
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.simulator.simulate import simulate
from helix_df.simulator.stepwise import Stepwise
from helix_df.solvers.api import Watch
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
    "explore": 120,
    "auditions": 3,
    "orders": 2,
    "climbs": 2,
    "finals": 1,
    "visits": 20_000,
    "final_visits": 50_000,
}


def job(**solver: object) -> Job:
    """16 layers on 5 big and 3 small nodes."""
    nodes = [f"b{i}: {{gpu: big}}" for i in range(5)] + [f"s{i}: {{gpu: small}}" for i in range(3)]
    given = parse_job(JOB.replace("NODES", ", ".join(nodes)))
    return given.with_solver(objective="goodput", options=QUICK, time_limit=600.0, **solver)


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    given = job()
    return Workshop(Brief(given, GoodputOptions(**QUICK)), compile_problem(given), 0)


@pytest.fixture(scope="module")
def plan():
    return make_plan(job())


def test_the_plan_is_right_and_says_what_was_simulated(plan):
    assert violations(plan) == []
    assert plan.solver.name == "goodput"
    assert "generated tokens/s when saturated, in simulation" in plan.solver.detail


def test_one_core_plans_what_two_plan(plan, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert make_plan(job()).placement == plan.placement


def test_it_serves_no_less_than_the_flows_plan(plan, workshop):
    """The flow's plan is among the starts, so on the search's own half nothing worse can win."""
    flow = make_plan(job(name="auto").with_solver(objective="flow", options={}, time_limit=2.0))
    scores = [
        workshop.audition(ranges_of(*workshop.judge.arrays(one.placement)), lambda: False, 0, WHOLE_S).tokens_per_s
        for one in (plan, flow)
    ]
    assert scores[0] >= 0.97 * scores[1] > 0


def test_limits_on_latency_are_kept_or_refused(workshop):
    given = job()
    rated = given.model_copy(update={"workload": given.workload.model_copy(update={"rate": 0.02})})

    def limited(ttft_p95: float) -> Job:
        return rated.model_copy(update={"limits": rated.limits.model_copy(update={"ttft_p95": ttft_p95})})

    assert "95 % of first tokens within" in plan_goodput(limited(5000.0)).solver.detail
    with pytest.raises(Infeasible, match="keeps the limits on latency") as caught:
        plan_goodput(limited(1e-6))
    assert "95 % of first tokens within" in str(caught.value)


def test_hops_are_limited_here_too():
    given = job()
    limited = given.model_copy(update={"limits": given.limits.model_copy(update={"max_hops": 5})})
    plan = make_plan(limited)
    assert max(len(path.hops) for path in plan.paths()) <= 5
    assert violations(plan) == []


def test_a_solver_of_another_objective_is_refused():
    with pytest.raises(SolverError, match="search of its own"):
        make_plan(job(name="cover"))
    with pytest.raises(SolverError, match="no option 'restarts'"):
        make_plan(job().with_solver(options={"restarts": 3}))
    with pytest.raises(SolverError, match="no such rules"):
        make_plan(job().with_solver(options={"rules": "mine"}))


def test_a_child_finds_what_this_process_finds(workshop):
    start = ranges_of(
        *workshop.judge.arrays(make_plan(job().with_solver(name="even", objective="flow", options={})).placement)
    )
    tasks = (Explore(3, 40, (start,)), Audition(start, Bar(120.0), "even"), Final(start, 9, "any"))
    alone = Crew(workshop).perform(tasks, lambda: False)
    assert all(alone)
    crew = CrewOfTwo(workshop)
    found: list[list[Scored]] = [[], [], []]
    try:
        crew.share(deque(enumerate(tasks)), found, lambda: False)
        together = crew.perform(tasks, lambda: False)
        crew.child.process.kill()
        after = crew.perform(tasks, lambda: False)
    finally:
        crew.child.close()
    assert alone == found == together == after


def test_a_child_that_is_stopped_answers_the_next_question(workshop):
    start = ranges_of(*workshop.judge.arrays(make_plan(job().with_solver(objective="flow", options={})).placement))
    tasks = (Audition(start, Bar(120.0), "any"),)
    looks = iter([False, False])
    crew = CrewOfTwo(workshop)
    found: list[list[Scored]] = [[]]
    try:
        # Ten million estimates take hours.
        crew.share(deque([(0, Explore(3, 10_000_000, (start,)))]), found, lambda: next(looks, True))
        after: list[list[Scored]] = [[]]
        crew.share(deque(enumerate(tasks)), after, lambda: False)
    finally:
        crew.child.close()
    assert after == Crew(workshop).perform(tasks, lambda: False)


def test_tasks_survive_their_documents():
    ranges = ((0, 2), (2, 1), (0, 0))
    tasks = (
        Explore(1, 2, (ranges,)),
        Audition(ranges, Bar(7.0, 6.0, ((4.0, 3), (5.0, 6))), "roomy"),
        Final(ranges, 6, "even"),
    )
    for task in tasks:
        assert read_task(task_document(task)) == task
    scored = Scored(5.0, ranges, 1.0, 0.1, ((9.0, 8),), "roomy")
    assert read_scored(json.loads(json.dumps(asdict(scored)))) == scored


def test_the_held_out_half_is_another(workshop):
    seen = workshop.brief.offline(0, SEARCHED, 60.0).trace
    other = workshop.brief.offline(0, HELD_OUT, 60.0).trace
    assert seen.requests != other.requests


def test_more_cache_serves_no_less_and_slower_links_no_more(workshop):
    start, count = workshop.judge.arrays(
        make_plan(job().with_solver(objective="flow", options={}, name="even")).placement
    )
    routed = route(workshop.judge, start, count)
    base = estimate(workshop.shop, routed).decode_tokens_per_s
    roomy = replace(workshop.shop, kv_tokens=workshop.shop.kv_tokens * 2)
    slow = replace(workshop.shop, bytes_per_s=workshop.shop.bytes_per_s / 100)
    assert estimate(roomy, routed).decode_tokens_per_s >= base > 0
    assert estimate(slow, routed).decode_tokens_per_s <= base


def test_different_leaves_out_near_copies():
    one = ((0, 4), (4, 4), (8, 4))
    near = ((0, 4), (4, 4), (8, 3))
    far = ((8, 3), (0, 5), (5, 3))
    assert [item.ranges for item in different([Scored(3, one), Scored(2, near), Scored(1, far)], 5)] == [one, far]


MIDDLE = ((0, 3), (3, 3), (10, 3), (6, 4), (6, 4), (13, 1), (14, 1), (15, 1))
FRONT = ((4, 3), (7, 3), (10, 3), (0, 4), (0, 4), (13, 1), (14, 1), (15, 1))
"""The same seven stages, one of them on two nodes."""


def test_two_nodes_side_by_side_are_worth_most_where_they_break_a_chain(workshop):
    """Steps overtake prompts there, so at the front, where nothing has piled up yet, they'd be wasted."""
    small = replace(workshop.shop, kv_tokens=workshop.shop.kv_tokens / 5)
    broken, wasted = (estimate(small, route(workshop.judge, *arrays(ranges))) for ranges in (MIDDLE, FRONT))
    assert broken.in_flight == pytest.approx(wasted.in_flight, rel=0.02)
    assert broken.decode_tokens_per_s > 1.01 * wasted.decode_tokens_per_s


def test_caches_of_a_stage_are_filled_together(workshop):
    """Where the busier of two nodes has little cache, requests go to the other one instead of waiting."""
    shop, routed = workshop.shop, route(workshop.judge, *arrays(MIDDLE))
    busier = max((3, 4), key=lambda node: routed.share[routed.nodes == node][0])
    tight = 100 * shop.kv_tokens
    tight[[3, 4]] = shop.kv_tokens[[3, 4]] / np.array([[1.0 + (node == busier)] for node in (3, 4)])
    share = routed.share[routed.nodes == busier][0]
    alone = tight[busier, 4] * shop.admitted * shop.fullest / shop.request_tokens / share
    shifted, in_flight = crowd(replace(shop, kv_tokens=tight), routed)
    assert in_flight > 1.2 * alone
    assert shifted.share[routed.nodes == busier][0] < share


def test_a_race_is_given_up_only_far_behind(workshop):
    setup = workshop.setup(MIDDLE)
    course = workshop.brief.offline(0, SEARCHED, 900.0)
    options = course.options

    def run(rival: Pace = (), stopped: bool = False) -> Run:
        return race(Stepwise(setup, course), options.warmup_s, options.seconds, rival, lambda: stopped)

    full = run()
    assert full.tokens_per_s == simulate(setup, course.trace, options).decode_tokens_per_s > 0
    assert full.pace[-1] == (options.end_s, round(full.tokens_per_s * options.seconds))
    assert run(full.pace) == full
    behind = run(tuple((time_s, 2 * tokens) for time_s, tokens in full.pace))
    assert behind.tokens_per_s == run(stopped=True).tokens_per_s == 0.0
    assert behind.pace == full.pace[: len(behind.pace)]
    assert behind.pace[-1][0] == options.warmup_s + HEAD_START_S


def test_the_spread_of_the_flow_is_simulated_and_planned(workshop, plan):
    """What the search simulates is the flow that the plan then has."""
    ranges = ranges_of(*workshop.judge.arrays(plan.placement))
    edges = {spread: workshop.setup(ranges, spread).edges for spread in SPREADS}
    assert set(plan.edges) in [set(found) for found in edges.values()]


def test_identical_nodes_are_not_tried_twice(workshop):
    search = GoodputSearch(workshop, Crew(workshop), Watch(), 60.0, 0)
    other = (MIDDLE[1], MIDDLE[0], *MIDDLE[2:5], MIDDLE[7], *MIDDLE[5:7])
    bar = Bar(120.0)
    assert search._new(MIDDLE, "any", bar).ranges == MIDDLE
    assert (search._sorted(other), "any") in search.tried
    assert (search._sorted(other), "even") not in search.tried
    assert (search._sorted(FRONT), "any") not in search.tried


def test_a_pace_is_read_between_its_points():
    pace = ((10.0, 0), (20.0, 100), (40.0, 300))
    assert [tokens_at(pace, time_s) for time_s in (5.0, 15.0, 20.0, 30.0, 50.0)] == [0.0, 50.0, 100.0, 200.0, 0.0]
