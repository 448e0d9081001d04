"""The scripts of the clients that the test environment has, against a real daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import helix_df
from benchmarks.frames_table import daemon
from helix_df.layers import LayerRange
from tests.clients.__main__ import CLIENTS, SCRIPTS
from tests.runtime.tiny import tiny_plan

GEOMETRIES = Path(helix_df.__file__).parent / "profiles/data/geometries.json"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of a job's API, and its model's name."""
    folder = tmp_path_factory.mktemp("clients")
    config = json.loads(GEOMETRIES.read_text("utf-8"))["tiny"] | {"max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config), encoding="utf-8")
    model = {"source": f"random:{folder / 'config.json'}", "name": "tiny"}
    runtime = {"max_batch": 4, "max_prefill_tokens": 64, "port": 0}
    placement = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
    plan = tiny_plan(placement, kv_tokens=16384, model=model, runtime=runtime)
    with daemon(plan, folder) as (_, url, _, _):
        yield url, plan.job.model.served_name


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_client_that_is_installed_here_can_do_all_of_its_script(job: tuple[str, str], name: str) -> None:
    script = SCRIPTS / CLIENTS[name].script
    done = subprocess.run([sys.executable, str(script), *job], capture_output=True, text=True, timeout=600)
    tried = [json.loads(line) for line in done.stdout.splitlines()]
    assert tried, done.stderr
    assert not {one["what"]: one["why"] for one in tried if one["why"]}, done.stderr


def test_every_script_is_of_a_client() -> None:
    scripts = {path.name for path in Path(SCRIPTS).iterdir() if path.suffix in (".py", ".mjs")}
    assert scripts == {client.script for client in CLIENTS.values()} | {"report.py", "report.mjs"}
