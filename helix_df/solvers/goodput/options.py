"""The options of the solver ``goodput``, and what they amount to for a time limit.

Owns the counts of work. Work is counted, never timed, so that a seed gives the same plan on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from helix_df.errors import SolverError
from helix_df.graph.stage_timing import TIMINGS, TimingChoice

FULL_LIMIT_S = 300.0
"""Time limit from which on the whole default exploration is done; below, as much less."""

EXPLORED = 12_000
"""Placements of each exploration, in the whole."""

VISITS_PER_S = 25.0
"""Millions of token visits that are simulated for each second of the time limit: what two cores do in nine tenths."""

MOST_VISITS, LEAST_SIMULATIONS = 30_000_000, 100
"""Token visits of one simulation by default: as many, or as leave time for so many simulations."""


@dataclass(frozen=True, slots=True)
class GoodputOptions:
    """``solver.options`` of goodput.

    Attributes:
        work: millions of token visits to nodes that all simulations of the search have together; by default so many
            that two cores need most of the time limit for them.
        explore: placements that each of two explorations estimates; by default likewise.
        screened: of them that are simulated.
        orders: other orders of the best ones' stages that are simulated.
        climbs: changes that are simulated afterwards, at most.
        validated: placements judged over the whole window and on arrivals, on requests that the search hasn't seen.
        visits, validation_visits: token visits that one simulation may have in the search and in the validation, which
            limits its window; by default up to thirty million.
        rules: of the simulation, ``runtime`` or ``artifact``.
        timing: of nodes, as ``measured`` in the catalogue where it has curves, or as ``planned`` from the job alone;
            under the artifact's rules, curves are as ``published`` unless the job's numbers are asked for.
        workers: simulations side by side, by default one for each usable core; changes nothing but the time.
    """

    work: int | None = None
    explore: int | None = None
    screened: int = 24
    orders: int = 24
    climbs: int = 8000
    validated: int = 12
    visits: int | None = None
    validation_visits: int | None = None
    rules: str = "runtime"
    timing: TimingChoice = "measured"
    workers: int | None = None

    renamed: ClassVar[dict[str, str]] = {
        "auditions": "screened",
        "finals": "validated",
        "final_visits": "validation_visits",
    }
    """Names of before, which job files may still use."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rules", self.rules, ("runtime", "artifact")),
            ("timing", self.timing, TIMINGS),
        ):
            if value not in known:
                raise SolverError(
                    f"there are no such {name}",
                    where=f"solver.options.{name}",
                    found=repr(value),
                    expected=" or ".join(known),
                )
        if self.workers == 0:
            raise SolverError(
                "somebody has to simulate", where="solver.options.workers", found="0", expected="at least 1"
            )

    @property
    def node_timing(self) -> TimingChoice:
        """The timing of nodes that goes with the rules."""
        return "published" if self.rules == "artifact" and self.timing == "measured" else self.timing

    def within(self, time_limit_s: float) -> GoodputOptions:
        """The same with the work that a time limit is good for where nobody says how much."""
        share = min(1.0, time_limit_s / FULL_LIMIT_S)
        work = max(1, round(VISITS_PER_S * time_limit_s)) if self.work is None else self.work
        # Short windows mislead, but one long simulation is no search.
        visits = min(MOST_VISITS, work * 10**6 // LEAST_SIMULATIONS)
        return replace(
            self,
            work=work,
            explore=round(EXPLORED * share) if self.explore is None else self.explore,
            visits=visits if self.visits is None else self.visits,
            validation_visits=visits if self.validation_visits is None else self.validation_visits,
        )
