"""A job whose nodes come and go, under a trace: the runtime's own rule chooses sizes, each served by its plan.

One simulation for each size in turn: requests that a plan has begun end there, those that wait go to the next plan, as
in the runtime. What two plans take from each other on nodes that both use, until the first has nothing to do, is not
simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from helix_df.plan.plan import Plan
from helix_df.rules.admission import expected_answer
from helix_df.rules.scaling import LOOK_S, Look, ScaleStep, Scaling
from helix_df.simulator.options import Options, options_of
from helix_df.simulator.outcome import RequestTimes, Times
from helix_df.simulator.setup import setup_of
from helix_df.simulator.simulate import simulate
from helix_df.simulator.trace import Trace
from helix_df.spec.scale import Scale


@dataclass(frozen=True, slots=True)
class SizeTime:
    """A size's time: asked for at ``begun_s``, serving from ``from_s`` to ``to_s``, its last request done at
    ``done_s``. ``step`` is what led to it, ``None`` for the first."""

    size: int
    begun_s: float
    from_s: float
    to_s: float
    done_s: float
    step: ScaleStep | None = None


@dataclass(frozen=True, slots=True)
class ScaledOutcome:
    """What users got, and which sizes they got it from; ``requests`` as in an ``Outcome``."""

    requests: RequestTimes
    sizes: tuple[SizeTime, ...]
    seconds: float

    @property
    def node_seconds(self) -> float:
        """Of the nodes that come and go: a node is had from when its size is asked for until its last request is
        done."""
        ends = {min(at, self.seconds) for one in self.sizes for at in (one.begun_s, one.done_s)}
        times = sorted({0.0, self.seconds, *ends})
        return sum((stop - start) * _nodes_between(self.sizes, start, stop) for start, stop in pairwise(times))

    def ttft_s(self) -> Times:
        """Seconds from each request's arrival to its first token; infinite where there was none."""
        times: Times = np.nan_to_num(self.requests.first_token_s - self.requests.arrived_s, nan=np.inf)
        return times

    def missed(self, ttft_s: float) -> float:
        """The share of requests whose first token came later, or never."""
        return float(np.mean(self.ttft_s() > ttft_s))

    def goodput(self, ttft_s: float) -> float:
        """Generated tokens/s of requests whose first token came in time."""
        return float(self.requests.generated_tokens[self.ttft_s() <= ttft_s].sum()) / self.seconds


def simulate_scaled(
    plans: Mapping[int, Plan],
    first: int,
    trace: Trace,
    scale: Scale,
    *,
    seconds: float,
    start_s: float,
    options: Options | None = None,
) -> ScaledOutcome:
    """Run a trace on a job that takes nodes and lets them go.

    Args:
        plans: by size; ``first`` is the one that serves at the start.
        trace: what comes, by time.
        scale: the rule.
        seconds: how long sizes are chosen; requests that came by then are served to their end.
        start_s: from a step to when its plan takes over, while its workers load.
        options: the rules of each plan; by default those that its job is served by.

    Raises:
        SimulationError: as ``simulate``.
    """
    served = _Served(trace)
    serves = {one: plan.flow for one, plan in plans.items()}
    now, sizes = SizeTime(first, 0.0, 0.0, seconds, seconds), []
    while True:
        rules = options or options_of(plans[now.size].served)
        found = served.simulate(plans[now.size], rules, now.from_s, seconds)
        looks = served.looks(found, rules, now.from_s, seconds)
        begun = _first_step(Scaling(scale), looks, now.size, serves)
        to_s = seconds if begun is None else begun[0] + start_s
        done_s = served.commit(found, np.inf if begun is None else to_s)
        sizes.append(replace(now, to_s=to_s, done_s=max(done_s, to_s)))
        if begun is None:
            return ScaledOutcome(served.times, tuple(sizes), seconds)
        now = SizeTime(begun[1].after, begun[0], to_s, seconds, seconds, begun[1])


def _first_step(
    scaling: Scaling, looks: Iterator[Look], size: int, serves: Mapping[int, float]
) -> tuple[float, ScaleStep] | None:
    """The first step that is to be taken, and when."""
    for look in looks:
        if (step := scaling.look(look, size, serves)) is not None:
            return look.now, step
    return None


def _nodes_between(sizes: tuple[SizeTime, ...], start_s: float, stop_s: float) -> int:
    """Nodes that are had all of this time: those of the largest size, since a size has all nodes of smaller ones."""
    return max((one.size for one in sizes if one.begun_s <= start_s and stop_s <= one.done_s), default=0)


class _Served:
    """What became of each request of a trace so far, and what is left to be served."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._arrived_s, tokens = trace.columns
        self._tokens = tokens
        count, never = len(trace.requests), np.full(len(trace.requests), np.nan)
        self.times = RequestTimes(
            arrived_s=self._arrived_s,
            admitted_s=never.copy(),
            first_token_s=never.copy(),
            last_token_s=never.copy(),
            finished_s=never.copy(),
            input_tokens=tokens[:, 0],
            output_tokens=tokens[:, 1],
            generated_tokens=np.zeros(count, np.int64),
            retries=np.zeros(count, np.int64),
            rejected=np.zeros(count, np.bool_),
        )
        self._left = np.arange(count)

    def simulate(self, plan: Plan, options: Options, from_s: float, seconds: float) -> RequestTimes | None:
        """Serve all that is left by a plan; None if nothing is."""
        if not len(self._left):
            return None
        requests = tuple(
            replace(self._trace.requests[i], arrival_s=max(from_s, float(self._arrived_s[i]))) for i in self._left
        )
        whole = replace(options, seconds=max(seconds, from_s) + 1.0, warmup_s=0.0, drain=True, series=1)
        return simulate(setup_of(plan), Trace(self._trace.name, requests), whole).requests

    def looks(self, found: RequestTimes | None, rules: Options, from_s: float, seconds: float) -> Iterator[Look]:
        """What the job sees of these requests, and of all that came before, while a plan serves."""
        arrived_s, began_s = (
            (np.zeros(0), np.zeros(0)) if found is None else (self._arrived_s[self._left], _begun(found))
        )
        asked = np.concatenate([[0], np.cumsum(self._expected(rules))])
        first = 0
        for look in range(1, int((seconds - from_s) / LOOK_S) + 1):
            now = from_s + look * LOOK_S
            while first < len(began_s) and began_s[first] <= now:
                first += 1
            waited_s = max(0.0, now - float(arrived_s[first])) if first < len(arrived_s) else 0.0
            yield Look(now, float(asked[np.searchsorted(self._arrived_s, now, side="right")]), waited_s)

    def _expected(self, rules: Options) -> list[int]:
        """Tokens that each request asks for, in prompt and answer, as far as the job can know."""
        return [
            prompt + min(most, expected_answer(most, rules.expected_output, rules.mean_output))
            for prompt, _, most in self._tokens.tolist()
        ]

    def commit(self, found: RequestTimes | None, to_s: float) -> float:
        """Keep what was begun, or refused, before another plan takes over; when the last of it is done."""
        if found is None:
            return 0.0
        kept = _begun(found) < to_s
        which = self._left[kept]
        for name in ("admitted_s", "first_token_s", "last_token_s", "finished_s", "generated_tokens", "retries"):
            getattr(self.times, name)[which] = getattr(found, name)[kept]
        self.times.rejected[which] = found.rejected[kept]
        self._left = self._left[~kept]
        return float(np.nanmax(found.finished_s[kept], initial=0.0))


def _begun(found: RequestTimes) -> Times:
    """When each request was started, or refused."""
    times: Times = np.where(found.rejected, found.arrived_s, np.nan_to_num(found.admitted_s, nan=np.inf))
    return times
