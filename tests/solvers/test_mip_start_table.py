"""The table of the MIP's backends: what was heard becomes cells, and a run that fails is a row."""

from __future__ import annotations

import pytest

from benchmarks.generate import random_cluster
from benchmarks.mip_start_table import End, Run, Setup, header, load_problem, read_run, rows, run, table, trivial_bound
from helix_df.graph.bounds import best_bound
from helix_df.solvers.api import Incumbent

TWO_SITES = "spec/examples/two-sites.yaml"
SETUP = Setup(TWO_SITES, "gscip", True, 15.0, 0, 6.0)
HEARD = (
    Incumbent(0.1, 100.0, None, "even"),
    Incumbent(0.5, 300.0, 500.0, "cover"),
    Incumbent(3.0, 300.0, 9000.0, "mip/gscip"),
    Incumbent(12.0, 400.0, 8000.0, "mip/gscip"),
)


def test_cells_say_what_was_known_at_a_time() -> None:
    done = Run(SETUP, HEARD, End(15.4, 400.0, 7000.0, "time_limit", "", 123.4))
    flow, bound = rows(done, trivial=10_000.0)
    assert flow == ["gscip", "300.0", "flow", "300.0", "300.0", "400.0", "time limit", "15", "123"]
    assert bound == ["", "", "bound", "–", "9,000.0", "7,000.0", "", "", ""]
    assert len(flow) == len(bound) == len(header(SETUP.seconds))


def test_a_bound_no_better_than_the_trivial_one_is_none() -> None:
    done = Run(SETUP, (), End(15.4, None, 10_000.0, "time_limit", "", None))
    assert done.bound_at(20.0, trivial=10_000.0) is None
    assert rows(done, 10_000.0)[0][3:6] == ["none"] * 3


def test_an_early_end_lasts() -> None:
    done = Run(SETUP, HEARD[:1], End(2.0, 200.0, 200.0, "optimal", "", 1.0))
    assert [done.flow_at(time_s) for time_s in (1.0, 5.0)] == [100.0, 200.0]
    assert [done.bound_at(time_s, 10_000.0) for time_s in (1.0, 5.0)] == [None, 200.0]


def test_what_a_broken_run_said_is_kept() -> None:
    said = '{"elapsed_s": 0.5, "flow": 7.0, "bound": null, "solver": "even"}\n{"elapsed_s": 0.'
    done = read_run(SETUP, said, "ended with -9")
    flow, _ = rows(done, 10_000.0)
    assert flow[3:7] == ["7.0", "7.0", "7.0", "failed: ended with -9"]


def test_the_trivial_bound_is_above_the_certificate() -> None:
    problem = random_cluster(20)
    assert trivial_bound(problem) > best_bound(problem).bound


def test_a_real_run_has_flows_bounds_and_memory() -> None:
    problem = load_problem(TWO_SITES)
    done = run(Setup(TWO_SITES, "highs", True, 1.5, 0, 6.0))
    assert done.failure == ""
    assert done.end is not None
    assert done.end.flow == pytest.approx(done.flow_at(float("inf")))
    assert done.start() is not None
    assert 0 < done.end.flow <= best_bound(problem).bound * (1 + 1e-6)
    assert done.end.flow <= done.end.bound * (1 + 1e-6)
    assert done.end.peak_mib is None or done.end.peak_mib > 10


def test_a_run_without_memory_is_a_row() -> None:
    done = run(Setup(TWO_SITES, "highs", True, 1.5, 0, 0.05))
    assert done.end is None
    assert "ended with" in done.failure


def test_a_run_of_a_missing_job_is_a_row() -> None:
    done = run(Setup("nowhere.yaml", "highs", True, 1.0, 0, 6.0))
    assert "nowhere.yaml" in done.failure


def test_the_plain_table_is_aligned_and_the_other_is_markdown() -> None:
    lines = [["a", "b"], ["long", "c"]]
    assert table(lines, markdown=False) == "a     b\nlong  c"
    assert table(lines, markdown=True) == "| a | b |\n|---|---|\n| long | c |"
