"""Solvers by name: built-ins imported on demand, third-party ones through the entry point group ``helix_df.solvers``.

Owns the names. Doesn't import a solver, or OR-Tools, before somebody asks for it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from helix_df.errors import SolverError
from helix_df.solvers.api import Solver
from helix_df.solvers.options import nearest

GROUP = "helix_df.solvers"
"""Entry point group: ``name = "package.module:SolverClass"``; the class is called without arguments."""

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
"""Where each built-in lives. An entry point of the same name is never loaded."""


def solver_names() -> tuple[str, ...]:
    """All names that ``get_solver`` knows: built-ins in the order of the registry, then the others by name."""
    return (*BUILT_IN, *sorted({entry.name for entry in entry_points(group=GROUP)} - set(BUILT_IN)))


def get_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        SolverError: for a name nobody knows, one that two distributions claim, or an entry point that doesn't load.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        solver: Solver = getattr(import_module(module), attribute)()
        return solver
    found = tuple(entry_points(group=GROUP, name=name))
    if not found:
        raise SolverError(
            f"no solver is called {name!r}",
            where="solver.name",
            expected=f"one of {', '.join(solver_names())}",
            hint=nearest(name, solver_names()),
        )
    if len({entry.value for entry in found}) > 1:
        raise SolverError(
            f"two distributions offer a solver called {name!r}",
            where="solver.name",
            found=", ".join(f"{entry.value} of {_distribution(entry)}" for entry in found),
            hint="uninstall one of them",
        )
    return _load(found[0])


def _load(entry: EntryPoint) -> Solver:
    try:
        solver = entry.load()()
    except Exception as error:  # whatever a stranger's module raises on import
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not callable(getattr(solver, "solve", None)):
        raise _broken(entry, f"{type(solver).__name__} has no method solve(problem, options, watch)")
    if not isinstance(getattr(solver, "name", None), str):
        raise _broken(entry, f"{type(solver).__name__} has no name")
    return solver  # type: ignore[no-any-return]


def _broken(entry: EntryPoint, found: str) -> SolverError:
    return SolverError(
        f"the solver {entry.name} of {_distribution(entry)} doesn't load",
        where=f'entry point {entry.name} = "{entry.value}"',
        found=found,
        expected="a class without arguments that has a name and solve(problem, options, watch)",
        hint="upgrade or uninstall that distribution",
    )


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown distribution"
