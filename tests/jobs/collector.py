"""A collector's stand-in: an HTTP server on loopback that reads OTLP as OpenTelemetry's own protocol buffers say it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Received:
    """A span as a collector has it; times in seconds of Unix time."""

    name: str
    trace: str
    id: str
    parent: str
    start_s: float
    stop_s: float
    kind: int
    status: int
    words: str
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


@dataclass
class Collector:
    """What was received so far, and how often something else than spans came."""

    url: str = ""
    status: int = 200
    spans: list[Received] = field(default_factory=list)
    posts: int = 0
    faults: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def of(self, trace: str) -> list[Received]:
        return [span for span in list(self.spans) if span.trace == trace]

    def below(self, parent: Received) -> list[Received]:
        return sorted((span for span in self.of(parent.trace) if span.parent == parent.id), key=lambda it: it.start_s)

    def named(self, trace: str, start: str) -> list[Received]:
        return [span for span in self.of(trace) if span.name.startswith(start)]

    def leaves(self, parent: Received) -> list[Received]:
        """Spans in one that nothing else is in."""
        children = self.below(parent)
        return [leaf for child in children for leaf in self.leaves(child)] if children else [parent]


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


def received(span: trace_pb2.Span, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.kind,
        span.status.code,
        span.status.message,
        attributes(span.attributes),
        resource,
    )


@contextmanager
def collecting(path: str = "/v1/traces", port: int = 0) -> Iterator[Collector]:
    """A collector that takes traces at a path."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posts += 1
            found.headers.append(dict(self.headers))
            if self.path != path or self.headers["Content-Type"] != "application/x-protobuf":
                found.faults.append(f"{self.path} {self.headers['Content-Type']}")
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            asked = ExportTraceServiceRequest.FromString(body)
            if found.status == 200:
                for group in asked.resource_spans:
                    resource = attributes(group.resource.attributes)
                    for scope in group.scope_spans:
                        found.spans += [received(span, resource) for span in scope.spans]
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(found.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
