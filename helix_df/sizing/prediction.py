"""What users of a fleet's plan get when requests arrive at the job's rate, in simulation.

Owns the load (the recorded conversations with the job's mean lengths, the half that no search has seen) and when it
counts as served. Doesn't know fleets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from helix_df.plan.plan import Plan
from helix_df.plan.serving import rules_of
from helix_df.simulator.outcome import Outcome
from helix_df.simulator.prediction import predict
from helix_df.solvers.goodput.config import HELD_OUT, VALIDATION_ONLINE_S, SearchConfig
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.spec.job import Job, Limits

KEPT_UP = 0.95
"""Share of the tokens that are asked for in the window which have to be generated in it. A fleet that keeps up misses
some of them, too: they are generated after the window, as others of before it are in it."""

SEED = 0


@dataclass(frozen=True, slots=True)
class FleetPrediction:
    """A plan at a rate: generated tokens/s, those asked for, and latencies in s (NaN where there are none)."""

    asked_per_s: float
    generated_per_s: float
    ttft_p95_s: float
    itl_p95_s: float

    @property
    def share(self) -> float:
        """Generated of what was asked for."""
        return self.generated_per_s / self.asked_per_s if self.asked_per_s > 0 else 1.0

    def missed(self, limits: Limits) -> str:
        """What isn't kept, in words; empty when all is."""
        found = [] if self.share >= KEPT_UP else [f"{self.share:.0%} of the tokens asked for are generated"]
        for name, limit, value in (
            ("TTFT", limits.ttft_p95, self.ttft_p95_s),
            ("ITL", limits.itl_p95, self.itl_p95_s),
        ):
            if limit is not None and not value <= limit:
                what = "none" if math.isnan(value) else f"{value:.3g} s"
                found.append(f"p95 {name} {what}, limit {limit:g} s")
        return "; ".join(found)


class RatePrediction:
    """Predictions for one job and its rate; every plan gets the same requests."""

    def __init__(self, job: Job) -> None:
        self._course = SearchConfig(job, GoodputOptions()).online(rules_of(job), SEED, HELD_OUT, VALIDATION_ONLINE_S)

    def of(self, plan: Plan) -> FleetPrediction:
        """What users of the plan get.

        Raises:
            SimulationError: as ``predict``.
        """
        outcome = predict(plan, self._course.trace, self._course.options)
        return FleetPrediction(
            self._asked(outcome),
            outcome.decode_tokens_per_s,
            _percentile(outcome, "ttft"),
            _percentile(outcome, "itl"),
        )

    def _asked(self, outcome: Outcome) -> float:
        """Tokens/s that requests of the window ask for."""
        arrived = np.array([request.arrival_s for request in self._course.trace.requests])
        tokens = np.array([request.output_tokens for request in self._course.trace.requests])
        inside = (arrived >= outcome.start_s) & (arrived < outcome.end_s)
        return float(tokens[inside].sum()) / outcome.seconds if outcome.seconds > 0 else 0.0


def _percentile(outcome: Outcome, figure: str) -> float:
    return float(outcome.percentile(figure, 95))
