"""Solvers by name: built-ins imported on demand, third-party ones through the entry point group ``helix_df.solvers``.

Owns the names. Doesn't import a solver, or OR-Tools, before somebody asks for it.
"""

from __future__ import annotations

from typing import Any

from helix_df.errors import SolverError
from helix_df.plugins import Registry
from helix_df.solvers.api import Solver

BUILT_IN = {
    "auto": "helix_df.solvers.auto:AutoSolver",
    "cover": "helix_df.solvers.cover:CoverSolver",
    "mip": "helix_df.solvers.mip:MipSolver",
    "goodput": "helix_df.solvers.goodput.solver:GoodputSolver",
    "even": "helix_df.solvers.even:EvenSolver",
    "swarm": "helix_df.solvers.swarm:SwarmSolver",
    "petals": "helix_df.solvers.petals:PetalsSolver",
    "separate": "helix_df.solvers.separate:SeparateSolver",
}
"""Where each built-in lives."""


def _made(solver_class: Any) -> Solver:
    solver: Solver = solver_class()
    if not callable(getattr(solver, "solve", None)):
        raise TypeError(f"{type(solver).__name__} has no method solve(problem, options, watch)")
    if not isinstance(getattr(solver, "name", None), str):
        raise TypeError(f"{type(solver).__name__} has no name")
    return solver


_REGISTRY = Registry(
    what="solver",
    group="helix_df.solvers",
    built_in=BUILT_IN,
    expected="a class without arguments that has a name and solve(problem, options, watch)",
    made=_made,
    error=SolverError,
)


def solver_names() -> tuple[str, ...]:
    """All names that ``get_solver`` knows: built-ins in the order of the registry, then the others by name."""
    return _REGISTRY.names()


def get_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        SolverError: for a name nobody knows, one that two packages claim, or an entry point that can't be used.
    """
    return _REGISTRY.get(name, "solver.name")
