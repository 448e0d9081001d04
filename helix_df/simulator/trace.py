"""Traces: which requests come when, and how long they are. Pure data.

A saturating trace has no arrival times that matter: its requests are taken in order whenever there is room, and from
the beginning again at its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from helix_df.errors import SimulationError


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """A request: when it arrives, its prompt, the tokens it will generate, and the most it asks for."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        if self.input_tokens < 1 or self.output_tokens < 1 or self.max_tokens < self.output_tokens:
            raise SimulationError(
                "a request needs a prompt, an output and at least that many max_tokens",
                found=f"{self.input_tokens} in, {self.output_tokens} out, max_tokens {self.max_tokens}",
            )
        if self.arrival_s < 0:
            raise SimulationError("a request can't arrive before the start", found=f"{self.arrival_s} s")


@dataclass(frozen=True)
class Trace:
    """Requests in the order they arrive. ``saturating`` ones ignore the arrival times."""

    name: str
    requests: tuple[TraceRequest, ...]
    saturating: bool = False

    def __post_init__(self) -> None:
        if not self.requests:
            raise SimulationError("the trace has no requests", where=self.name)
        times = [request.arrival_s for request in self.requests]
        if not self.saturating and times != sorted(times):
            raise SimulationError("the trace's requests are not in order of arrival", where=self.name)

    @cached_property
    def columns(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Arrivals in s, and by request its tokens of prompt and output and the most it asks for."""
        tokens = [(one.input_tokens, one.output_tokens, one.max_tokens) for one in self.requests]
        return np.array([one.arrival_s for one in self.requests], dtype=np.float64), np.array(tokens, dtype=np.int64)

    @property
    def mean_tokens(self) -> tuple[float, float]:
        """Mean input and output tokens."""
        count = len(self.requests)
        return (
            sum(request.input_tokens for request in self.requests) / count,
            sum(request.output_tokens for request in self.requests) / count,
        )

    @property
    def longest(self) -> int:
        """Most tokens of a request, prompt and output."""
        return max(request.input_tokens + request.output_tokens for request in self.requests)

    def scaled(self, factor: float) -> Trace:
        """The same requests with prompts and outputs ``factor`` times as long, at least a token each."""

        def one(request: TraceRequest) -> TraceRequest:
            lengths = (request.input_tokens, request.output_tokens, request.max_tokens)
            return TraceRequest(request.arrival_s, *(max(1, math.floor(factor * length)) for length in lengths))

        return replace(self, requests=tuple(map(one, self.requests)))

    def exact(self) -> Trace:
        """The same requests, each of which asks for no more than it will generate."""
        requests = (replace(request, max_tokens=request.output_tokens) for request in self.requests)
        return replace(self, requests=tuple(requests))
