"""Traces by what a user writes: ``azure``, ``poisson:rate=2,input=750,output=240``, ``bursts:…``, ``diurnal:…`` or a
file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from helix_df.errors import SimulationError
from helix_df.simulator.azure import azure_offline, azure_online
from helix_df.simulator.synthetic import Lengths, bursts, diurnal, poisson, saturating
from helix_df.simulator.trace import Trace
from helix_df.simulator.trace_files import read_trace

EXPECTED = "azure, poisson:…, bursts:…, diurnal:…, or a file ending in .csv or .jsonl"
LENGTHS = "tokens such as 750, a range 100-1500, or exp:750 (exponential of that mean)"

SHAPES: dict[str, tuple[Callable[..., Trace], dict[str, str]]] = {
    "poisson": (poisson, {}),
    "bursts": (bursts, {"period": "period_s", "share": "share"}),
    "diurnal": (diurnal, {"period": "period_s", "low": "low"}),
}
"""Made-up traces by name, and their settings beside rate and lengths, with what the trace calls them."""

_LONGEST = 16
"""Of an exponential length, in means."""


def find_trace(name: str, *, seconds: float, rate: float | None = None, offline: bool = False, seed: int = 0) -> Trace:
    """The trace of a name.

    Args:
        name: see the module.
        seconds: how long arrivals go on.
        rate: mean requests/s; rescales the arrivals of a file.
        offline: make it saturating: arrivals don't count, a next request always waits.
        seed: of what is drawn.

    Raises:
        SimulationError: when the name or the file can't be understood, or a rate is missing.
    """
    if offline and rate is not None:
        raise SimulationError("a saturating trace has no rate", where="--rate", hint="leave out --offline or --rate")
    if name == "azure":
        if offline:
            return azure_offline(seed)
        return azure_online(_needed(rate, name), seconds, seed)
    kind, _, rest = name.partition(":")
    if kind in SHAPES:
        return _synthetic(kind, rest, seconds, rate, offline, seed)
    path = Path(name)
    if path.suffix.lower() not in (".csv", ".jsonl", ".ndjson", ".json"):
        raise SimulationError("there is no such trace", where="--trace", found=repr(name), expected=EXPECTED)
    trace = read_trace(path, saturating=offline)
    return _at_rate(trace, rate) if rate is not None else trace


def _needed(rate: float | None, name: str) -> float:
    if rate is None:
        raise SimulationError(
            f"{name} needs a rate", where="--rate", expected="requests a second", hint="or --offline, to saturate"
        )
    return rate


def _synthetic(kind: str, rest: str, seconds: float, rate: float | None, offline: bool, seed: int) -> Trace:
    settings = _settings(kind, rest)
    inputs = _lengths(settings.pop("input", "750"), "input")
    outputs = _lengths(settings.pop("output", "240"), "output")
    own = settings.pop("rate", None)
    make, shape = SHAPES[kind]
    chosen = {shape[key]: _number(settings.pop(key), key) for key in shape if key in settings}
    if settings:
        expected = ", ".join(["rate", "input", "output", *shape])
        raise SimulationError(
            f"{kind} has no such setting", where="--trace", found=", ".join(settings), expected=expected
        )
    if offline:
        return saturating(inputs, outputs, seed)
    requests_per_s = rate if rate is not None else _number(own, "rate") if own is not None else _needed(None, kind)
    return make(requests_per_s, seconds, inputs, outputs, seed, **chosen)


def _settings(kind: str, rest: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = "rate", part
        if not value or key in settings:
            raise SimulationError(
                f"this setting of {kind} can't be read",
                where="--trace",
                found=repr(part),
                expected="rate=2,input=750,output=240",
            )
        settings[key.strip()] = value.strip()
    return settings


def _lengths(text: str, name: str) -> Lengths:
    match = re.fullmatch(r"(exp:)?([1-9][0-9]{0,6})(?:-([1-9][0-9]{0,6}))?", text)
    if match is None or (match[1] and match[3]):
        raise SimulationError(f"{name} is not a length", where="--trace", found=repr(text), expected=LENGTHS)
    low = int(match[2])
    if match[1]:
        return Lengths("exponential", low, _LONGEST * low)
    if match[3]:
        return Lengths("uniform", low, int(match[3]))
    return Lengths("constant", low, low)


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise SimulationError(f"{name} must be a number above zero", where="--trace", found=repr(text))
    return value


def _at_rate(trace: Trace, rate: float) -> Trace:
    """The same requests with their arrivals stretched to a mean rate."""
    if rate <= 0:
        raise SimulationError("the rate must be above zero", where="--rate", found=rate)
    last = trace.requests[-1].arrival_s
    if last == 0:
        raise SimulationError("all requests arrive at once, so there is no rate to change", where="--rate")
    factor = len(trace.requests) / (rate * last)
    requests = tuple(replace(request, arrival_s=request.arrival_s * factor) for request in trace.requests)
    return Trace(f"{trace.name} at {rate:g} requests/s", requests)
