"""A whole job as real processes over TCP: it survives a killed worker, takes joiners, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.plan.serving import rules_of
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.jobs.launchers.local import LocalLauncher
from helix_df.runtime.launcher import WorkerOrder
from helix_df.runtime.wire.message_kinds import frame_limit
from tests.runtime.tiny import answer, has_ipv6, tiny_plan, tiny_request

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="finds child processes in /proc")


def children() -> dict[str, int]:
    """Process ids of this process' workers, by node."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(status[1]) == os.getpid() and status[0] != "Z" and b"--node" in command:
            found[command[command.index(b"--node") + 1].decode()] = int(entry.name)
    return found


@asynccontextmanager
async def deployed(plan: Plan, log_dir: Path) -> AsyncIterator[Coordinator]:
    """A ready job of real processes."""
    log_dir.mkdir()
    coordinator = new_coordinator(plan, log_dir=log_dir)
    await coordinator.start()
    try:
        await coordinator.wait_ready(240)
        yield coordinator
    finally:
        await coordinator.close()


async def until(condition: object, coordinator: Coordinator) -> None:
    """Wait for the job to change until ``condition()`` holds."""
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            await coordinator.changed()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_a_job_on_ipv6_answers_as_any_other(tmp_path: Path) -> None:
    two = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
    request = tiny_request(3, max_tokens=8)
    async with deployed(tiny_plan(two), tmp_path / "four") as coordinator:
        expected = await answer(coordinator, request)
    async with deployed(tiny_plan(two, coordinator={"address": "[::1]"}), tmp_path / "six") as coordinator:
        addresses = [node.address for node in coordinator.snapshot().nodes]
        assert all(address is not None and address.startswith("tcp://[::1]:") for address in addresses)
        assert await answer(coordinator, request) == expected


async def test_a_killed_worker_costs_no_answer_while_another_way_is_left_and_is_started_again(tmp_path: Path) -> None:
    coordinator = new_coordinator(tiny_plan(), log_dir=tmp_path)
    await coordinator.start()
    try:
        await coordinator.wait_ready(240)
        alone = [await answer(coordinator, tiny_request(index, max_tokens=40)) for index in range(8)]
        streams = [asyncio.create_task(answer(coordinator, tiny_request(index, max_tokens=40))) for index in range(8)]
        await until(lambda: coordinator.snapshot().generated_tokens > 330, coordinator)
        os.kill(children()["late"], signal.SIGKILL)
        assert await asyncio.gather(*streams) == alone
        streams = [asyncio.create_task(answer(coordinator, tiny_request(index, max_tokens=40))) for index in range(4)]
        for name in {"late", "back"} & children().keys():  # the former may be back already
            os.kill(children()[name], signal.SIGKILL)
        await until(lambda: bool(coordinator.snapshot().missing_layers), coordinator)
        assert not coordinator.snapshot().ready
        missing = coordinator.snapshot().missing_layers
        assert [LayerRange(*gap) for gap in missing] == [coordinator.plan.placement["back"]]
        streams += [
            asyncio.create_task(answer(coordinator, tiny_request(index, max_tokens=40))) for index in range(4, 8)
        ]
        assert await asyncio.gather(*streams) == alone, "they wait for the worker that is being started again"
        await until(lambda: coordinator.snapshot().state == "ready", coordinator)
        assert [await answer(coordinator, tiny_request(index, max_tokens=40)) for index in range(8)] == alone
        restarts = {node.name: node.restarts for node in coordinator.snapshot().nodes if node.restarts}
        assert restarts in ({"late": 1, "back": 1}, {"late": 2, "back": 1})
    finally:
        await coordinator.close()
    assert children() == {}


async def test_a_worker_that_was_stopped_for_long_is_taken_back(tmp_path: Path) -> None:
    async with deployed(tiny_plan(), tmp_path / "job") as coordinator:
        expected = await answer(coordinator, tiny_request(1, max_tokens=40))
        process = children()["back"]
        os.kill(process, signal.SIGSTOP)
        await until(lambda: coordinator.snapshot().state == "degraded", coordinator)
        assert await answer(coordinator, tiny_request(1, max_tokens=40)) == expected
        os.kill(process, signal.SIGCONT)
        await until(lambda: coordinator.snapshot().state == "ready", coordinator)
        assert children()["back"] == process
        assert await answer(coordinator, tiny_request(1, max_tokens=40)) == expected


async def test_a_worker_that_can_not_be_started_again_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with deployed(tiny_plan(), tmp_path / "job") as coordinator:
        start, refused = LocalLauncher.start, iter([OSError("no process left")])

        def start_or_refuse(launcher: LocalLauncher, order: WorkerOrder) -> None:
            for error in refused:
                raise error
            start(launcher, order)

        monkeypatch.setattr(LocalLauncher, "start", start_or_refuse)
        os.kill(children()["back"], signal.SIGKILL)
        await until(lambda: coordinator.snapshot().state == "degraded", coordinator)
        await until(lambda: coordinator.snapshot().state == "ready", coordinator)
        assert {node.name: node.restarts for node in coordinator.snapshot().nodes}["back"] == 2


def test_workers_take_frames_as_large_as_the_pieces_that_the_plan_chose() -> None:
    plan = tiny_plan(runtime={"port": 0})
    rules = replace(rules_of(plan.job), max_prefill_tokens=2**20)
    orders = [new_coordinator(one)._frame_limit for one in (plan, replace(plan, rules=rules))]
    assert orders[1] >= frame_limit(plan.geometry.hidden_size, 2**20) > orders[0]


@pytest.mark.parametrize("encryption", ["auto", "always"])
async def test_an_external_worker_joins_with_the_command_that_status_shows(encryption: str) -> None:
    nodes = {"here": {"gpu": "toy"}, "there": {"gpu": "toy", "launcher": "external"}}
    halves = {"here": LayerRange(0, 2), "there": LayerRange(2, 4)}
    plan = tiny_plan(halves, nodes=nodes, runtime={"encryption": encryption, "port": 0})
    coordinator = new_coordinator(plan)
    await coordinator.start()
    worker = None
    try:
        commands = {node.name: node.join_command for node in coordinator.snapshot().nodes}
        assert commands["here"] is None
        command = commands["there"] or ""
        arguments = shlex.split(command)
        assert arguments[0] == "helix-df"
        assert coordinator.token not in command
        key_file = Path(arguments[arguments.index("--key-file") + 1])
        assert key_file.stat().st_mode & 0o777 == 0o600
        worker = subprocess.Popen([sys.executable, "-m", "helix_df", *arguments[1:]], stderr=subprocess.DEVNULL)
        await coordinator.wait_ready(240)
        for process in (worker.pid, children()["here"]):
            assert coordinator.token.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        assert len(await answer(coordinator, tiny_request(4))) == 8
    finally:
        await coordinator.close()
        if worker is not None:
            assert worker.wait(30) == 0
    assert not key_file.exists()


async def test_a_worker_that_can_not_load_says_so_in_its_last_words(tmp_path: Path) -> None:
    plan = tiny_plan({"only": LayerRange(0, 4)})
    (tmp_path / "config.json").write_text("{}")
    model = plan.job.model.model_copy(update={"source": f"hf:{tmp_path}", "context": 64})
    broken = replace(plan, job=plan.job.model_copy(update={"model": model}))
    coordinator = new_coordinator(broken, log_dir=tmp_path)
    await coordinator.start()
    try:
        with pytest.raises(DeploymentError, match=r"config\.json"):
            await coordinator.wait_ready(120)
    finally:
        await coordinator.close()
    assert children() == {}


async def test_an_address_that_is_taken_is_named() -> None:
    first = new_coordinator(tiny_plan({"only": LayerRange(0, 4)}))
    await first.start()
    taken = first.address.removeprefix("tcp://")
    second = new_coordinator(tiny_plan({"only": LayerRange(0, 4)}, coordinator={"address": taken}))
    try:
        with pytest.raises(DeploymentError, match=taken):
            await second.start()
    finally:
        await second.close()
        await first.close()
