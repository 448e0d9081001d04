"""``helix-df solvers``: what can stand in ``solver.name``."""

from __future__ import annotations

from typing import Annotated

import typer


def solvers(as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False) -> None:
    """List the solvers, built in and installed."""
    from helix_df.cli.console import output, print_json
    from helix_df.solvers.registry import solver_names

    console = output()
    abouts = {name: _about(name) for name in solver_names()}
    if as_json:
        print_json({"solvers": [{"name": name, "about": about} for name, about in abouts.items()]})
        return
    width = max(map(len, abouts))
    for name, about in abouts.items():
        console.print(f"{name:<{width}}  {about}", soft_wrap=True)


def _about(name: str) -> str:
    """A line on a solver."""
    from helix_df.errors import MissingExtra, SolverError
    from helix_df.extras import explained_imports
    from helix_df.solvers.registry import get_solver

    try:
        with explained_imports():
            return (type(get_solver(name)).__doc__ or "").strip().partition("\n")[0].replace("``", "`")
    except MissingExtra as error:
        return f"not installed: {error.hint}"
    except SolverError as error:
        return f"doesn't load: {error.found}"
