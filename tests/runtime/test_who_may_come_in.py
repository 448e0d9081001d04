"""Strangers, and jobs that would go beyond this machine in the clear."""

from __future__ import annotations

import logging
import socket

import pytest

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.jobs.job_keys import new_keys
from helix_df.runtime.jobs.launchers.external import ExternalLauncher
from helix_df.runtime.wire.messages import Hello, encode
from helix_df.runtime.wire.transport import endpoint_keys, listen
from helix_df.runtime.worker.shell import FIRST_WORRY_S, Silence
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
