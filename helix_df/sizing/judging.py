"""Whether a fleet serves the rate: ruled out by a bound, shown by a placement, or neither.

Owns what each verdict rests on. Doesn't choose fleets.

A fleet *serves* when some placement on it has the flow of the rate, and the job's limits are kept: those on depth, KV
cache and nodes by the placement, those on latency by what ``predict`` says of its plan at the rate. The first two are
facts of the flow graph that can be proven either way. Latency is judged of the plans that were made, so a fleet whose
plan misses a limit is never called unable, only undecided.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from helix_df.graph.bounds import Bound, best_bound, linked_covering_bound, site_shares
from helix_df.graph.even_flow import spread_flow
from helix_df.graph.feasibility import explain_infeasible
from helix_df.graph.limits import broken_limits
from helix_df.graph.max_flow import placement_flow
from helix_df.graph.problem import Placement, Problem
from helix_df.graph.sites import find_sites
from helix_df.plan.device_rules import device_rules
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.sizing.market import Fleet, Market
from helix_df.sizing.pipelines import PipelineChoice
from helix_df.sizing.prediction import FleetPrediction, RatePrediction
from helix_df.solvers.api import Incumbent, SolveOptions, Watch
from helix_df.solvers.cover import CoverSolver
from helix_df.spec.job import Job

REACHED = 1 - 1e-9
"""Share of a flow with which it is reached, and below which it is ruled out."""

FIRST_LOOK_S = 10.0
"""A brake for searches of a placement that nobody gave a deadline."""

Answer = Literal["serves", "unable", "undecided"]

EFFORTS: tuple[dict[str, int], ...] = (
    {"restarts": 2, "iterations": 500, "polish": 1000},
    {"restarts": 8, "iterations": 4000, "polish": 4000},
)
"""Options of the solver ``cover``, at first and for fleets that are looked at again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a fleet.

    ``flow``: tokens/s of the best placement that was found, if any; ``why``: what rules it out or leaves it open.
    """

    fleet: Fleet
    answer: Answer
    flow: float = 0.0
    placement: Placement | None = None
    prediction: FleetPrediction | None = None
    why: str = ""


class FleetJudge:
    """Judges fleets of one market for one rate (requests/s); with a prediction for that rate, by simulation, too."""

    def __init__(self, market: Market, rate: float, watch: Watch, *, prediction: RatePrediction | None = None) -> None:
        self.market, self.rate, self.watch = market, rate, watch
        self.flow = market.flow_of(rate)
        self.pipelines = PipelineChoice(market)
        self.job = at_rate(market.job, rate)
        self.prediction = prediction

    @property
    def simulates(self) -> bool:
        """Whether serving takes a simulation, too."""
        return self.prediction is not None

    def verdict(self, fleet: Fleet, effort: int, deadline_s: float) -> Verdict:
        """Look at a fleet.

        Args:
            fleet: how many of each offer.
            effort: which of ``EFFORTS``.
            deadline_s: time on the watch at which a search of a placement ends; it never ends before a first look.
        """
        problem = self.market.problem(fleet)
        reason = self._ruled_out(problem)
        if reason is not None:
            return Verdict(fleet, "unable", why=reason)
        packed = self.pipelines.cheapest(self.flow, fleet)
        first = None if packed is None else self.of_placement(fleet, packed[1])
        if first is not None and first.answer == "serves":
            return first
        second = self._searched(fleet, problem, effort, deadline_s)
        return second if first is None or second.answer != "undecided" or second.flow > first.flow else first

    def of_placement(self, fleet: Fleet, placement: Placement) -> Verdict:
        """What one placement shows of a fleet: that it serves, or nothing."""
        problem = self.market.problem(fleet)
        flow = spread_flow(problem, placement).value
        broken = broken_limits(problem, placement)
        if broken or flow < self.flow * REACHED:
            why = broken[0] if broken else f"{flow:,.1f} tokens/s were found"
            return Verdict(fleet, "undecided", flow, None if broken else placement, why=why)
        served = Verdict(fleet, "serves", flow, placement)
        return served if self.prediction is None else self._with_latency(served, self.prediction)

    def _searched(self, fleet: Fleet, problem: Problem, effort: int, deadline_s: float) -> Verdict:
        """What the solver ``cover`` finds, stopped once it has the flow."""
        left_s = max(1.0, deadline_s - self.watch.elapsed_s())
        options = SolveOptions(left_s, self.job.solver.seed, extra=EFFORTS[effort], job=self.job)
        result = CoverSolver().solve(problem, options, _Reaching(self.flow, self.watch))
        if result.placement is None:
            answer: Answer = "unable" if result.termination.reason == "infeasible" else "undecided"
            return Verdict(fleet, answer, why="no placement was found")
        found, bound = self.of_placement(fleet, result.placement), result.termination.bound
        if found.answer == "undecided" and bound is not None and bound < self.flow * REACHED:
            return replace(found, answer="unable", why=f"no placement has more than {bound:,.1f} tokens/s")
        return found

    def most_flow(self, fleet: Fleet) -> float:
        """Tokens/s of the best placement that a first look finds, whatever is needed; 0 where it finds none."""
        problem = self.market.problem(fleet)
        if not problem.nodes or explain_infeasible(problem) is not None:
            return 0.0
        options = SolveOptions(FIRST_LOOK_S, self.job.solver.seed, extra=EFFORTS[0], job=self.job)
        found = [CoverSolver().solve(problem, options, Watch()).placement, self.pipelines.fastest(fleet)]
        kept = [one for one in found if one is not None and not broken_limits(problem, one)]
        return max((placement_flow(problem, one).value for one in kept), default=0.0)

    def plan_of(self, verdict: Verdict) -> Plan:
        """The plan of a fleet's placement, for the fleet's job."""
        assert verdict.placement is not None, "somebody asks for the plan of a fleet without a placement"
        job, problem = self.market.job_of(verdict.fleet), self.market.problem(verdict.fleet)
        job = job.model_copy(update={"workload": self.job.workload})
        report = SolverReport("cover", None, "finished", "made by sizing", None, 0.0)
        flow = spread_flow(problem, verdict.placement)
        rules = device_rules(job, problem, verdict.placement)
        return assemble(job, problem, verdict.placement, flow, report, rules)

    def _with_latency(self, served: Verdict, prediction: RatePrediction) -> Verdict:
        found = prediction.of(self.plan_of(served))
        missed = found.missed(self.job.limits)
        answer: Answer = "undecided" if missed else "serves"
        return replace(served, answer=answer, prediction=found, why=missed)

    def _ruled_out(self, problem: Problem) -> str | None:
        """What shows that no placement has the flow, without a search."""
        impossible = explain_infeasible(problem) if problem.nodes else None
        if not problem.nodes or impossible is not None:
            return impossible.problem if impossible is not None else "there are no nodes"
        for kind, bound in self._bounds(problem):
            if bound < self.flow * REACHED:
                return f"{kind}: at most {bound:,.1f} tokens/s"
        return None

    def _bounds(self, problem: Problem) -> list[tuple[str, float]]:
        """Bounds that ``necessary`` doesn't know, since links are many; what it knows stands in its inequalities."""
        sites = find_sites(problem).members
        if len(sites) > 1:
            found: Bound = best_bound(problem)
            return [(found.kind, found.bound)]
        return [("linked covering", linked_covering_bound(problem)), ("sites", site_shares(problem, sites).bound)]


def at_rate(job: Job, rate: float) -> Job:
    """The job with another ``workload.rate``."""
    return job.model_copy(update={"workload": job.workload.model_copy(update={"rate": rate})})


class _Reaching(Watch):
    """Stops a solver once it has a flow, or when the whole search is told to stop."""

    def __init__(self, flow: float, outer: Watch) -> None:
        super().__init__(self._heard)
        self._flow, self._outer = flow, outer

    def _heard(self, incumbent: Incumbent) -> None:
        # Baselines are heard of, too, and what they found need not keep the limits.
        reached = incumbent.solver == CoverSolver.name and (incumbent.flow or 0.0) >= self._flow * REACHED
        if reached or self._outer.stop.is_set():
            self.stop.set()
