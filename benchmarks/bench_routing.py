"""How many pipelines a router picks in a second.

    python -m pytest benchmarks/bench_routing.py

Plans as the planner makes them, with their spread flow, and nodes that all have room; each pick asks the ledger about
every node it might pass, as admission does.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.generate import random_cluster
from helix_df.rules.routing import FlowRouter, KvLedger
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import get_solver

PICKS = 1000


@pytest.fixture(scope="module", params=[24, 200, 1000])
def routed(request: Any) -> tuple[FlowRouter, KvLedger]:
    problem = random_cluster(request.param)
    placement, flow, *_ = solve_problem(problem, get_solver("cover"), SolveOptions(time_limit_s=5), Watch())
    router = FlowRouter(placement, flow.edges)
    return router, KvLedger(dict.fromkeys(router.nodes, 1_000_000), 0.9)


def test_routing(benchmark: Any, routed: tuple[FlowRouter, KvLedger]) -> None:
    router, ledger = routed

    def picks() -> None:
        for _ in range(PICKS):
            assert router.route(ledger.admitting(300, 1000)) is not None

    benchmark(picks)
    benchmark.extra_info |= {
        "nodes that carry flow": len(router.nodes),
        "hops": len(router.route(lambda node: True) or ()),
        "pipelines/s": f"{PICKS / benchmark.stats.stats.median:,.0f}",
    }
