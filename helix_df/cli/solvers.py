"""``helix-df solvers``: what can stand in ``solver.name``."""

from __future__ import annotations


def solvers() -> None:
    """List the solvers, built in and installed."""
    from helix_df.cli.console import output
    from helix_df.errors import MissingExtra, SolverError
    from helix_df.extras import explained_imports
    from helix_df.solvers.registry import get_solver, solver_names

    console = output()
    names = solver_names()
    width = max(len(name) for name in names)
    for name in names:
        try:
            with explained_imports():
                about = (type(get_solver(name)).__doc__ or "").strip().partition("\n")[0]
        except MissingExtra as error:
            about = f"not installed: {error.hint}"
        except SolverError as error:
            about = f"doesn't load: {error.found}"
        console.print(f"{name:<{width}}  {about.replace('``', '`')}", soft_wrap=True)
