"""The README's main job, for real: SmolLM2 over three worker processes, asked with the official openai client."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from helix_df.plan.plan import read_plan
from helix_df.plan.violations import violations

QUICKSTART = Path(__file__).parents[2] / "spec/examples/quickstart.yaml"
MODEL = "smollm2"


def helix_df(*arguments: str, state: Path, check: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "helix_df", *arguments],
        env=os.environ | {"HELIX_DF_STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def processes_of(state: Path) -> list[str]:
    """Living processes that were started with this state folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if f"HELIX_DF_STATE={state}".encode() in environment.split(b"\0") and not zombie:
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def url(state: Path) -> Iterator[str]:
    job = state / "job.yaml"
    job.write_text(QUICKSTART.read_text().replace("port: 8000", "port: 0"))
    helix_df("apply", str(job), state=state)
    record = json.loads((state / "jobs/quickstart/daemon.json").read_text())
    yield record["url"]
    helix_df("down", "quickstart", state=state)
    assert processes_of(state) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(
            (record["url"].rpartition("/")[2].split(":")[0], int(record["url"].rpartition(":")[2]))
        )
    assert "no job is running" in helix_df("status", state=state)


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_three_workers_run_a_solver_s_plan(url: str, state: Path) -> None:
    plan = read_plan(state / "jobs/quickstart/plan.json")
    assert violations(plan) == []
    assert plan.solver.name == "mip"
    status = json.loads(helix_df("status", "quickstart", "--json", state=state))
    assert {node["name"]: node["state"] for node in status["nodes"]} == dict.fromkeys(
        ["large", "medium", "small"], "ready"
    )
    if sys.platform == "linux":  # elsewhere processes don't show their environment
        assert sum(" worker --join " in command for command in processes_of(state)) == 3
    assert httpx.get(f"{url}/health").status_code == 200


def test_the_capital_of_france(url: str, state: Path) -> None:
    answer = helix_df("generate", "--temperature", "0", "--max-tokens", "8", "The capital of France is", state=state)
    assert "Paris" in answer


def test_completion(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked)
    assert "Paris" in whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (5, 12, 17)
    streamed = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == whole.choices[0].text
    assert streamed[-1].usage == whole.usage


def test_chat(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_completion_tokens": 40,
    }
    whole = client.chat.completions.create(**asked)
    text = whole.choices[0].message.content
    assert text is not None
    assert "Paris" in text
    streamed = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == text


def test_stop(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "1, 2, 3, 4,", "max_tokens": 30, "temperature": 0}
    full = client.completions.create(**asked).choices[0].text
    stopped = client.completions.create(**asked, stop=[" 7,"]).choices[0]
    assert full.startswith(stopped.text + " 7,")
    assert stopped.finish_reason == "stop"


def test_a_seed_repeats_and_another_one_differs(client: openai.OpenAI) -> None:
    def draw(seed: int) -> str:
        drawn = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=24, seed=seed)
        return drawn.choices[0].text

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_wrong_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.completions.create(model="gpt-5", prompt="Hello")


def test_a_prompt_over_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="2048") as refused:
        client.completions.create(model=MODEL, prompt="word " * 2100, max_tokens=1)
    assert refused.value.code == "context_length_exceeded"


def test_sixteen_concurrent_streams_equal_what_each_gives_alone(client: openai.OpenAI) -> None:
    def answer(index: int) -> str:
        stream = client.completions.create(
            model=MODEL,
            prompt="Once upon a time there was a king who had many daughters. " * (1 + index % 5) + "A" * index,
            max_tokens=3 + 2 * index,
            temperature=0.0 if index % 2 else 0.7,
            seed=index,
            stream=True,
        )
        return "".join(chunk.choices[0].text for chunk in stream)

    alone = [answer(index) for index in range(16)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(answer, range(16)))
    assert together == alone


def test_clients_that_leave_give_all_pages_back(url: str) -> None:
    """Streams broken off at any token: what workers then hold is what the coordinator keeps for reuse, to the page."""
    kept_before = kv_tokens(url, "kept")

    def leave(index: int) -> None:
        # Each prompt is another, so that what is kept changes, and equal figures can't be those from before.
        asked = {"model": MODEL, "prompt": f"{index} " * 40, "max_tokens": 200, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as response:
            events = (line for line in response.iter_lines() if line.startswith("data:"))
            for _ in range(1 + index % 5):
                next(events)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(24)))
    deadline = time.monotonic() + 60
    while any(kv_tokens(url, "used").values()) or kv_tokens(url, "held") != kv_tokens(url, "kept"):
        assert time.monotonic() < deadline, (kv_tokens(url, "held"), kv_tokens(url, "kept"))
    assert all(kept > kept_before[node] for node, kept in kv_tokens(url, "kept").items())


def kv_tokens(url: str, which: str) -> dict[str, float]:
    """Tokens of KV cache that are used, kept or held, by node."""
    found = re.findall(rf'^helix_node_kv_{which}_tokens{{node="(\w+)"}} (\S+)$', httpx.get(f"{url}/metrics").text, re.M)
    assert len(found) == 3
    return {node: float(tokens) for node, tokens in found}
