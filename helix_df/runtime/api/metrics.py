"""What a job tells Prometheus. Owns metric names and labels; doesn't know HTTP or tokens' meaning."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from contextvars import ContextVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from helix_df.runtime.api.connections import Crowd
from helix_df.runtime.api.request_metrics import ObservedRequest, RequestMetrics, VllmCollector
from helix_df.runtime.api.text_pieces import TextPiece
from helix_df.runtime.requests import JobStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_ITL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NODE_STATES = ("waiting", "joined", "loading", "compiling", "ready", "lost", "failed")


class Metrics:
    """The metrics of one job, in a registry of their own.

    Args:
        snapshot: gives the job's status, asked at every scrape that doesn't bring it.
        crowd: the connections of the server, if it is known.
        clock: seconds of a monotonic clock.
        as_vllm: what requests call the model, if vLLM's names are to stand beside ours.
    """

    def __init__(
        self,
        snapshot: Callable[[], JobStatus],
        crowd: Crowd | None = None,
        clock: Callable[[], float] = time.monotonic,
        as_vllm: str | None = None,
    ) -> None:
        self._clock = clock
        self._snapshot = snapshot
        self._brought: ContextVar[JobStatus | None] = ContextVar("brought", default=None)
        self._registry = CollectorRegistry()
        self._registry.register(_JobCollector(self._status))
        if crowd is not None:
            self._registry.register(_CrowdCollector(crowd))
        self._http = Counter(
            "helix_http_requests", "HTTP requests answered", ["endpoint", "status"], registry=self._registry
        )
        self._ttft = Histogram(
            "helix_time_to_first_token_seconds",
            "From a request's arrival to its first token (TTFT)",
            buckets=_TTFT_BUCKETS,
            registry=self._registry,
        )
        self._itl = Histogram(
            "helix_inter_token_latency_seconds",
            "Between two tokens of an answer (ITL)",
            buckets=_ITL_BUCKETS,
            registry=self._registry,
        )
        self._requests = RequestMetrics(self._registry)
        self._as_vllm = None if as_vllm is None else VllmCollector(self._registry, self._status, as_vllm)

    def _status(self) -> JobStatus:
        return self._brought.get() or self._snapshot()

    def count_request(self, endpoint: str, status: int) -> None:
        """Count an HTTP answer; status 499 is a client that left before one."""
        self._http.labels(endpoint, str(status)).inc()

    async def timed(
        self, pieces: AsyncGenerator[TextPiece, None], prompt_tokens: int, max_tokens: int
    ) -> AsyncGenerator[TextPiece, None]:
        """The same pieces, with the latency of their tokens observed, and the request once it is over."""
        times, reason = ObservedRequest(self._clock(), prompt_tokens, max_tokens), "abort"
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    self._observe(times, piece)
                    reason = piece.finish_reason or reason
                    yield piece
        finally:
            self._requests.observe(times, reason, self._clock())

    def _observe(self, times: ObservedRequest, piece: TextPiece) -> None:
        times.waited_s = times.waited_s or piece.waited_s
        if not piece.token_ids:
            return
        now = self._clock()
        if times.last_s is None:
            self._ttft.observe(now - times.asked_s)
            times.first_s = now
        else:
            self._itl.observe(now - times.last_s)
        times.last_s = now
        times.tokens += len(piece.token_ids)

    def medians_s(self) -> tuple[float | None, float | None]:
        """Of the time to the first token and of that between two so far; ``None`` before the first."""
        return _median(self._ttft), _median(self._itl)

    def text(self, status: JobStatus | None = None) -> bytes:
        """All metrics in Prometheus' text format; of a thousand nodes that takes a while, so that another thread may do
        it, with a status that it brings."""
        self._brought.set(status)
        ours = generate_latest(self._registry)
        if self._as_vllm is None:
            return ours
        theirs = CollectorRegistry()
        theirs.register(self._as_vllm)
        return ours + generate_latest(theirs)


def _median(histogram: Histogram) -> float | None:
    """Linear inside the bucket that it is in; ``None`` if nothing was observed."""
    samples = [sample for metric in histogram.collect() for sample in metric.samples if sample.name.endswith("_bucket")]
    counts = [(float(sample.labels["le"]), sample.value) for sample in samples]
    half = counts[-1][1] / 2 if counts else 0.0
    start, under = 0.0, 0.0
    for bound, count in counts:
        if half and count >= half:
            return start if math.isinf(bound) else start + (bound - start) * (half - under) / (count - under)
        start, under = bound, count
    return None


class _JobCollector(Collector):
    """Turns the job's status into metrics."""

    def __init__(self, snapshot: Callable[[], JobStatus]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        status = self._snapshot()
        yield GaugeMetricFamily("helix_job_ready", "1 while a full path through the layers is up", float(status.ready))
        yield GaugeMetricFamily("helix_requests_running", "Requests being generated", status.running)
        yield GaugeMetricFamily("helix_requests_waiting", "Requests waiting for KV cache", status.waiting)
        yield CounterMetricFamily("helix_requests_finished", "Requests answered in full", status.finished)
        yield CounterMetricFamily("helix_requests_failed", "Requests that were given up", status.failed)
        yield CounterMetricFamily("helix_prompt_tokens", "Prompt tokens taken in", status.prompt_tokens)
        yield CounterMetricFamily("helix_generated_tokens", "Tokens generated", status.generated_tokens)
        yield CounterMetricFamily("helix_prefix_hits", "Starts from KV cache of another request", status.prefix_hits)
        yield CounterMetricFamily("helix_cached_tokens", "Tokens found in KV cache by these", status.cached_tokens)
        yield CounterMetricFamily("helix_drafted_tokens", "Tokens drafted for steps", status.drafted_tokens)
        yield CounterMetricFamily("helix_accepted_tokens", "Drafted tokens that were drawn", status.accepted_tokens)
        yield CounterMetricFamily(
            "helix_illegal_events", "Events the coordinator has no transition for", status.illegal_events
        )
        yield from _restarts(status)
        refused = CounterMetricFamily("helix_refused_frames", "Messages that were not let in", labels=["fault"])
        for fault, count in status.refused_frames.items():
            refused.add_metric([fault], count)
        yield refused
        yield from _node_metrics(status)
        yield from _link_metrics(status)


class _CrowdCollector(Collector):
    """Turns what became of connections into metrics."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        refused = CounterMetricFamily(
            "helix_refused_connections", "Connections of clients that were ended, by reason", labels=["reason"]
        )
        for reason, count in self._crowd.refused.items():
            refused.add_metric([reason], count)
        yield refused


def _restarts(status: JobStatus) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "helix_coordinator_restarts", "Times the coordinator was started again", value=status.restarts
    )
    reason = GaugeMetricFamily(
        "helix_coordinator_last_restart", "1 for why the coordinator was last started again", labels=["reason"]
    )
    if status.restarts:
        reason.add_metric([status.last_restart], 1.0)
    yield reason


def _link_metrics(status: JobStatus) -> Iterator[Metric]:
    ends = ["tail", "head"]
    carried = CounterMetricFamily("helix_link_tokens", "Tokens that went from one node to another", labels=ends)
    planned = GaugeMetricFamily("helix_link_planned_tokens_per_second", "What the plan sends there", labels=ends)
    running = GaugeMetricFamily("helix_link_requests_running", "Requests that run over it", labels=ends)
    for hop in status.hops:
        carried.add_metric([hop.tail, hop.head], hop.tokens)
        planned.add_metric([hop.tail, hop.head], hop.planned_tokens_per_s)
        running.add_metric([hop.tail, hop.head], hop.running)
    yield from (carried, planned, running)


def _node_metrics(status: JobStatus) -> Iterator[Metric]:
    used = GaugeMetricFamily("helix_node_kv_used_tokens", "KV cache reserved, in tokens", labels=["node"])
    kept = GaugeMetricFamily("helix_node_kv_kept_tokens", "KV cache kept for reuse, in tokens", labels=["node"])
    room = GaugeMetricFamily("helix_node_kv_capacity_tokens", "KV cache there is, in tokens", labels=["node"])
    running = GaugeMetricFamily("helix_node_requests_running", "Requests that run through the node", labels=["node"])
    held = GaugeMetricFamily(
        "helix_node_kv_held_tokens", "KV cache in pages that are owned, in tokens", labels=["node"]
    )
    compiled = CounterMetricFamily("helix_node_compiled_programs", "Programs compiled or loaded", labels=["node"])
    memory = GaugeMetricFamily("helix_node_memory_bytes", "Memory of the worker's process", labels=["node"])
    illegal = CounterMetricFamily(
        "helix_node_illegal_events", "Events the worker has no transition for", labels=["node"]
    )
    not_finite = CounterMetricFamily(
        "helix_node_not_finite", "Requests that the node computed NaN or infinity for", labels=["node"]
    )
    restarts = CounterMetricFamily("helix_node_restarts", "Times its worker was started again", labels=["node"])
    state = GaugeMetricFamily("helix_node_state", "1 for the state that the node is in", labels=["node", "state"])
    for node in status.nodes:
        used.add_metric([node.name], node.kv_used_tokens)
        kept.add_metric([node.name], node.kv_kept_tokens)
        room.add_metric([node.name], node.kv_capacity_tokens)
        running.add_metric([node.name], node.running)
        held.add_metric([node.name], node.kv_held_tokens)
        compiled.add_metric([node.name], node.compiled_programs)
        memory.add_metric([node.name], node.memory_bytes)
        illegal.add_metric([node.name], node.illegal_events)
        not_finite.add_metric([node.name], node.not_finite)
        restarts.add_metric([node.name], node.restarts)
        for name in _NODE_STATES:
            state.add_metric([node.name, name], float(node.state == name))
    yield from (used, kept, room, held, running, compiled, memory, illegal, not_finite, restarts, state)
