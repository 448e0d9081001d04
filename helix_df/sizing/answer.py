"""From a job with offers to the cheapest fleet that serves its rate: the library's one call.

Owns the order of these steps and what is told of them. Doesn't know how fleets are searched (``search``) or judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from helix_df.errors import Infeasible, SpecError
from helix_df.graph.bounds import best_bound
from helix_df.graph.feasibility import explain_infeasible
from helix_df.plan.plan import Plan
from helix_df.sizing.judging import FleetJudge, Verdict, at_rate
from helix_df.sizing.losses import Loss, losses
from helix_df.sizing.market import UNITS, Market, restricted
from helix_df.sizing.prediction import FleetPrediction, RatePrediction
from helix_df.sizing.search import Effort, Ending, Found, find_cheapest
from helix_df.solvers.api import Watch
from helix_df.solvers.choice import choose_solver, keeps_latency
from helix_df.solvers.registry import get_solver
from helix_df.spec.job import Job

JudgedBy = Literal["flow", "simulation"]

MOST_LOST = 3
"""Nodes of an offer that go in the what-ifs."""


@dataclass(frozen=True, slots=True)
class SizedFleet:
    """A fleet that serves: nodes by offer, what it costs an hour, and the tokens/s of its placement."""

    counts: dict[str, int]
    cost: float
    flow: float
    prediction: FleetPrediction | None

    @property
    def nodes(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        return " + ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "nothing more"


@dataclass(frozen=True, slots=True)
class CheapestOf:
    """The cheapest fleet of some offers, ``None`` where none was found.

    Attributes:
        offers: that it was chosen from.
        fleet: the cheapest that was found to serve.
        lower_bound: no fleet of these offers that serves costs less an hour; ``None``: none serves at all.
        ending: ``proven``, or why the bound is lower than the cost.
        judged: fleets that were judged.
        undecided: cheaper fleets of which nobody knows, cheapest first, with the reason.
        seconds: taken.
    """

    offers: tuple[str, ...]
    fleet: SizedFleet | None
    lower_bound: float | None
    ending: Ending
    judged: int
    undecided: tuple[tuple[str, str], ...]
    seconds: float

    @property
    def gap(self) -> float | None:
        """``(cost − lower bound) / cost``."""
        if self.fleet is None or self.lower_bound is None:
            return None
        return 1 - self.lower_bound / self.fleet.cost if self.fleet.cost > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Sizing:
    """The answer.

    Attributes:
        job: the job with the fleet's nodes and without offers.
        plan: of that job, with the placement that was found.
        rate: requests/s that it serves.
        needed_flow: tokens/s, prompt and output, of that rate.
        judged_by: what *serves* means: the flow alone, or the flow and a simulation at the rate.
        cheapest: of all offers.
        alternatives: of each GPU type alone, where several are offered.
        losses: what is left when nodes go.
    """

    job: Job
    plan: Plan
    rate: float
    needed_flow: float
    judged_by: JudgedBy
    cheapest: CheapestOf
    alternatives: tuple[CheapestOf, ...]
    losses: tuple[Loss, ...]

    @property
    def fleet(self) -> SizedFleet:
        """The chosen one."""
        assert self.cheapest.fleet is not None, "a sizing without a fleet is an error instead"
        return self.cheapest.fleet


def size(
    job: Job,
    *,
    effort: Effort | None = None,
    by: JudgedBy | None = None,
    alternatives: bool = True,
    most_lost: int = MOST_LOST,
    watch: Watch | None = None,
) -> Sizing:
    """The cheapest fleet of a job's offers that serves ``workload.rate`` within the limits, beside the job's own nodes.

    Args:
        job: with ``offers`` and ``workload.rate``.
        effort: of the search; the same for the alternatives.
        by: what serving means; by default ``simulation`` for jobs with limits on latency or the solver goodput.
        alternatives: whether each GPU type alone is sized, too.
        most_lost: nodes of an offer that go in the what-ifs; 0 leaves these out.
        watch: hears of fleets, and may stop the search.

    Raises:
        Infeasible: when no fleet serves, or none was found that does; says why.
        SolverError: where the job's solver couldn't plan the fleet, as ``choose_solver``.
        SpecError: for a job without offers, prices or a rate.
        ModelError: as ``compile_problem``.
    """
    watch, effort = watch or Watch(), effort or Effort()
    with job.places.told():
        choose_solver(job)
        market = Market(job)
    rate = job.workload.rate
    if rate is None:
        raise SpecError(
            "nobody says how much the fleet has to serve", where="workload.rate", expected="requests/s, such as 2.0"
        )
    judged_by, prediction = by or default_judge(job), RatePrediction(job)
    judge = FleetJudge(market, rate, watch, prediction=prediction if judged_by == "simulation" else None)
    found = find_cheapest(market, judge, effort, watch)
    if found.best is None:
        raise _nothing_serves(market, judge, found)
    plan = judge.plan_of(found.best)
    best = replace(found.best, prediction=found.best.prediction or prediction.of(plan))
    lost = tuple(losses(market, judge, best.fleet, best.placement or {}, most_lost))
    others = tuple(_each_type(judge, effort, watch)) if alternatives else ()
    return Sizing(plan.job, plan, rate, judge.flow, judged_by, summary(market, replace(found, best=best)), others, lost)


def default_judge(job: Job) -> JudgedBy:
    """By simulation where the job asks about latency, else by the flow."""
    limited = job.limits.ttft_p95 is not None or job.limits.itl_p95 is not None
    return "simulation" if limited or keeps_latency(get_solver(job.solver.name)) else "flow"


def cheapest_of(
    job: Job, rate: float, by: JudgedBy, effort: Effort | None = None, watch: Watch | None = None
) -> CheapestOf:
    """The cheapest fleet of a job's offers for a rate (requests/s), without all that ``size`` adds."""
    market, watch = Market(job), watch or Watch()
    prediction = RatePrediction(at_rate(job, rate)) if by == "simulation" else None
    judge = FleetJudge(market, rate, watch, prediction=prediction)
    return summary(market, find_cheapest(market, judge, effort or Effort(), watch))


def summary(market: Market, found: Found) -> CheapestOf:
    """What a search found, in the words of the job."""
    return CheapestOf(
        tuple(offer.name for offer in market.offers),
        None if found.best is None else _sized(market, found.best),
        None if found.lower_units is None else found.lower_units / UNITS,
        found.ending,
        found.judged,
        tuple((market.words(one.fleet), one.why) for one in found.undecided),
        found.seconds,
    )


def _sized(market: Market, verdict: Verdict) -> SizedFleet:
    counts = {offer.name: count for offer, count in zip(market.offers, verdict.fleet, strict=True)}
    return SizedFleet(counts, market.cost(verdict.fleet), verdict.flow, verdict.prediction)


def _each_type(judge: FleetJudge, effort: Effort, watch: Watch) -> Iterable[CheapestOf]:
    """Each GPU type alone; none where only one is offered."""
    job = judge.market.job
    types = list(dict.fromkeys(offer.gpu for offer in job.offers.values()))
    for gpu in types if len(types) > 1 else ():
        if watch.stop.is_set():
            return
        market = Market(restricted(job, [name for name, offer in job.offers.items() if offer.gpu == gpu]))
        alone = FleetJudge(market, judge.rate, watch, prediction=judge.prediction)
        yield summary(market, find_cheapest(market, alone, effort, watch))


def _nothing_serves(market: Market, judge: FleetJudge, found: Found) -> Infeasible:
    rate = f"{judge.rate:g} requests/s ({judge.flow:,.1f} tokens/s, prompt and output)"
    if found.lower_units is not None or found.undecided:
        last = found.undecided[-1:]
        nearest = "".join(f"; the last: {market.words(one.fleet)}, {one.why}" for one in last)
        return Infeasible(
            f"no fleet was found that serves {rate}",
            where="offers",
            found=f"{found.judged} fleets were judged{nearest}",
            hint="more time, looser limits, a lower rate, or other offers",
        )
    return Infeasible(
        f"no fleet of these offers serves {rate}", where="offers", found=_most_of_all(market), hint=_more_of(market)
    )


def _most_of_all(market: Market) -> str | None:
    """What all that is offered serves at most."""
    if any(offer.most is None for offer in market.offers):
        return None
    everything = market.problem(tuple(offer.most or 0 for offer in market.offers))
    impossible = explain_infeasible(everything)
    if impossible is not None:
        return f"all {len(everything.nodes)} nodes: {impossible.problem}"
    bound = best_bound(everything.favourable).bound
    most = f"{bound:,.1f} tokens/s, {bound / market.request_tokens:.3g} requests/s"
    return f"all {len(everything.nodes)} nodes serve at most {most}"


def _more_of(market: Market) -> str:
    bounded = [offer.name for offer in market.offers if offer.most is not None]
    return f"a larger most of {', '.join(bounded[:4])}, or other GPUs" if bounded else "looser limits, or faster links"
