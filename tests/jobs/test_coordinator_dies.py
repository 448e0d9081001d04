"""A coordinator that is killed is started again, and takes back the workers that it had, with their weights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status, http_client
from helix_df.runtime.jobs.directory import DaemonRecord, JobDirectory, find_running, job_directory
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.jobs.processes import children_of, command_line
from helix_df.runtime.jobs.standby import STANDBY
from tests.runtime.tiny import tiny_plan

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
ROOT = Path(__file__).parents[2]


def until(condition: object, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


@contextmanager
def daemon(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[JobDirectory, DaemonRecord]]:
    """A ready job of real processes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = job_directory("tiny")
    process = start_daemon(job, plan, start_timeout_s=240)
    try:
        yield job, until_ready(job, process)
    finally:
        stop_daemon(job)
        process.wait()
    assert children_of(process.pid) == ()


def workers(record: DaemonRecord) -> dict[str, int]:
    """Process ids of a job's local workers, whoever is their parent now."""
    parents = [pid for pid in (record.pid, record.coordinator) if pid is not None]
    found = {pid: command_line(pid) for parent in parents for pid in children_of(parent)}
    return {words[words.index("--node") + 1]: pid for pid, words in found.items() if "--node" in words}


def answer(url: str, number: int) -> dict[str, object]:
    body = {"model": "tiny", "prompt": [1 + number, 7, 9], "max_tokens": 24, "return_token_ids": True, "seed": number}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


def kill_the_coordinator(job: JobDirectory) -> DaemonRecord:
    """The record of the one that came after it, once it is complete."""
    before = job.record()
    os.kill(before.coordinator, signal.SIGKILL)
    until(lambda: (now := job.record()).coordinator not in (None, before.coordinator) and now.state == "ready")
    return job.record()


def test_a_killed_coordinator_comes_back_and_its_workers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(HALVES)
    with daemon(plan, monkeypatch) as (job, record):
        expected = [answer(record.url, number) for number in range(3)]
        before = workers(record)
        assert set(before) == {"a", "b"}
        assert record.pid != record.coordinator
        for life in (1, 2):
            after = kill_the_coordinator(job)
            assert (after.url, after.pid, after.restarts, after.token) == (record.url, record.pid, life, record.token)
            assert workers(after) == before, "nobody loads anything again"
            assert [answer(record.url, number) for number in range(3)] == expected
            status = fetch_status(record.url)
            assert status.state == "ready"
            assert [node.restarts for node in status.nodes] == [0, 0]
            assert (status.restarts, status.last_restart) == (life, "was killed by signal 9")
            metrics = httpx.get(f"{record.url}/metrics").text
            assert f"helix_coordinator_restarts_total {life}.0" in metrics
            assert 'helix_coordinator_last_restart{reason="was killed by signal 9"} 1.0' in metrics
        os.kill(before["b"], signal.SIGKILL)
        until(lambda: fetch_status(record.url).nodes[1].restarts == 1)
        until(lambda: fetch_status(record.url).state == "ready")
        assert workers(job.record())["a"] == before["a"]
        assert answer(record.url, 0) == expected[0]
        assert "taken back" in job.log_path().read_text()
    assert job.record().state == "stopped"
    assert not job.is_running()
    left = {file.name for file in job.path.iterdir()}
    assert not {"identity.json", "journal.sqlite", "journal.sqlite-wal"} & left


Event = tuple[str, dict]


async def events(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """Ids and documents of a stream up to its end; whoever sends it may die meanwhile."""
    name = ""
    with contextlib.suppress(httpx.TransportError):
        async for line in lines:
            kind, _, value = line.partition(": ")
            if kind == "id":
                name = value
            elif value == "[DONE]":
                yield "", {}
            elif kind == "data":
                yield name, json.loads(value)


@dataclass
class Client:
    """One that streams, and comes back for the rest where it is cut off."""

    url: str
    number: int
    texts: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    usage: dict = field(default_factory=dict)
    cuts: int = 0
    id: str = ""
    place: str = ""
    done: bool = False
    heard: Callable[[], object] = lambda: None

    @property
    def body(self) -> dict:
        """Greedy and sampled ones, some with several answers, in chats, with log-probabilities."""
        kind = self.number % 4
        body: dict = {"model": "tiny", "max_tokens": 180, "stream": True, "return_token_ids": True}
        body |= {"stream_options": {"include_usage": True}, "seed": self.number, "ignore_eos": True}
        if kind == 3:
            return body | {"messages": [{"role": "user", "content": f"Hi {self.number}"}], "logprobs": True}
        sampled = {"temperature": 0.0} if kind == 0 else {"temperature": 0.9, "n": 2} if kind == 2 else {}
        return body | sampled | {"prompt": [self.number, 9, 4] * (1 + self.number)}

    def hear(self, document: dict) -> None:
        self.id = document["id"]
        self.usage = document["usage"] or self.usage
        for choice in document["choices"]:
            index = choice["index"]
            text = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            self.texts[index] = self.texts.get(index, "") + text
            self.tokens.setdefault(index, []).extend(choice.get("token_ids", ()))
            if choice["finish_reason"]:
                self.finish[index] = choice["finish_reason"]

    async def read(self, response: httpx.Response) -> None:
        async for name, document in events(response.aiter_lines()):
            self.done = not document
            if document:
                self.hear(document)
                self.place = name
                self.heard()

    async def run(self, http: httpx.AsyncClient) -> Client:
        path = "chat/completions" if self.number % 4 == 3 else "completions"
        name = {"X-Helix-Request-Id": f"client-{uuid.uuid4()}"}
        async with http.stream("POST", f"/v1/{path}", json=self.body, headers=name) as response:
            assert response.status_code == 200
            await self.read(response)
        while not self.done:
            self.cuts += 1
            await self.come_back(http)
        return self

    async def come_back(self, http: httpx.AsyncClient) -> None:
        while True:
            try:
                async with http.stream(
                    "GET", f"/helix/requests/{self.id}", headers={"Last-Event-ID": self.place}
                ) as response:
                    if response.status_code != 409:  # the connection that broke may not be known to be gone yet
                        assert response.status_code == 200, await response.aread()
                        return await self.read(response)
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)

    def seen(self) -> tuple[object, ...]:
        used = {name: value for name, value in self.usage.items() if name != "prompt_tokens_details"}
        return self.texts, self.tokens, self.finish, used


async def stream_all(url: str, kill: Callable[[], object] | None = None) -> list[Client]:
    """What eight clients hear; ``kill`` is called at once when all of them have a few tokens."""
    clients: list[Client] = []

    def on_token() -> None:
        nonlocal kill
        if kill is not None and all(len(client.tokens.get(0, ())) > 4 for client in clients):
            kill()
            kill = None

    clients += [Client(url, number, heard=on_token) for number in range(8)]
    async with http_client(url) as http, asyncio.timeout(240):
        return await asyncio.gather(*(client.run(http) for client in clients))


async def test_streams_go_on_where_they_were_when_a_coordinator_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        before = workers(record)
        expected = await stream_all(record.url)
        assert [client.cuts for client in expected] == [0] * 8
        killed = await stream_all(record.url, lambda: os.kill(job.record().coordinator, signal.SIGKILL))
        assert any(client.cuts for client in killed)
        for was, now in zip(expected, killed, strict=True):
            assert now.seen() == was.seen()
        assert workers(job.record()) == before
        async with http_client(record.url) as http:
            cut = next(client for client in killed if client.cuts and client.number % 4 == 0)
            again = await http.get(f"/helix/requests/{cut.id}")
            assert "data: [DONE]" in again.text, "for as long as it is kept"
            rest = await http.get(f"/helix/requests/{cut.id}?after={cut.place}")
            assert '"token_ids":[' not in rest.text
            missing = await http.get("/helix/requests/cmpl-nobody")
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "request_not_found")
            wrong = await http.get(f"/helix/requests/{cut.id}?after=5,5")
            assert wrong.status_code == 400
            beyond = await http.get(f"/helix/requests/{cut.id}?after=181")
            assert (beyond.status_code, "180 at most" in beyond.text) == (400, True)


async def test_an_answer_that_is_not_streamed_is_there_for_who_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"model": "tiny", "prompt": [3, 1, 4], "max_tokens": 200, "seed": 1, "ignore_eos": True}
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        async with http_client(record.url) as http:
            expected = (await http.post("/v1/completions", json=body)).json()
            name = {"X-Helix-Request-Id": "mine"}
            cut = asyncio.create_task(http.post("/v1/completions", json=body, headers=name))
            while (await http.get("/helix/status")).json()["generated_tokens"] < 220:
                await asyncio.sleep(0.01)
            taken = await http.post("/v1/completions", json=body, headers=name)
            assert (taken.status_code, taken.json()["error"]["code"]) == (409, "request_exists")
            busy = await http.get("/helix/requests/mine")
            assert (busy.status_code, busy.json()["error"]["code"]) == (409, "request_connected")
            os.kill(job.record().coordinator, signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await cut
            answer = None
            while answer is None:
                with contextlib.suppress(httpx.TransportError):
                    answer = await http.get("/helix/requests/mine")
                await asyncio.sleep(0.05)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"] == expected["choices"]
            assert answer.json()["usage"]["completion_tokens"] == 200


def test_status_says_so_while_a_coordinator_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        os.kill(record.coordinator, signal.SIGKILL)
        until(lambda: job.record().state == "restarting")
        with pytest.raises(DeploymentError, match=r"(?s)ended by itself.*was killed by signal 9"):
            find_running("tiny")
        assert stop_daemon(job)
        assert job.record().state == "stopped"


def test_workers_go_when_nobody_is_left_to_watch_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        left = workers(record)
        os.kill(record.pid, signal.SIGKILL)
        assert answer(record.url, 0), "the coordinator itself goes on"
        os.kill(record.coordinator, signal.SIGKILL)
        until(lambda: not any(command_line(pid) for pid in left.values()))
        assert not job.is_running()


def standby_of(record: DaemonRecord) -> int | None:
    return next((pid for pid in children_of(record.pid) if STANDBY in command_line(pid)), None)


def test_the_next_coordinator_is_a_process_that_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tiny_plan(HALVES), monkeypatch) as (job, record):
        expected = answer(record.url, 0)
        until(lambda: standby_of(record) is not None)
        gone = standby_of(record)
        os.kill(gone, signal.SIGKILL)
        until(lambda: standby_of(record) not in (None, gone))
        waiting = standby_of(record)
        after = kill_the_coordinator(job)
        assert (after.coordinator, after.restarts) == (waiting, 1)
        assert answer(record.url, 0) == expected
        until(lambda: standby_of(after) is not None)
