"""The planner checks before, after and instead of the solver."""

from __future__ import annotations

import pytest

from helix_df.errors import Infeasible, SolverError
from helix_df.graph.problem import COORDINATOR, Placement
from helix_df.layers import LayerRange
from helix_df.plan.plan import read_plan, write_plan
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.solvers.api import SolveOptions, SolveResult, Termination, Watch
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import BUILT_IN, get_solver
from helix_df.spec.job import Job
from tests.problems import FAST, node, problem

TWO = problem(4, node("a", 9, 8, 7), node("b", 9, 6))


class Fixed:
    """A solver that returns what it is told to."""

    name = "fixed"

    def __init__(self, placement: Placement | None, reason: str = "finished") -> None:
        self.result = SolveResult(placement, Termination(reason, detail="as told"))  # type: ignore[arg-type]

    def solve(self, problem, options, watch):
        return self.result


def solve(placement: Placement | None, reason: str = "finished", given=TWO):
    return solve_problem(given, Fixed(placement, reason), SolveOptions(), Watch())[:3]


def job(**solver: object) -> Job:
    return Job.model_validate(
        {
            "model": {"source": "random:llama-2-70b", "dtype": "float16"},
            "nodes": {f"n{i}": {"gpu": "A100-80GB"} for i in range(3)},
            "links": {"default": {"bandwidth": "10Gbps", "latency": "1ms"}},
            "solver": solver,
        }
    )


def test_a_job_becomes_a_right_plan_that_survives_its_file(tmp_path) -> None:
    plan = make_plan(job(name="even"))
    assert violations(plan) == []
    assert plan.num_layers == 80
    assert plan.solver.name == "even"
    assert plan.solver.reason == "finished"
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_plans_a_job(name: str) -> None:
    plan = make_plan(job(name=name, time_limit="1s"))
    assert violations(plan) == []
    assert plan.flow > 0


def test_progress_reaches_the_watch() -> None:
    heard = []
    make_plan(job(name="auto", gap=0.9), watch=Watch(heard.append))
    assert heard
    assert all(incumbent.flow > 0 for incumbent in heard)


def test_the_flow_is_judged_not_claimed() -> None:
    placement, flow, termination = solve({"a": LayerRange(0, 2), "b": LayerRange(2, 4)})
    assert flow.value == pytest.approx(6)
    assert set(placement) == {"a", "b"}
    assert termination.detail == "as told"


def test_nodes_without_flow_stay() -> None:
    placement, _, _ = solve(
        {"a": LayerRange(0, 2), "b": LayerRange(2, 4), "c": LayerRange(1, 2)},
        given=problem(4, node("a", 9, 8), node("b", 9, 6), node("c", 1)),
    )
    assert "c" in placement


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ({"x": LayerRange(0, 1)}, "x is not a node"),
        ({"a": LayerRange(3, 5)}, "a holds [3, 5), beyond layer 4"),
        ({"b": LayerRange(0, 3)}, "b holds 3 layers, but 2 fit"),
        ({"a": (0, 2)}, "not a LayerRange"),
    ],
)
def test_a_placement_that_cant_be_is_the_solvers_fault(placement: Placement, words: str) -> None:
    with pytest.raises(SolverError) as caught:
        solve(placement)
    assert words in str(caught.value)
    assert "the solver fixed broke its contract" in str(caught.value)


def test_a_result_of_another_type_is_the_solvers_fault() -> None:
    solver = Fixed({})
    solver.result = {"a": LayerRange(0, 2)}  # type: ignore[assignment]
    with pytest.raises(SolverError, match="broke its contract"):
        solve_problem(TWO, solver, SolveOptions(), Watch())


def test_a_placement_that_carries_nothing_is_infeasible_with_the_reason() -> None:
    with pytest.raises(Infeasible, match=r"nobody holds layers \[2, 4\)"):
        solve({"a": LayerRange(0, 2)})


def test_no_placement_passes_on_the_solvers_words() -> None:
    with pytest.raises(Infeasible) as caught:
        solve(None)
    assert "the solver fixed found no placement" in str(caught.value)
    assert "as told" in str(caught.value)
    with pytest.raises(Infeasible, match="no placement can serve the model"):
        solve(None, "infeasible")


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_cant_be_served_is_explained_before_solving(name: str) -> None:
    alone = problem(4, node("a", 9, 8), node("b", 9, 6), default=None, links=[("a", COORDINATOR, FAST)])
    with pytest.raises(Infeasible, match="over the links there are"):
        solve_problem(alone, get_solver(name), SolveOptions(), Watch())


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_unknown_option_names_the_nearest(name: str) -> None:
    with pytest.raises(SolverError) as caught:
        solve_problem(TWO, get_solver(name), SolveOptions(extra={"max_link_per_node": 3}), Watch())
    assert f"the solver {name} has no option 'max_link_per_node'" in str(caught.value)
    if name in ("mip", "auto"):
        assert "did you mean 'max_links_per_node'?" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "extra", "words"),
    [
        ("mip", {"warm_start": 1}, "true or false"),
        ("mip", {"threads": True}, "a whole number"),
        ("mip", {"threads": 0}, "at least 1"),
        ("even", {"pipelines": "two"}, "a whole number"),
        ("swarm", {"stage_layers": -1}, "a whole number"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(name: str, extra: dict[str, object], words: str) -> None:
    with pytest.raises(SolverError, match=words):
        solve_problem(TWO, get_solver(name), SolveOptions(extra=extra), Watch())


@pytest.mark.parametrize("name", ["cover", "even", "swarm", "petals", "separate"])
def test_baselines_have_no_backends(name: str) -> None:
    with pytest.raises(SolverError, match="has no backends"):
        solve_problem(TWO, get_solver(name), SolveOptions(backend="highs"), Watch())


@pytest.mark.parametrize("name", ["mip", "auto"])
def test_an_unknown_backend_names_the_nearest(name: str) -> None:
    with pytest.raises(SolverError) as caught:
        solve_problem(TWO, get_solver(name), SolveOptions(backend="cpsat"), Watch())
    assert "highs, gscip, cp-sat" in str(caught.value)
    assert "did you mean 'cp-sat'?" in str(caught.value)
