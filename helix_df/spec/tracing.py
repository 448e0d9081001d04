"""The section ``runtime.traces``: where traces of requests go, and of which requests.

Owns its fields and their checks. Doesn't know OpenTelemetry: what is left out is for its SDK to decide.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from helix_df.spec.mistakes import Refusal
from helix_df.spec.section import Number, Section

TRACES_PATH = "/v1/traces"
"""Where a collector takes traces by OTLP over HTTP, unless it is told otherwise."""

_EXPECTED = "http://HOST:PORT or https://HOST:PORT, with a path if it isn't /v1/traces"


def _collector(text: str) -> str:
    """A URL without what a job file isn't for."""
    try:
        url = urlsplit(text)
        port = url.port  # raises if it is none
    except ValueError as error:
        raise Refusal(f"this is no URL: {error}", _EXPECTED) from error
    if url.scheme not in ("http", "https") or not url.hostname or any(letter.isspace() for letter in text):
        raise Refusal("this is no URL of a collector", _EXPECTED)
    if url.username is not None or url.password is not None:
        raise Refusal(
            "a secret would stand in the job and in its plan",
            _EXPECTED,
            "OTEL_EXPORTER_OTLP_HEADERS in the environment of `helix-df apply`",
        )
    if url.query or url.fragment:
        raise Refusal("a collector's URL ends with its path", _EXPECTED)
    if port == 4317:
        raise Refusal(
            "this is the port for OTLP over gRPC, and traces go over HTTP", _EXPECTED, "collectors take that at 4318"
        )
    return text


class Tracing(Section):
    """OpenTelemetry traces of requests, sent to a collector by OTLP over HTTP."""

    endpoint: Annotated[str, AfterValidator(_collector)] | None = Field(
        default=None,
        description="The collector's URL; `/v1/traces` is added where it has no path. By default as "
        "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` says where the coordinator runs, or "
        "`http://localhost:4318`.",
        examples=["http://127.0.0.1:4318"],
    )
    sample: Number | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the requests that are traced, of those whose client doesn't say (`traceparent`). By "
        "default as `OTEL_TRACES_SAMPLER` says, or all.",
    )

    @property
    def url(self) -> str | None:
        """Where traces are posted to; ``None`` where the environment says it."""
        if self.endpoint is None:
            return None
        return self.endpoint if urlsplit(self.endpoint).path.strip("/") else self.endpoint.rstrip("/") + TRACES_PATH
