"""Made-up traces: Poisson arrivals, bursts or days, and lengths from a few distributions. All from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

from helix_df.errors import SimulationError
from helix_df.simulator.trace import Trace, TraceRequest


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of token counts.

    ``constant``: always ``low``. ``uniform``: from ``low`` to ``high``, both included. ``exponential``: of mean
    ``low``, at least 1 and at most ``high``.
    """

    kind: Literal["constant", "uniform", "exponential"]
    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise SimulationError("a length starts at 1 token", found=f"{self.low} to {self.high}")

    def draw(self, random: Random) -> int:
        """One token count."""
        if self.kind == "constant":
            return self.low
        if self.kind == "uniform":
            return random.randint(self.low, self.high)
        return min(self.high, max(1, round(random.expovariate(1 / self.low))))


def constant(tokens: int) -> Lengths:
    """Always ``tokens``."""
    return Lengths("constant", tokens, tokens)


def poisson(requests_per_s: float, seconds: float, inputs: Lengths, outputs: Lengths, seed: int = 0) -> Trace:
    """Independent arrivals at a constant rate."""
    return _trace(f"poisson, {requests_per_s:g} requests/s", requests_per_s, seconds, inputs, outputs, seed, 1.0, 1.0)


def bursts(
    requests_per_s: float,
    seconds: float,
    inputs: Lengths,
    outputs: Lengths,
    seed: int = 0,
    *,
    period_s: float = 60.0,
    share: float = 0.2,
) -> Trace:
    """Poisson arrivals squeezed into the first ``share`` of every period; ``requests_per_s`` is the mean over all."""
    if not 0 < share <= 1 or period_s <= 0:
        raise SimulationError("bursts need a period above 0 and a share in (0, 1]", found=f"{period_s} s, {share}")
    name = f"bursts, {requests_per_s:g} requests/s"
    return _trace(name, requests_per_s, seconds, inputs, outputs, seed, period_s, share)


def diurnal(
    requests_per_s: float,
    seconds: float,
    inputs: Lengths,
    outputs: Lengths,
    seed: int = 0,
    *,
    period_s: float = 86_400.0,
    low: float = 0.1,
) -> Trace:
    """Poisson arrivals whose rate goes up and down as a cosine: lowest at the start of every period, highest in its
    middle, ``low`` times the highest at the lowest; ``requests_per_s`` is the mean over all."""
    if not 0 <= low <= 1 or period_s <= 0:
        raise SimulationError("a day needs a period above 0 and a low in [0, 1]", found=f"{period_s} s, {low}")
    if requests_per_s <= 0:
        raise SimulationError("the rate must be above zero", where="rate", found=requests_per_s)
    random, highest = Random(seed), 2 * requests_per_s / (1 + low)
    requests, now = [], 0.0
    while (now := now + random.expovariate(highest)) < seconds:
        height = 0.5 - 0.5 * math.cos(2 * math.pi * now / period_s)
        # Of arrivals at the highest rate those are kept that the rate of the moment has (thinning).
        if random.random() < low + (1 - low) * height:
            requests.append(_request(now, inputs, outputs, random))
    return Trace(f"diurnal, {requests_per_s:g} requests/s", tuple(requests))


def saturating(inputs: Lengths, outputs: Lengths, seed: int = 0, count: int = 20_000) -> Trace:
    """Requests of drawn lengths that wait at the door."""
    random = Random(seed)
    requests = tuple(_request(0.0, inputs, outputs, random) for _ in range(count))
    return Trace("synthetic, saturating", requests, saturating=True)


def _trace(
    name: str,
    requests_per_s: float,
    seconds: float,
    inputs: Lengths,
    outputs: Lengths,
    seed: int,
    period_s: float,
    share: float,
) -> Trace:
    if requests_per_s <= 0:
        raise SimulationError("the rate must be above zero", where="rate", found=requests_per_s)
    random = Random(seed)
    requests = []
    # Time within bursts passes at 1 / share of the clock's pace.
    busy = random.expovariate(requests_per_s)
    while True:
        periods, inside = divmod(busy, period_s)
        arrival = periods * period_s + inside * share
        if arrival >= seconds:
            break
        requests.append(_request(arrival, inputs, outputs, random))
        busy += random.expovariate(requests_per_s)
    return Trace(name, tuple(requests))


def _request(arrival_s: float, inputs: Lengths, outputs: Lengths, random: Random) -> TraceRequest:
    generated = outputs.draw(random)
    return TraceRequest(arrival_s, inputs.draw(random), generated, generated)
