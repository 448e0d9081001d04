"""Spans on their way to a collector, by the OpenTelemetry SDK: the only file that imports it.

What the job leaves open is the SDK's to decide, by its ``OTEL_*`` environment variables and defaults: endpoint,
headers, certificates, sampler, batches, the service's name. A thread of the SDK sends batches; what its queue doesn't
hold is dropped, so a collector that is away costs a line in the log now and then, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from helix_df.release import release
from helix_df.runtime.log_files import Seldom
from helix_df.runtime.tracing.spans import Attribute, TimedSpan

FLUSH_S = 2.0
"""Seconds that spans get to leave in the end."""

TELL_EVERY_S = 60.0

_TELLERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
"""Whose lines a collector that is away causes."""

_PARENT = "traceparent"
_W3C = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """The span of a request that is being answered; ``traceparent`` is for what is a part of it."""

    traceparent: str
    _span: Span

    def end(self, attributes: Mapping[str, Attribute], error: str | None = None) -> None:
        """It is over; ``error`` says in a word what went wrong on this side."""
        self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class OtlpTraces:
    """Sends spans of one job.

    Args:
        job: its name.
        url: where to post them; as the environment says if None.
        sample: share of requests to trace whose client doesn't say; as the environment says if None.
    """

    def __init__(self, job: str, url: str | None = None, sample: float | None = None) -> None:
        self._seldom = Seldom(TELL_EVERY_S)
        for teller in _TELLERS:
            logging.getLogger(teller).addFilter(self._seldom)
        self._exporter = OTLPSpanExporter(endpoint=url)
        self._batches = BatchSpanProcessor(self._exporter)
        self._provider = TracerProvider(
            sampler=None if sample is None else ParentBased(TraceIdRatioBased(sample)),
            resource=_resource(job),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._batches)
        self._tracer = self._provider.get_tracer("helix_df", release())

    def begin(self, headers: Mapping[str, str], name: str, attributes: Mapping[str, Attribute]) -> OpenSpan | None:
        """The span of a request that has come with these headers; ``None`` if it isn't to be traced."""
        span = self._tracer.start_span(name, _W3C.extract(headers, Context()), SpanKind.SERVER, attributes)
        if not (span.is_recording() and span.get_span_context().trace_flags.sampled):
            return None
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span, Context()))
        return OpenSpan(carrier[_PARENT], span)

    def tell(self, traceparent: str, span: TimedSpan) -> None:
        """Send a span, and what it was made of, as a part of another one."""
        shift_ns = time.time_ns() - time.monotonic_ns()
        self._send(span, _W3C.extract({_PARENT: traceparent}, Context()), shift_ns)

    async def close(self) -> None:
        """Send what there is, for ``FLUSH_S`` at most. A collector that takes it and says nothing is left alone."""
        await _briefly(self._batches.force_flush, FLUSH_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # which ends its waiting to try again
        await _briefly(self._provider.shutdown, FLUSH_S)
        for teller in _TELLERS:
            logging.getLogger(teller).removeFilter(self._seldom)

    def _send(self, span: TimedSpan, parent: Context, shift_ns: int) -> None:
        start_ns = _at(span.start_s, shift_ns)
        sent = self._tracer.start_span(span.name, parent, attributes=span.attributes, start_time=start_ns)
        inside = set_span_in_context(sent, parent)
        for child in span.children:
            self._send(child, inside, shift_ns)
        if span.error is not None:
            sent.set_status(Status(StatusCode.ERROR, span.error))
        sent.end(_at(span.stop_s, shift_ns))


async def _briefly(work: Callable[[], object], seconds: float) -> None:
    """Let a thread do something that may hang, which then keeps no process from ending."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="traces-end", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), seconds)


def _at(moment_s: float, shift_ns: int) -> int:
    """Unix time (ns) of a moment on the monotonic clock."""
    return round(moment_s * 1e9) + shift_ns


def _resource(job: str) -> Resource:
    own = {SERVICE_VERSION: release(), "helix_df.job": job}
    said = os.environ.get(OTEL_SERVICE_NAME) or f"{SERVICE_NAME}=" in os.environ.get(OTEL_RESOURCE_ATTRIBUTES, "")
    return Resource.create(own if said else own | {SERVICE_NAME: "helix-df"})
