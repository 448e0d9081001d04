"""Which packages come with which extra of helix-df, and what to say where one isn't installed.

Owns that table, which `pyproject.toml` must agree with, and the error. Imports none of the packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from helix_df.errors import MissingExtra

PLANNING: Final = frozenset({"ortools", "numba"})
SERVING: Final = frozenset(
    {
        "flax",
        "gguf",
        "httpx",
        "jax",
        "jaxlib",
        "llguidance",
        "llvmlite",
        "msgpack",
        "prometheus_client",
        "safetensors",
        "starlette",
        "tokenizers",
        "uvicorn",
        "zmq",
    }
)
EITHER: Final = frozenset({"huggingface_hub", "jinja2"})
"""What both extras bring along."""


TRACING: Final = frozenset({"opentelemetry"})
"""Others bring its API along, which does nothing without the SDK and the exporter."""

_TRACING_MODULE = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


@contextmanager
def explained_imports() -> Iterator[None]:
    """Turn the failed import of a package that an extra brings into an error that names the extra.

    Raises:
        MissingExtra: in place of such a ``ModuleNotFoundError``; any other passes.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        raise missing from error


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """What to tell about a failed import; None when no extra brings what is missing."""
    package = (error.name or "").partition(".")[0]
    if package in PLANNING:
        return _missing("planning and simulating need", package, "plan")
    if package in SERVING:
        return _missing("serving, and talking to what serves, need", package, "serve")
    if package in TRACING:
        return _missing("traces need", error.name or package, "traces")
    if package in EITHER:
        return _missing("planning and serving need", package, "all")
    return None


def require_tracing(where: str) -> None:
    """Make sure that traces can be sent from here; ``where`` the job asks for them.

    Raises:
        MissingExtra: when the packages aren't installed.
    """
    try:
        for module in ("opentelemetry.sdk.trace", _TRACING_MODULE):
            if find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        missing.where = where
        raise missing from error


def _missing(what: str, package: str, extra: str) -> MissingExtra:
    return MissingExtra(f"{what} {package}, which isn't installed", hint=f"pip install 'helix-df[{extra}]'")
