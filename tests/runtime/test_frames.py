"""A real coordinator and real workers that are sent wrong frames: they go on, with the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import msgpack
import numpy as np
import pytest

from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import DrawnToken
from helix_df.runtime.wire import framing
from helix_df.runtime.wire import messages as m
from helix_df.runtime.wire.transport import LocalEndpoint, listen
from helix_df.runtime.worker import shell
from property_tests.mutated_frames import Mutator
from tests.runtime.tiny import answer, tiny_plan, tiny_request

PLACEMENT = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
Sent = list[tuple[str, list[bytes]]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Every frame that anybody in this process sends, with its address."""
    taken: Sent = []
    send = LocalEndpoint.send

    def take(self: LocalEndpoint, address: str, frames: framing.Frames, *, bulk: bool = False) -> None:
        taken.append((address, [bytes(frame) for frame in frames]))
        send(self, address, frames, bulk=bulk)

    monkeypatch.setattr(LocalEndpoint, "send", take)
    return taken


@pytest.fixture
async def job(sent: Sent) -> AsyncIterator[Coordinator]:
    coordinator = new_coordinator(tiny_plan(PLACEMENT), embedded=True)
    await coordinator.start()
    await coordinator.wait_ready(120)
    yield coordinator
    await coordinator.close()


def everywhere(job: Coordinator) -> list[str]:
    return [job.address, *(str(node.address) for node in job.snapshot().nodes)]


def inject(addresses: list[str], frames: list[list[bytes]]) -> None:
    """Send frames; they are read before what is sent behind them."""
    stranger = listen("local://*")
    for address in addresses:
        for one in frames:
            stranger.send(address, one)
    stranger.close()


@pytest.mark.parametrize("seed", range(3))
async def test_mutated_frames_change_no_answer(job: Coordinator, sent: Sent, seed: int) -> None:
    expected = [await answer(job, tiny_request(index, id=f"alone{index}")) for index in range(4)]
    recorded = [frames for _, frames in sent] + [[bytes(one) for one in framing.encode(m.Stop(), job.token)]]
    mutator = Mutator(recorded, job.token, seed)
    for turn in range(5):
        frames = [mutator.with_secret() for _ in range(60)] + [mutator.without_secret() for _ in range(60)]
        inject(everywhere(job), frames)
        async with asyncio.timeout(60):
            for index in range(4):
                assert await answer(job, tiny_request(index, id=f"turn{turn}-{index}")) == expected[index]
    status = job.snapshot()
    assert status.state == "ready"
    assert status.refused_frames["stranger"] > 100
    assert status.failed == 0


async def test_a_frame_with_the_right_secret_and_a_wrong_inside_is_refused(job: Coordinator, sent: Sent) -> None:
    expected = await answer(job, tiny_request(1, id="before"))
    a, b = (str(node.address) for node in job.snapshot().nodes)
    firsts = {}
    for address, frames in sent:
        for message in framing.decode_bundle(frames, job.token):
            if isinstance(message, m.Forward) and message.route is not None:
                firsts[address] = message
    first, second = firsts[a], firsts[b]
    hops = second.route.hops
    beyond = (hops[0], replace(hops[1], layers=LayerRange(2, 5)))
    wrong: list[tuple[str, m.Message]] = [
        (a, replace(first, request="g/1", tensor=np.zeros(0, np.int32))),
        (a, replace(first, request="g/1", tensor=np.array([10**6], np.int32))),
        (a, replace(first, request="g/1", tensor=np.array([-1], np.int32))),
        (a, replace(first, request="g/1", position=-7)),
        (a, replace(first, request="g/1", position=3)),
        (a, replace(first, request="g/1", route=replace(first.route, addresses=("tcp://10.9.9.9:1", b)))),
        (b, replace(second, request="g/1", tensor=np.zeros((1, 63), np.float32))),
        (b, replace(second, request="g/1", tensor=np.full((1, 64), np.nan, np.float32))),
        (b, replace(second, request="g/1", tensor=np.zeros((1, 64), np.float16))),
        (b, replace(second, request="g/1", route=replace(second.route, hops=beyond))),
        (a, replace(first, request="g/1", drafts=(1,))),
        (job.address, m.Sampled("before/1", 5, 10**6, None)),
        (job.address, m.Sampled("before/1", 5, 1, None, (DrawnToken(10**6),))),
        (job.address, m.Ready("a", 10**9)),
        (job.address, m.Ready("a", 16)),
        (job.address, m.Ready("nobody", 16)),
        (job.address, m.Failed("a", "somebody says so")),
        (job.address, m.Hello("c", "tcp://10.9.9.9:1", 1)),
        (job.address, m.Stop()),
    ]
    stranger = listen("local://*")
    for address, message in wrong:
        stranger.send(address, framing.encode(message, job.token))
    stranger.send(a, edited(first, job.token, ("route", "sampling", "temperature"), -1))
    stranger.send(job.address, edited(m.Ready("a", 16), job.token, ("kv_tokens",), "x"))
    stranger.send(a, [msgpack.packb([framing.VERSION, job.token, ["stop"], {}])])
    stranger.close()
    assert await answer(job, tiny_request(1, id="after")) == expected
    status = job.snapshot()
    assert status.state == "ready"
    assert status.refused_frames == {"untrue": 7, "unasked": 1, "field": 1}
    assert all(node.address in (a, b) for node in status.nodes)


def edited(message: m.Message, token: str, path: tuple[str, ...], value: object) -> framing.Frames:
    """The frames of a message with one leaf replaced."""
    head, *rest = framing.encode(message, token)
    whole = msgpack.unpackb(head)
    place = whole[3]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return [msgpack.packb(whole), *rest]


async def test_a_refused_message_of_a_running_request_has_it_tried_again(job: Coordinator, sent: Sent) -> None:
    expected = await answer(job, tiny_request(1, id="before", max_tokens=30))
    _, b = (str(node.address) for node in job.snapshot().nodes)
    stream = job.submit(tiny_request(1, id="live", max_tokens=30))
    events = [await anext(stream)]
    key = next(
        message.request
        for _, frames in reversed(sent)
        for message in framing.decode_bundle(frames, job.token)
        if isinstance(message, m.Sampled)
    )
    stranger = listen("local://*")
    stranger.send(b, framing.encode(m.Forward(key, 40, True, None, np.zeros((1, 63), np.float32)), job.token))
    stranger.close()
    events += [event async for event in stream]
    assert events == expected
    assert job.snapshot().failed == 0
    attempts = {
        message.request
        for _, frames in sent
        for message in framing.decode_bundle(frames, job.token)
        if isinstance(message, m.Sampled) and message.request.startswith("live/")
    }
    assert len(attempts) == 2


async def test_what_was_over_is_not_begun_again_by_the_same_frames(job: Coordinator, sent: Sent) -> None:
    """Frames that come twice leave no KV cache behind that nobody frees."""
    expected = await answer(job, tiny_request(1, id="before"))
    again = [(address, frames) for address, frames in sent if address != job.address]
    stranger = listen("local://*")
    for address, frames in again:
        stranger.send(address, frames)
    stranger.close()
    assert await answer(job, tiny_request(1, id="after")) == expected
    async with asyncio.timeout(30):
        while any(node.kv_held_tokens > node.kv_kept_tokens for node in job.snapshot().nodes):
            await job.changed()
    assert job.snapshot().state == "ready"


async def test_what_somebody_else_says_of_a_workers_life_is_not_believed(job: Coordinator, sent: Sent) -> None:
    """Nor is what the coordinator and the workers said once, when it comes again: a stream goes on where it runs."""
    expected = await answer(job, tiny_request(1, id="before", max_tokens=40))
    of_life = (m.Hello, m.Welcome, m.Ready, m.Loading, m.Heartbeat)
    again = [
        (address, frames)
        for address, frames in sent
        if isinstance(framing.decode_bundle(frames, job.token)[0], of_life) and address in everywhere(job)
    ]
    made_up: list[tuple[str, m.Message]] = []
    for node in job.snapshot().nodes:
        address = str(node.address)
        made_up += [(address, m.Stop()), (address, m.Stop(7)), (address, m.Failed(node.name, "no", 7))]
        made_up += [(job.address, m.Hello(node.name, address, 7)), (job.address, m.Failed(node.name, "broken", 7))]
    stream = job.submit(tiny_request(1, id="live", max_tokens=40))
    events = [await anext(stream)]
    stranger = listen("local://*")
    for address, frames in 3 * again:
        stranger.send(address, frames)
    for address, message in 3 * made_up:
        stranger.send(address, framing.encode(message, job.token))
    stranger.close()
    events += [event async for event in stream]
    assert events == expected
    attempts = {
        message.request
        for _, frames in sent
        for message in framing.decode_bundle(frames, job.token)
        if isinstance(message, m.Sampled) and message.request.startswith("live/")
    }
    assert len(attempts) == 1
    assert await answer(job, tiny_request(1, id="after", max_tokens=40)) == expected
    assert job.snapshot().state == "ready"


async def test_kv_cache_that_somebody_elses_requests_hold_comes_back(
    job: Coordinator, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that nobody runs make room, as soon as room is short and they have been idle for a while."""
    monkeypatch.setattr(shell, "IDLE_S", 0.0)
    expected = await answer(job, tiny_request(1, id="before"))
    a = str(job.snapshot().nodes[0].address)
    first = next(
        message
        for address, frames in sent
        for message in framing.decode_bundle(frames, job.token)
        if address == a and isinstance(message, m.Forward) and message.route is not None
    )
    tokens = np.zeros(200, np.int32)
    stranger = listen("local://*")
    for number in range(40):  # each holds 200 of the 4,096 tokens that there are, and never comes to a token
        ghost = replace(first, request=f"ghost{number}/1", tensor=tokens, wants_token=False)
        stranger.send(a, framing.encode(ghost, job.token))
    stranger.close()
    async with asyncio.timeout(60):
        assert await answer(job, tiny_request(1, id="after")) == expected
    assert job.snapshot().failed == 0


async def test_a_step_is_checked_by_what_came_before_it_in_the_same_bundle(job: Coordinator, sent: Sent) -> None:
    expected = await answer(job, tiny_request(1, id="before"))
    _, b = (str(node.address) for node in job.snapshot().nodes)
    second = next(
        message
        for address, frames in sent
        for message in framing.decode_bundle(frames, job.token)
        if address == b and isinstance(message, m.Forward) and message.route is not None
    )
    begun = replace(second, request="ghost/1", wants_token=False)
    after = len(begun.tensor)
    narrow = m.Forward("ghost/1", after, True, None, np.zeros((1, 63), np.float32))
    stranger = listen("local://*")
    stranger.send(b, framing.encode_bundle([begun, narrow], job.token))
    again = [replace(begun, request="ghost/2"), replace(narrow, request="ghost/2")]
    for message in again:
        stranger.send(b, framing.encode(message, job.token))
    stranger.close()
    assert await answer(job, tiny_request(1, id="after")) == expected
    assert job.snapshot().state == "ready"
