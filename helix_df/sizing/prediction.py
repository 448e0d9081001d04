"""What users of a fleet's plan get when requests arrive at the job's rate, in simulation.

Owns the load (the recorded conversations with the job's mean lengths, the half that no search has seen) and when it
counts as served. Doesn't know fleets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from helix_df.plan.plan import Plan, Stage
from helix_df.plan.serving import rules_of
from helix_df.simulator.outcome import Outcome
from helix_df.simulator.prediction import predict
from helix_df.simulator.simulation import Course
from helix_df.solvers.goodput.config import HELD_OUT, VALIDATION_ONLINE_S, SearchConfig
from helix_df.solvers.goodput.options import GoodputOptions
from helix_df.spec.job import Job, Limits

BEGUN = 0.97
"""Share of the requests that arrive in the window (18 minutes) which have to be begun in it. A queue that grows by a
second a minute begins fewer; where none grows, those of the last seconds are still missing."""

SEED = 0


@dataclass(frozen=True, slots=True)
class FleetPrediction:
    """A plan at a rate: tokens/s asked for and generated, and times in s (NaN where there are none).

    ``residence_s``: mean time from a request's admission to its last token; ``begun``: share of the requests that
    arrive in the window whose first token comes in it; ``hops``: of the longest pipeline.
    """

    asked_per_s: float
    generated_per_s: float
    ttft_p95_s: float
    itl_p95_s: float
    residence_s: float
    begun: float
    hops: int

    @property
    def begins(self) -> bool:
        """Whether requests are begun as they come, so that no queue grows."""
        return self.begun >= BEGUN

    def missed(self, limits: Limits) -> str:
        """What isn't kept, in words; empty when all is."""
        found = [] if self.begins else [f"{self.begun:.0%} of the requests are begun in time"]
        for name, limit, value in (
            ("TTFT", limits.ttft_p95, self.ttft_p95_s),
            ("ITL", limits.itl_p95, self.itl_p95_s),
        ):
            if limit is not None and not value <= limit:
                what = "none" if math.isnan(value) else f"{value:.3g} s"
                found.append(f"p95 {name} {what}, limit {limit:g} s")
        return "; ".join(found)


class RatePrediction:
    """Predictions for one job and its rate; every plan gets the same requests, and is simulated once."""

    def __init__(self, job: Job) -> None:
        self._known: dict[frozenset[Stage], FleetPrediction] = {}
        self._config = SearchConfig(job, GoodputOptions())

    def of(self, plan: Plan) -> FleetPrediction:
        """What users of the plan get.

        Raises:
            SimulationError: as ``predict``.
        """
        stages = frozenset(plan.stages)
        if stages not in self._known:
            self._known[stages] = self._of(plan)
        return self._known[stages]

    def _of(self, plan: Plan) -> FleetPrediction:
        rules = plan.rules or rules_of(plan.job)
        course = self._config.online(rules, SEED, HELD_OUT, VALIDATION_ONLINE_S)
        outcome = predict(plan, course.trace, course.options)
        return FleetPrediction(
            _asked(outcome, course),
            outcome.decode_tokens_per_s,
            _percentile(outcome, "ttft"),
            _percentile(outcome, "itl"),
            _residence(outcome),
            _begun(outcome),
            max((len(path.hops) for path in plan.paths()), default=0),
        )


def _asked(outcome: Outcome, course: Course) -> float:
    """Tokens/s that requests of the window ask for."""
    arrived = np.array([request.arrival_s for request in course.trace.requests])
    tokens = np.array([request.output_tokens for request in course.trace.requests])
    inside = (arrived >= outcome.start_s) & (arrived < outcome.end_s)
    return float(tokens[inside].sum()) / outcome.seconds if outcome.seconds > 0 else 0.0


def _residence(outcome: Outcome) -> float:
    requests = outcome.requests
    times = requests.last_token_s - requests.admitted_s
    ended = (requests.last_token_s >= outcome.start_s) & (requests.last_token_s <= outcome.end_s)
    return float(times[ended].mean()) if ended.any() else math.nan


def _begun(outcome: Outcome) -> float:
    requests = outcome.requests
    arrived = (requests.arrived_s >= outcome.start_s) & (requests.arrived_s < outcome.end_s)
    return float((requests.first_token_s[arrived] <= outcome.end_s).mean()) if arrived.any() else 1.0


def _percentile(outcome: Outcome, figure: str) -> float:
    return float(outcome.percentile(figure, 95))
