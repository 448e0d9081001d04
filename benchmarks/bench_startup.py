"""From `helix-df apply` to the first token of the quickstart, with nothing compiled yet and with everything cached.

python -m pytest benchmarks/bench_startup.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parent.parent / "spec/examples/quickstart.yaml"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The quickstart on a free port, with caches and state of its own."""
    text = QUICKSTART.read_text().replace("port: 8000", "port: 0").replace("name: quickstart", "name: bench-startup")
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def apply_to_first_token(job: Path) -> tuple[float, float]:
    """Seconds until `apply` returned, and until the first token was there."""
    environment = os.environ | {
        "HELIX_DF_CACHE": str(job.parent / "cache"),
        "HELIX_DF_STATE": str(job.parent / "state"),
    }

    def helix_df(*arguments: str) -> str:
        command = [sys.executable, "-m", "helix_df", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    started = time.perf_counter()
    try:
        helix_df("apply", str(job))
        ready = time.perf_counter() - started
        assert helix_df("generate", "--max-tokens", "1", "--temperature", "0", "The capital of France is").strip()
        return ready, time.perf_counter() - started
    finally:
        helix_df("down", "bench-startup")


def test_cold_and_warm_start(benchmark: Any, job: Path) -> None:
    cold = apply_to_first_token(job)
    warm: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: warm.append(apply_to_first_token(job)), rounds=3, iterations=1)
    ready, first = sorted(warm)[1]
    benchmark.extra_info |= {
        "cold": f"ready {cold[0]:.1f} s, first token {cold[1]:.1f} s",
        "warm": f"ready {ready:.1f} s, first token {first:.1f} s",
    }
