"""Strangers, and jobs that would go beyond this machine in the clear."""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import replace
from typing import Any

import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.jobs.job_keys import new_keys
from helix_df.runtime.jobs.launchers.external import ExternalLauncher
from helix_df.runtime.wire.framing import decode_bundle, encode
from helix_df.runtime.wire.messages import Heartbeat, Hello, Ready, Send, Stop, Welcome
from helix_df.runtime.wire.transport import Endpoint, endpoint_keys, listen
from helix_df.runtime.worker.build import build_engine
from helix_df.runtime.worker.shell import FIRST_WORRY_S, Silence, Worker
from tests.runtime.tiny import tiny_plan

ONE = {"only": LayerRange(0, 4)}
EXTERNAL = {"only": {"gpu": "toy", "launcher": "external"}}


def plan_at(address: str, **runtime: object):
    return tiny_plan(ONE, nodes=EXTERNAL, coordinator={"address": address}, runtime={"port": 0, **runtime})


async def test_a_coordinator_never_listens_beyond_this_machine_in_the_clear() -> None:
    launcher = ExternalLauncher(new_keys())
    coordinator = Coordinator(plan_at("0.0.0.0"), lambda _node: launcher)
    with pytest.raises(DeploymentError, match=r"runtime\.encryption"):
        await coordinator.start()


@pytest.mark.parametrize(
    ("runtime", "scheme"), [({}, "curve"), ({"encryption": "never", "trust_network": True}, "tcp")], ids=str
)
async def test_beyond_this_machine_it_is_encrypted_unless_the_job_trusts_the_network(runtime, scheme) -> None:
    coordinator = new_coordinator(plan_at("0.0.0.0", **runtime))
    await coordinator.start()
    try:
        assert coordinator.address.startswith(f"{scheme}://")
        (node,) = coordinator.snapshot().nodes
        assert f"--join {scheme}://0.0.0.0:" in node.join_command
        assert f"{scheme}://0.0.0.0:*" in node.join_command
    finally:
        await coordinator.close()


async def test_a_greeting_without_the_keys_is_not_heard_and_one_with_them_is() -> None:
    coordinator = new_coordinator(plan_at("127.0.0.1", encryption="always"))
    await coordinator.start()
    stranger = listen("curve://127.0.0.1:*", keys=endpoint_keys(None, "another secret"))
    friend = listen("curve://127.0.0.1:*", keys=endpoint_keys(None, coordinator.token))
    try:
        # Even with the secret in its message: without the keys that follow from it, nobody reads that.
        stranger.send(coordinator.address, encode(Hello("only", stranger.address, 5), coordinator.token))
        while not coordinator.snapshot().refused_frames.get("connection"):
            assert stranger.receive(0.05) == []
        assert coordinator.snapshot().nodes[0].state == "waiting"
        friend.send(coordinator.address, encode(Hello("only", friend.address, 5), coordinator.token))
        while coordinator.snapshot().nodes[0].state == "waiting":
            await coordinator.changed()
        assert coordinator.snapshot().nodes[0].address == friend.address
        assert set(coordinator.snapshot().refused_frames) == {"connection"}
    finally:
        stranger.close()
        friend.close()
        await coordinator.close()


def test_a_worker_that_is_not_answered_says_what_may_be_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        address = f"curve://{'ab' * 32}@127.0.0.1:{somebody.getsockname()[1]}"
        silence = Silence(address, 100.0)
        with caplog.at_level(logging.WARNING):
            silence.tell(100.0 + FIRST_WORRY_S / 2)
            assert not caplog.records
            silence.tell(100.0 + FIRST_WORRY_S)
            silence.tell(100.0 + FIRST_WORRY_S + 1)
    (told,) = caplog.messages
    assert "ab" * 32 not in told
    assert "with other keys" in told
    caplog.clear()
    silence.tell(1000.0)
    assert "can't be reached" in caplog.messages[0]


def heard(endpoint: Endpoint, kind: type) -> Any:
    """The next message of a kind; others are passed over."""
    for _ in range(600):
        for frames in endpoint.receive(0.1):
            for message in decode_bundle(frames, "t"):
                if isinstance(message, kind):
                    return message
    raise AssertionError(f"no {kind.__name__} came")


@pytest.mark.parametrize("change", ["nothing", "layers", "model", "kv_tokens", "max_batch"])
def test_a_worker_that_has_loaded_something_else_than_is_wanted_now_ends(change: str) -> None:
    coordinator, endpoint = listen("local://*"), listen("local://*")
    plan = tiny_plan(ONE)
    job = plan.served.model_dump(mode="json", exclude_none=True)
    welcome = Welcome("only", LayerRange(0, 4), 4, 4096, job)
    others = {
        "nothing": welcome,
        "layers": replace(welcome, layers=LayerRange(0, 2)),
        "model": replace(welcome, job=job | {"model": job["model"] | {"seed": 7}}),
        "kv_tokens": replace(welcome, kv_tokens=2048),
        "max_batch": replace(welcome, job=job | {"runtime": job["runtime"] | {"max_batch": 2}}),
    }
    ended: list[str] = []

    def run() -> None:
        try:
            Worker("only", endpoint, coordinator.address, "t", build_engine).run()
        except DeploymentError as error:
            ended.append(str(error))

    at = endpoint.address
    thread = threading.Thread(target=run)
    thread.start()
    life = heard(coordinator, Hello).life
    coordinator.send(at, encode(replace(welcome, life=life), "t"))
    heard(coordinator, Ready)
    coordinator.send(at, encode(replace(welcome, life=life), "t"))
    life = heard(coordinator, Hello).life
    coordinator.send(at, encode(replace(others[change], life=life), "t"))
    if change == "nothing":
        assert heard(coordinator, Ready).kv_tokens == 4096
        coordinator.send(at, encode(Stop(life), "t"))
    thread.join(60)
    assert not thread.is_alive()
    coordinator.close()
    assert [("loaded something else" in words) for words in ended] == [True] * (change != "nothing")


def test_a_worker_that_was_lost_is_reached_over_new_connections() -> None:
    plan = tiny_plan(ONE)
    nodes = CoordinatorState(plan, 256).nodes_state
    hello = Hello("only", "tcp://127.0.0.1:7", 5)

    def told(actions: list[Any]) -> list[tuple[str, str]]:
        return [(action.address, action.message.TAG) for action in actions if isinstance(action, Send)]

    nodes.on_hello(hello, 0.0)
    nodes.on_progress(Ready("only", 4096), 1.0)
    assert nodes.address("only") == hello.address
    nodes.tick(100.0)
    assert told(nodes.on_progress(Heartbeat("only"), 101.0)) == [(f"{hello.address}~1", "welcome")]
    assert told(nodes.on_hello(replace(hello, life=6), 102.0)) == [(f"{hello.address}~1", "welcome")]
    nodes.on_progress(Ready("only", 4096), 103.0)
    assert nodes.address("only") == f"{hello.address}~1"
    elsewhere = replace(hello, address="tcp://127.0.0.1:8", life=7)
    assert told(nodes.on_hello(elsewhere, 104.0)) == [("tcp://127.0.0.1:8", "failed")]
    nodes.tick(300.0)
    assert told(nodes.on_hello(elsewhere, 301.0)) == [("tcp://127.0.0.1:8", "welcome")]
