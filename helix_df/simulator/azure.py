"""Traces from the Azure LLM inference trace 2023 (conversation; CC-BY, see ``data/README.md``).

Lengths are drawn with replacement from the recorded pairs. Arrivals are drawn 3 s interval by 3 s interval from the
recorded hour, scaled to the wanted rate; what rounding takes from one interval the next one gets. Both are as in the
Helix paper's runs, so that its seed gives its requests.
"""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import io
from functools import cache
from random import Random
from typing import TypeVar

from helix_df.errors import SimulationError
from helix_df.simulator.trace import Trace, TraceRequest

T = TypeVar("T")

INTERVAL_S = 3.0
MAX_TOKENS = 1024
"""What every request is taken to ask for; the longest recorded output is just shorter."""

Part = tuple[float, float]
"""Which part of the recorded requests and of the hour to draw from, as shares; ``(0, 1)`` is all."""


@cache
def lengths() -> tuple[tuple[int, int], ...]:
    """Recorded (input, output) tokens, 16,657 pairs."""
    return tuple((int(row["input_tokens"]), int(row["output_tokens"])) for row in _read("azure_conversation_lengths"))


@cache
def arrivals() -> tuple[int, ...]:
    """Recorded requests in each of 1,200 intervals of 3 s."""
    return tuple(int(row["requests"]) for row in _read("azure_conversation_arrivals"))


def mean_tokens() -> float:
    """Mean tokens of a recorded request, prompt and output."""
    pairs = lengths()
    return sum(a + b for a, b in pairs) / len(pairs)


def azure_offline(seed: int = 0, count: int = 20_000, part: Part = (0.0, 1.0)) -> Trace:
    """A saturating trace of ``count`` drawn requests; after the last it starts over."""
    random, pairs = Random(seed), _part(lengths(), part)
    drawn = (pairs[random.randint(0, len(pairs) - 1)] for _ in range(count))
    requests = tuple(TraceRequest(0.0, inputs, outputs, MAX_TOKENS) for inputs, outputs in drawn)
    return Trace("azure, saturating", requests, saturating=True)


def azure_online(requests_per_s: float, seconds: float, seed: int = 0, part: Part = (0.0, 1.0)) -> Trace:
    """Arrivals at ``requests_per_s`` on average over ``seconds``.

    Raises:
        SimulationError: when that gives no request at all.
    """
    if requests_per_s <= 0:
        raise SimulationError("the rate must be above zero", where="rate", found=requests_per_s)
    random, pairs, counts = Random(seed), _part(lengths(), part), _part(arrivals(), part)
    scale = INTERVAL_S * requests_per_s / (sum(counts) / len(counts))
    requests: list[TraceRequest] = []
    owed = 0.0
    for interval in range(int(-(-seconds // INTERVAL_S))):
        wanted = scale * counts[random.randint(0, len(counts) - 1)] + owed
        number = round(wanted)
        owed = wanted - number
        times = sorted(INTERVAL_S * (interval + random.random()) for _ in range(number))
        for time in times:
            inputs, outputs = pairs[random.randint(0, len(pairs) - 1)]
            requests.append(TraceRequest(time, inputs, outputs, MAX_TOKENS))
    return Trace(f"azure, {requests_per_s:.4g} requests/s", tuple(requests))


def _part(values: tuple[T, ...], part: Part) -> tuple[T, ...]:
    first, last = part
    chosen = values[int(first * len(values)) : int(last * len(values))]
    if not 0 <= first < last <= 1 or not chosen:
        raise SimulationError("this part of the trace is empty", where="part", found=part, expected="0 ≤ a < b ≤ 1")
    return chosen


def _read(name: str) -> list[dict[str, str]]:
    packed = importlib.resources.files("helix_df.simulator").joinpath(f"data/{name}.csv.gz").read_bytes()
    return list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode())))
