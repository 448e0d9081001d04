"""What became of requests, as histograms: how long they took and waited, how large they were, and how they ended.

Owns these metrics and their buckets, under our names and under vLLM's, which dashboards and alerts that people have
already look for. Doesn't know HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from helix_df.runtime.requests import JobStatus

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)

VLLM_NAMES = {
    "helix_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "helix_inter_token_latency_seconds": "vllm:inter_token_latency_seconds",
    "helix_request_seconds": "vllm:e2e_request_latency_seconds",
    "helix_request_queue_seconds": "vllm:request_queue_time_seconds",
    "helix_request_prefill_seconds": "vllm:request_prefill_time_seconds",
    "helix_request_decode_seconds": "vllm:request_decode_time_seconds",
    "helix_request_inference_seconds": "vllm:request_inference_time_seconds",
    "helix_request_token_seconds": "vllm:request_time_per_output_token_seconds",
    "helix_request_prompt_tokens": "vllm:request_prompt_tokens",
    "helix_request_generated_tokens": "vllm:request_generation_tokens",
    "helix_request_max_tokens": "vllm:request_params_max_tokens",
}
"""Histograms of ours, and what vLLM calls the same thing."""


@dataclass(slots=True)
class ObservedRequest:
    """When things happened to one request, in seconds of one clock; ``waited_s`` is what it spent in the queue."""

    asked_s: float
    prompt_tokens: int
    max_tokens: int
    first_s: float | None = None
    last_s: float | None = None
    waited_s: float = 0.0
    tokens: int = 0


class RequestMetrics:
    """Histograms of requests that are over."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, words: str) -> Histogram:
            return Histogram(f"helix_request_{name}seconds", words, buckets=SECONDS, registry=registry)

        def tokens(name: str, words: str) -> Histogram:
            return Histogram(f"helix_request_{name}_tokens", words, buckets=TOKENS, registry=registry)

        self._whole = seconds("", "From a request's arrival to the end of its answer")
        self._queue = seconds("queue_", "From a request's arrival to its start on a pipeline")
        self._prefill = seconds("prefill_", "From a request's start to its first token")
        self._decode = seconds("decode_", "From a request's first token to its last")
        self._inference = seconds("inference_", "From a request's start to its last token")
        self._each = seconds("token_", "Mean time between tokens of an answer, for each answer")
        self._prompt = tokens("prompt", "Tokens of a request's prompt")
        self._generated = tokens("generated", "Tokens of a request's answer")
        self._most = tokens("max", "Tokens that a request may generate")
        self._ends = Counter(
            "helix_requests_ended", "Requests that ended, by how their answer did", ["reason"], registry=registry
        )

    def observe(self, times: ObservedRequest, reason: str, now: float) -> None:
        """Note a request that is over; ``reason`` is why its answer ended, ``abort`` without one."""
        self._ends.labels(reason).inc()
        if reason == "abort":
            return
        self._whole.observe(now - times.asked_s)
        self._queue.observe(times.waited_s)
        self._prompt.observe(times.prompt_tokens)
        self._generated.observe(times.tokens)
        self._most.observe(times.max_tokens)
        if times.first_s is None or times.last_s is None:
            return
        started_s, decoded_s = times.asked_s + times.waited_s, times.last_s - times.first_s
        self._prefill.observe(max(0.0, times.first_s - started_s))
        self._decode.observe(decoded_s)
        self._inference.observe(max(0.0, times.last_s - started_s))
        if times.tokens > 1:
            self._each.observe(decoded_s / (times.tokens - 1))


class VllmCollector(Collector):
    """The same under vLLM's names, with its labels; made anew from ours at every scrape.

    Args:
        registry: of ours.
        snapshot: gives the job's status.
        model_name: what requests call the model.
    """

    def __init__(self, registry: CollectorRegistry, snapshot: Callable[[], JobStatus], model_name: str) -> None:
        self._registry = registry
        self._snapshot = snapshot
        self._labels = {"model_name": model_name, "engine": "0"}

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        status = self._snapshot()
        for metric in self._registry.collect():
            theirs = VLLM_NAMES.get(metric.name)
            if theirs is not None:
                yield self._renamed(metric, theirs)
            elif metric.name == "helix_requests_ended":
                yield self._ended(metric)
        capacity = sum(node.kv_capacity_tokens for node in status.nodes)
        # Of the fullest node: it is the one that requests wait for.
        used = max((node.kv_used_tokens / max(1, node.kv_capacity_tokens) for node in status.nodes), default=0.0)
        yield self._gauge("num_requests_running", "Requests being generated", status.running)
        yield self._gauge("num_requests_waiting", "Requests that wait", status.waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", used if capacity else 0.0)
        yield self._count("prompt_tokens", "Prompt tokens taken in", status.prompt_tokens)
        yield self._count("generation_tokens", "Tokens generated", status.generated_tokens)
        yield self._count("prefix_cache_queries", "Prompt tokens looked for in KV cache", status.prompt_tokens)
        yield self._count("prefix_cache_hits", "Prompt tokens found there", status.cached_tokens)

    def _renamed(self, metric: Metric, name: str) -> Metric:
        found = Metric(name, metric.documentation, metric.type)
        for sample in metric.samples:
            suffix = sample.name.removeprefix(metric.name)
            if not suffix.endswith("_created"):
                found.samples.append(Sample(name + suffix, {**sample.labels, **self._labels}, sample.value))
        return found

    def _ended(self, metric: Metric) -> Metric:
        found = CounterMetricFamily(
            "vllm:request_success", metric.documentation, labels=["finished_reason", *self._labels]
        )
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                found.add_metric([_vllm_reason(sample.labels), *self._labels.values()], sample.value)
        return found

    def _gauge(self, name: str, words: str, value: float) -> Metric:
        found = GaugeMetricFamily(f"vllm:{name}", words, labels=list(self._labels))
        found.add_metric(list(self._labels.values()), value)
        return found

    def _count(self, name: str, words: str, value: float) -> Metric:
        found = CounterMetricFamily(f"vllm:{name}", words, labels=list(self._labels))
        found.add_metric(list(self._labels.values()), value)
        return found


def _vllm_reason(labels: Mapping[str, str]) -> str:
    """Calls end an answer as stop tokens do, there."""
    return "stop" if labels["reason"] == "tool_calls" else labels["reason"]
