"""What a simulation found, as data: requests, tokens, nodes, links and their series, and the figures that follow.

Owns the definitions of the figures. Doesn't know how they came about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
PERCENTILES = (5, 25, 50, 75, 95, 99)


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """One entry a request, in order of arrival; times in seconds, NaN for what has not happened.

    ``retries`` counts the attempts beyond the first. ``rejected`` ones were turned away or given up.
    """

    arrived_s: Times
    admitted_s: Times
    first_token_s: Times
    last_token_s: Times
    finished_s: Times
    input_tokens: Counts
    output_tokens: Counts
    generated_tokens: Counts
    retries: Counts
    rejected: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.arrived_s)


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """A node over the window: shares of time and of KV cache, steps a batch, requests waiting."""

    name: str
    layers: tuple[int, int]
    utilisation: float
    mean_decode_batch: float
    prompt_tokens_per_s: float
    decode_steps_per_s: float
    kv_mean: float
    kv_peak: float
    mean_waiting: float


@dataclass(frozen=True, slots=True)
class LinkLoad:
    """One direction of a link over the window: the share of time it carried something, and bytes/s."""

    tail: str
    head: str
    utilisation: float
    bytes_per_s: float
    capacity_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Series:
    """Samples at ``time_s``, one row a node in the order of the outcome's nodes; since the sample before.

    ``decode_tokens_per_s``, ``in_flight`` and ``waiting`` are of the whole cluster.
    """

    time_s: Times
    decode_tokens_per_s: Times
    in_flight: Times
    waiting: Times
    utilisation: Times
    batch: Times
    kv: Times
    queue: Times


@dataclass(frozen=True)
class Outcome:
    """A simulation's result over the window ``[start_s, end_s)``.

    ``gaps_s`` are all times between two tokens of a request in the window, the last at its second token's arrival.
    ``stopped`` says that somebody ended the run early, at ``end_s``.
    """

    setup: str
    trace: str
    scheduler: str
    flow: float
    seed: int
    start_s: float
    end_s: float
    stopped: bool
    requests: RequestTimes
    decode_tokens: int
    prompt_tokens: int
    gaps_s: npt.NDArray[np.float32]
    nodes: tuple[NodeLoad, ...]
    links: tuple[LinkLoad, ...]
    series: Series
    waiting: int
    in_flight: int

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.end_s - self.start_s

    @property
    def decode_tokens_per_s(self) -> float:
        """Generated tokens that came home in the window, a second."""
        return self.decode_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def prompt_tokens_per_s(self) -> float:
        """Tokens of the prompts whose prefill ended in the window, a second."""
        return self.prompt_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Both together, which is what a plan's flow bounds."""
        return self.decode_tokens_per_s + self.prompt_tokens_per_s

    @cached_property
    def ttft_s(self) -> Times:
        """Times to first token of requests whose first token came in the window, from their arrival."""
        first = self.requests.first_token_s
        inside = (first >= self.start_s) & (first <= self.end_s)
        times: Times = first[inside] - self.requests.arrived_s[inside]
        return times

    @cached_property
    def end_to_end_s(self) -> Times:
        """Times from arrival to the end, of requests that ended in the window."""
        end = self.requests.finished_s
        inside = (end >= self.start_s) & (end <= self.end_s)
        times: Times = end[inside] - self.requests.arrived_s[inside]
        return times

    @property
    def finished(self) -> int:
        """Requests that ended in the window."""
        return len(self.end_to_end_s)

    @property
    def rejected(self) -> int:
        """Requests turned away or given up, over the whole run."""
        return int(self.requests.rejected.sum())

    def percentile(self, figure: str, percent: float) -> float:
        """A percentile of ``ttft``, ``itl`` or ``e2e`` in seconds; NaN when there is nothing to take it of."""
        figures: dict[str, npt.NDArray[Any]] = {"ttft": self.ttft_s, "itl": self.gaps_s, "e2e": self.end_to_end_s}
        values = figures[figure]
        return float(np.percentile(values, percent)) if len(values) else float("nan")


def to_document(outcome: Outcome, *, requests: bool = True, series: bool = True) -> dict[str, Any]:
    """The outcome as a JSON document: figures first, then nodes and links, and on request every request and series."""
    latencies = {
        figure: {f"p{percent}": _plain(outcome.percentile(figure, percent)) for percent in PERCENTILES}
        for figure in ("ttft", "itl", "e2e")
    }
    document: dict[str, Any] = {
        "format": "helix-df-simulation",
        "version": 1,
        "setup": outcome.setup,
        "trace": outcome.trace,
        "scheduler": outcome.scheduler,
        "seed": outcome.seed,
        "flow": outcome.flow,
        "start_s": outcome.start_s,
        "end_s": outcome.end_s,
        "stopped": outcome.stopped,
        "decode_tokens_per_s": outcome.decode_tokens_per_s,
        "prompt_tokens_per_s": outcome.prompt_tokens_per_s,
        "latency_s": latencies,
        "requests_arrived": len(outcome.requests),
        "requests_finished": outcome.finished,
        "requests_rejected": outcome.rejected,
        "requests_waiting": outcome.waiting,
        "requests_in_flight": outcome.in_flight,
        "nodes": [asdict(node) for node in outcome.nodes],
        "links": [asdict(link) for link in outcome.links],
    }
    if requests:
        document["requests"] = _columns(outcome.requests)
    if series:
        document["series"] = _columns(outcome.series)
    return document


def _columns(table: RequestTimes | Series) -> dict[str, Any]:
    return {name: _plain_list(getattr(table, name)) for name in table.__slots__}


def _plain_list(array: Any) -> Any:
    if array.dtype.kind != "f":
        return array.tolist()
    return [_plain_list(row) for row in array] if array.ndim > 1 else [_plain(value) for value in array.tolist()]


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value
