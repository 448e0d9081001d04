"""The MIP's search: it ends when told to, never loses its best, and explains a backend that fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helix_df.errors import SolverError
from helix_df.graph.bounds import covering_bound
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import COORDINATOR, Link
from helix_df.layers import LayerRange
from helix_df.solvers.api import SolveOptions, SolveResult, Watch
from helix_df.solvers.auto import MIP_NODES, AutoSolver
from helix_df.solvers.baselines import Candidate
from helix_df.solvers.chains import usable_nodes
from helix_df.solvers.mip import BACKENDS, MipOptions, MipSearch, MipSolver
from helix_df.solvers.mip_links import all_pairs, prune
from helix_df.solvers.mip_model import Formulation, Unit, build_model
from helix_df.solvers.mip_process import MipChild, MipRequest, run_mip
from tests.clusters import cluster
from tests.problems import node, problem

# The best is 15: a and b hold the first layer (9 + 8), c the other three; equal stages by hand give 9.
SMALL = problem(4, node("a", 9, 7), node("b", 8, 6), node("c", 30, 20, 15, 3))


def run(given=SMALL, backend: str = "highs", watch: Watch | None = None, **options: Any) -> SolveResult:
    extra = options.pop("extra", {"warm_start": False})
    solve_options = SolveOptions(**{"time_limit_s": 30.0, "backend": backend, "extra": extra, **options})
    return MipSolver().solve(given, solve_options, watch or Watch())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cold_start_finds_and_proves_the_best(backend: str) -> None:
    result = run(backend=backend)
    assert result.termination.reason == "optimal"
    assert result.placement is not None
    assert placement_flow(SMALL, result.placement).value == pytest.approx(15)
    assert result.termination.bound == pytest.approx(15, rel=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_papers_program_alone_proves_the_best_too(backend: str) -> None:
    heard: list[float] = []
    watch = Watch(lambda incumbent: heard.append(incumbent.bound or 0.0))
    result = run(backend=backend, watch=watch, extra={"warm_start": False, "certificate": False})
    assert result.termination.reason == "optimal"
    assert placement_flow(SMALL, result.placement or {}).value == pytest.approx(15)
    assert result.termination.bound == pytest.approx(15, rel=1e-3)
    assert max(heard) > covering_bound(SMALL) * 1.5  # it had to come down from its own relaxation


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_start_that_can_be_beaten_is_never_called_optimal(backend: str) -> None:
    start = Candidate({"a": LayerRange(0, 1), "c": LayerRange(1, 4)}, 9.0, "by hand")
    options = SolveOptions(30.0, backend=backend)
    result = MipSearch(SMALL, options, MipOptions(certificate=False), backend, Watch(), start).run(30.0)
    assert result.termination.reason == "optimal"
    assert placement_flow(SMALL, result.placement or {}).value == pytest.approx(15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_placement(backend: str) -> None:
    assert run(backend=backend, seed=5) == run(backend=backend, seed=5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_limited_time_keeps_the_start(backend: str) -> None:
    large = cluster("hetero42")
    result = run(large, backend, time_limit_s=1.5, extra={})
    assert result.placement is not None
    assert placement_flow(large, result.placement).value >= 4892.2
    assert result.termination.limit == "time"
    assert result.termination.bound <= covering_bound(large) * (1 + 1e-6)


def test_no_time_is_the_best_baseline() -> None:
    result = run(cluster("hetero42"), time_limit_s=0.001, extra={})
    assert result.termination.limit == "time"
    assert result.placement is not None


def test_stopping_ends_the_child_and_keeps_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    children = []

    def stop_instead(child: MipChild, timeout_s: float) -> None:
        children.append(child)
        watch.stop.set()

    monkeypatch.setattr(MipChild, "next", stop_instead)
    result = run(cluster("hetero42"), watch=watch, extra={})
    assert result.termination.limit == "interrupt"
    assert result.placement is not None
    (child,) = children
    assert child.child.process.poll() is not None


def test_a_child_that_dies_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = MipChild.next

    def kill_first(child: MipChild, timeout_s: float) -> object:
        child.child.process.kill()
        return listen(child, 30.0)

    monkeypatch.setattr(MipChild, "next", kill_first)
    with pytest.raises(SolverError, match="the backend highs failed"):
        run()
    kept = run(cluster("hetero42"), extra={})
    assert kept.placement is not None
    assert kept.termination.reason == "finished"
    assert "its process ended with -9" in kept.termination.detail


def test_a_gap_ends_the_search_early() -> None:
    result = run(gap=0.5, extra={})
    assert result.termination.reason in ("gap", "optimal")
    bound = covering_bound(SMALL)
    assert placement_flow(SMALL, result.placement or {}).value >= 0.5 * bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_error_is_a_solver_error(backend: str) -> None:
    formulation = Formulation(SMALL, SMALL.nodes, ((0, 1),), 15.0, Unit(1.0, False))
    model = build_model(formulation).export_model().SerializeToString()
    never = MipRequest(model, backend, -1.0, 0, 1, 0.0, formulation.decisions(), {})  # no backend takes a negative time
    with run_mip(never) as child, pytest.raises(SolverError) as caught:
        child.next(30.0)
    assert f"the backend {backend} failed" in str(caught.value)
    assert "INVALID_ARGUMENT" in str(caught.value)


def test_what_links_cant_serve_is_proven_infeasible() -> None:
    links = [("hub", COORDINATOR, Link(1e9, 0.0)), ("hub", "a", Link(1e9, 0.0)), ("hub", "b", Link(1e9, 0.0))]
    star = problem(3, node("hub", 9), node("a", 9), node("b", 9), default=None, links=links)
    result = run(star)
    assert result.placement is None
    assert result.termination.reason == "infeasible"


def test_auto_proves_single24_without_a_mip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_df.solvers.mip.run_mip", None)
    result = AutoSolver().solve(cluster("single24"), SolveOptions(), Watch())
    assert result.termination.reason == "optimal"


def test_auto_leaves_large_problems_to_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_df.solvers.mip.run_mip", None)
    geo = cluster("geo24")
    copies = [replace(one, name=f"c{i}") for i, one in enumerate(geo.nodes * 5)]
    large = problem(80, *copies[: MIP_NODES + 1])
    result = AutoSolver().solve(large, SolveOptions(time_limit_s=8.0), Watch())  # 2 s can be too few to cover once
    assert result.placement is not None
    assert result.termination.limit == "time"
    assert result.termination.detail == "best by covering the layers"


def test_auto_stops_at_once_when_told_to() -> None:
    watch = Watch()
    watch.stop.set()
    result = AutoSolver().solve(cluster("geo24"), SolveOptions(), watch)
    assert result.termination.limit == "interrupt"
    assert result.placement is not None


@pytest.mark.parametrize("name", ["geo24", "hetero42"])
def test_a_hint_is_a_solution_of_the_model(name: str) -> None:
    """Every row holds for the values given as a hint, in both kinds of units."""
    given = cluster(name)
    nodes = usable_nodes(given)
    start = AutoSolver().solve(given, SolveOptions(time_limit_s=0.001), Watch()).placement
    assert start is not None
    bound = covering_bound(given)
    for unit in (Unit(bound / 1e3, False), Unit(bound / 1e6, True)):
        formulation = Formulation(given, nodes, tuple(all_pairs(given, nodes)), bound, unit)
        model = build_model(formulation)
        hint = formulation.hint(start)
        assert formulation.placement(hint) == start
        for row in model.linear_constraints():
            value = sum(row.get_coefficient(x) * hint[x.name] for x in model.row_nonzeros(row))
            assert row.lower_bound - 1e-5 <= value <= row.upper_bound + 1e-5


def test_pruning_keeps_the_best_links_and_cuts_nothing_off() -> None:
    geo = cluster("geo24")
    nodes = usable_nodes(geo)
    pairs = all_pairs(geo, nodes)
    kept = prune(geo, nodes, pairs, limit=4, keep=[(0, 23)], seed=1)
    assert (0, 23) in kept
    assert kept == prune(geo, nodes, pairs, limit=4, keep=[(0, 23)], seed=1)
    reached, grown = {0}, True
    while grown:
        more = {end for pair in kept if reached & set(pair) for end in pair}
        grown = not more <= reached
        reached |= more
    assert reached == set(range(len(nodes)))
    assert len(kept) <= 4 * len(nodes) // 2 + len(nodes)
    assert prune(geo, nodes, pairs, limit=0, keep=[], seed=1) == pairs
