"""When a search is good enough; shared by every solver that searches."""

from __future__ import annotations

from helix_df.solvers.api import Ending, SolveOptions, Watch

OPTIMAL = 1e-6
"""Share of a bound that a flow may miss and still count as optimal: what the backends' arithmetic allows."""


def reason_to_stop(flow: float, bound: float, options: SolveOptions, watch: Watch) -> Ending | None:
    """Why a search that has ``flow`` (tokens/s) and a proven ``bound`` needn't go on, or ``None``."""
    if watch.stop.is_set():
        return "interrupt"
    if flow <= 0:
        return None
    if flow >= bound * (1 - OPTIMAL):
        return "optimal"
    return "gap" if flow >= bound * (1 - options.gap) else None
