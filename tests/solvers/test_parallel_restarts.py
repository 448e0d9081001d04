"""Restarts give the same wherever they run, and a lost child costs time only."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from helix_df.graph.bounds import best_bound
from helix_df.graph.judge import Judge
from helix_df.graph.problem import Problem
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.cover import CoverSolver
from helix_df.solvers.interval_cover import SitePath
from helix_df.solvers.objective import Objective
from helix_df.solvers.parallel_restarts import ParallelRestarts, SerialRestarts
from helix_df.solvers.restarts import Restart, nothing
from tests.problems import node, problem

QUICK = {"restarts": 3, "iterations": 200, "polish": 50}


def uneven() -> Problem:
    """16 nodes of two types on 20 layers, too many to try all."""
    fast = [node(f"fast{i}", 90.0, 47.0, 31.0, 21.0, gpu="A100") for i in range(7)]
    slow = [node(f"slow{i}", 33.0, 15.0, 9.0) for i in range(9)]
    return problem(20, *fast, *slow)


def restarts(given: Problem) -> tuple[Restart, ...]:
    path = SitePath((tuple(range(len(given.nodes))),))
    return Restart("interval_cover", 1, 150, 30, (path,)), Restart("aligned_stages", 2, 150, 30, stages=6)


def test_a_child_finds_what_this_process_finds():
    given = uneven()
    objective = Objective(Judge(given))
    bound = best_bound(given).bound
    here = SerialRestarts(objective, bound).run(restarts(given), nothing(objective), lambda: False)
    runner = ParallelRestarts(objective, bound)
    try:
        found = runner.run(restarts(given), nothing(objective), lambda: False)
    finally:
        runner.child.close()
    for one, other in zip(here, found, strict=True):
        assert one.flow == other.flow > 0
        assert one.start.tolist() == other.start.tolist()
        assert one.count.tolist() == other.count.tolist()


def test_a_lost_child_is_replaced_by_this_process():
    given = uneven()
    objective = Objective(Judge(given))
    runner = ParallelRestarts(objective, best_bound(given).bound)
    runner.child.process.kill()
    try:
        found = runner.run(restarts(given), nothing(objective), lambda: False)
    finally:
        runner.child.close()
    assert [one.flow > 0 for one in found] == [True, True]


@pytest.mark.parametrize("limit", [{}, {"max_hops": 6}])
def test_one_core_finds_what_two_find(monkeypatch, limit):
    given = uneven()
    given = replace(given, limits=replace(given.limits, **limit))
    two = CoverSolver().solve(given, SolveOptions(extra=QUICK), Watch())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    one = CoverSolver().solve(given, SolveOptions(extra=QUICK), Watch())
    assert one.placement == two.placement
