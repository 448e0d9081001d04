"""The child process of a search: restarts in, what they find out.

Run as ``python -m helix_df.solvers.restart_worker``. Ends when its input does; the parent kills it to stop it.
"""

from __future__ import annotations

from helix_df.graph.judge import Judge
from helix_df.solvers.child import Parent, be_child
from helix_df.solvers.objective import Objective
from helix_df.solvers.parallel_restarts import RestartRequest, RestartSetup
from helix_df.solvers.restarts import run_restart


def serve(parent: Parent) -> None:
    """Answer every request; before them the parent tells the problem."""
    setup = parent.ask(RestartSetup)
    objective = Objective(Judge(setup.problem), setup.near)
    for asked in parent.asks(RestartRequest):
        parent.answer(run_restart(objective, asked.restart, asked.best, setup.bound, lambda: False))


if __name__ == "__main__":
    be_child(serve)
