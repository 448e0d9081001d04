"""Solvers are found by name: built-ins, and a real third-party package."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from helix_df.errors import SolverError
from helix_df.solvers.api import SolveOptions, Watch
from helix_df.solvers.even import EvenSolver
from helix_df.solvers.options import read_extra
from helix_df.solvers.planner import solve_problem
from helix_df.solvers.registry import BUILT_IN, get_solver, solver_names
from tests.problems import node, problem

PACKAGE = Path(__file__).parent / "third_party_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third-party package, built and installed into a folder of its own. No network."""
    scratch = tmp_path_factory.mktemp("third_party")
    source = scratch / "source"
    source.mkdir()
    for file in PACKAGE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    target = scratch / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(source)], check=True)
    return target


@pytest.fixture
def third_party(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_ins_load_and_know_their_names(name: str) -> None:
    assert get_solver(name).name == name


def test_an_unknown_name_lists_all_and_the_nearest() -> None:
    with pytest.raises(SolverError) as caught:
        get_solver("swam")
    text = str(caught.value)
    assert "no solver is called 'swam'" in text
    assert "auto, cover, mip, goodput, even, swarm, petals, separate" in text
    assert "did you mean 'swarm'?" in text


def test_a_third_party_solver_plans_by_its_name(third_party: None) -> None:
    assert "greedy-example" in solver_names()
    given = problem(3, node("a", 9, 8), node("b", 9, 7))
    placement, flow, *_ = solve_problem(given, get_solver("greedy-example"), SolveOptions(), Watch())
    assert {name: len(layers) for name, layers in placement.items()} == {"a": 2, "b": 1}
    assert flow.value == pytest.approx(8)


def test_a_built_in_name_cant_be_taken(third_party: None) -> None:
    assert isinstance(get_solver("even"), EvenSolver)
    assert solver_names().count("even") == 1


@pytest.mark.parametrize("name", ["broken-example", "hollow-example"])
def test_a_broken_entry_point_names_its_distribution(third_party: None, name: str) -> None:
    with pytest.raises(SolverError) as caught:
        get_solver(name)
    assert "helix-df-greedy-example 0.3.0" in str(caught.value)
    assert "greedy_example:" in str(caught.value)


def test_even_needs_no_math_opt() -> None:
    code = (
        "import sys; from helix_df.solvers.registry import get_solver; import helix_df.solvers.planner; "
        "get_solver('even'); get_solver('auto'); "
        "print([m for m in sys.modules if 'math_opt' in m or m in ('jax', 'flax', 'zmq', 'typer')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_job_may_say_every_option_at_its_default(name: str) -> None:
    own = getattr(get_solver(name), "own_options", None)
    if own is not None:
        assert read_extra(name, asdict(own()), own) == own()


def test_a_word_that_an_option_does_not_know_is_refused_with_those_that_it_does() -> None:
    own = getattr(get_solver("goodput"), "own_options")  # noqa: B009
    with pytest.raises(SolverError, match="measured or planned or published") as error:
        read_extra("goodput", {"timing": "mesured"}, own)
    assert "did you mean 'measured'?" in str(error.value)
