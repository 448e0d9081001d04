"""Traced requests through workers in this process, and when frames arrive for those that look only now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import pytest

from helix_df.layers import LayerRange
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.tracing.spans import TimedSpan
from helix_df.runtime.wire.timed import TimedEndpoint, TimedFrames
from helix_df.runtime.wire.transport import listen
from tests.runtime.tiny import answer, tiny_plan, tiny_request

THIRDS = {"a": LayerRange(0, 1), "b": LayerRange(1, 3), "c": LayerRange(3, 4)}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Told(list[tuple[str, TimedSpan]]):
    async def next(self) -> TimedSpan:
        async with asyncio.timeout(30):
            while not self:
                await asyncio.sleep(0.01)
        parent, span = self.pop(0)
        assert parent == TRACEPARENT
        return span


@pytest.fixture
async def job() -> AsyncIterator[tuple[Coordinator, Told]]:
    runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "traces": {}}
    coordinator, told = new_coordinator(tiny_plan(THIRDS, runtime=runtime), embedded=True), Told()
    coordinator.trace_to(lambda parent, span: told.append((parent, span)))
    await coordinator.start()
    await coordinator.wait_ready(120)
    yield coordinator, told
    await coordinator.close()


async def test_a_request_is_traced_through_every_hop_and_others_are_not(job: tuple[Coordinator, Told]) -> None:
    coordinator, told = job
    for index in (1, 7):
        alone = await answer(coordinator, tiny_request(index, max_tokens=40))
        began = time.monotonic()
        request = tiny_request(index, id=f"traced{index}", max_tokens=40, traceparent=TRACEPARENT)
        traced, others = await asyncio.gather(
            answer(coordinator, request),
            asyncio.gather(*(answer(coordinator, tiny_request(5, id=f"other{index}-{it}")) for it in range(3))),
        )
        took_s = time.monotonic() - began
        span = await told.next()
        assert not told
        assert traced == alone
        assert all(others)
        leaves = list(span.leaves())
        assert all(leaf.duration_s >= 0 for leaf in leaves)
        assert sum(leaf.duration_s for leaf in leaves) == pytest.approx(span.duration_s, rel=0.05)
        assert span.duration_s <= took_s
        names = ["link coordinator → a", "hop a", "link a → b", "hop b", "link b → c", "hop c", "link c → coordinator"]
        queue, attempt = span.children
        prefill, decode = attempt.children
        assert (queue.name, attempt.name) == ("queue", "attempt 1")
        assert [part.name for part in prefill.children] == names
        assert [part.name for part in decode.children] == ["coordinator", *names]
        hops = [part for part in decode.children if part.name.startswith("hop")]
        assert [(hop.attributes["helix_df.layers"], hop.attributes["helix_df.steps"]) for hop in hops] == [
            (str(layers), 39) for layers in THIRDS.values()
        ]
        computed = [float(str(hop.attributes["helix_df.hop.compute_s"])) for hop in hops]
        assert all(0 < one <= hop.duration_s + 1e-9 for one, hop in zip(computed, hops, strict=True))


async def test_each_link_takes_what_it_was_made_to_take() -> None:
    """Links of known latencies: what a trace says of each is that, though only their sum is measured by one clock."""
    ends = ["coordinator", *THIRDS, "coordinator"]
    latency_ms = dict(zip(pairwise(ends), (10, 60, 20, 40), strict=True))
    links = [
        {"between": list(pair), "bandwidth": "10Gbps", "latency": f"{latency}ms"}
        for pair, latency in latency_ms.items()
    ]
    coordinator = new_coordinator(
        tiny_plan(
            THIRDS,
            runtime={"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "traces": {}, "emulate": True},
            links={"default": {"bandwidth": "10Gbps", "latency": "1ms"}, "nodes": links},
        ),
        embedded=True,
    )
    told = Told()
    coordinator.trace_to(lambda parent, span: told.append((parent, span)))
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        async with asyncio.timeout(60):
            while any(coordinator._clock_ahead(node) is None for node in THIRDS) or warming(coordinator):
                await asyncio.sleep(0.05)
        await answer(coordinator, tiny_request(1, id="first", max_tokens=20))
        await answer(coordinator, tiny_request(1, max_tokens=20, traceparent=TRACEPARENT))
        span = await told.next()
        decode = span.children[1].children[1]
        found = {one.name: 1000 * one.duration_s / 19 for one in decode.children if one.name.startswith("link")}
        for (tail, head), latency in latency_ms.items():
            assert latency - 3 <= found[f"link {tail} → {head}"] <= latency + 15, found
    finally:
        await coordinator.close()


def warming(coordinator: Coordinator) -> bool:
    return any(node.cold_shapes for node in coordinator.snapshot().nodes)


async def test_one_that_nobody_wants_any_more_is_told_so(job: tuple[Coordinator, Told]) -> None:
    coordinator, told = job
    stream = coordinator.submit(tiny_request(2, max_tokens=200, traceparent=TRACEPARENT))
    async for _ in stream:
        break
    await stream.aclose()
    span = await told.next()
    assert (span.error, span.attributes["helix_df.cancelled"]) == (None, True)
    assert span.children[-1].attributes["helix_df.attempt.end"] == "cancel"


async def test_what_is_under_way_at_the_end_is_told_as_it_is(job: tuple[Coordinator, Told]) -> None:
    coordinator, told = job
    stream = coordinator.submit(tiny_request(2, max_tokens=200, traceparent=TRACEPARENT))
    await anext(stream)
    await coordinator.close()
    span = await told.next()
    assert span.error is not None
    await stream.aclose()


async def test_one_that_is_refused_is_told_with_its_reason(job: tuple[Coordinator, Told]) -> None:
    coordinator, told = job
    request = replace(tiny_request(2, traceparent=TRACEPARENT), max_tokens=100_000)
    with pytest.raises(Exception, match="token"):
        await answer(coordinator, request)
    span = await told.next()
    assert span.error
    assert [part.name for part in span.children] == ["queue"]


def test_frames_are_timed_when_they_arrive_not_when_they_are_taken() -> None:
    receiver, sender = TimedEndpoint(listen("tcp://127.0.0.1:*")), listen("tcp://127.0.0.1:*")
    try:
        began = time.monotonic()
        for number in range(3):
            sender.send(receiver.address, [b"%d" % number])
        taken: list[TimedFrames] = []
        deadline = began + 30
        while len(taken) < 3:
            assert time.monotonic() < deadline
            taken += receiver.receive(0.5)  # type: ignore[arg-type]
        assert [bytes(frames[0]) for frames in taken] == [b"0", b"1", b"2"]
        assert all(began <= frames.arrived_s <= time.monotonic() for frames in taken)
        sender.send(receiver.address, [b"3"])
        arrived = receiver._arrived
        while arrived.empty():
            assert time.monotonic() < deadline
        looked = time.monotonic()
        ((late,),) = (receiver.receive(0.0),)
        assert late.arrived_s <= looked  # type: ignore[attr-defined]
        assert receiver.receive(0.0) == []
        assert receiver.receive(0.01) == []
        receiver.wake()
        assert receiver.receive(30) == []
        assert receiver.refused_connections == 0
        assert receiver.unreachable() == frozenset()
    finally:
        receiver.close()
        sender.close()


def test_what_a_receiver_doesnt_take_waits_and_isnt_lost() -> None:
    receiver, sender = TimedEndpoint(listen("local://*")), listen("local://*")
    for number in range(3000):
        sender.send(receiver.address, [b"%d" % number])
    taken: list[bytes] = []
    deadline = time.monotonic() + 60
    while len(taken) < 3000:
        assert time.monotonic() < deadline
        taken += [bytes(frames[0]) for frames in receiver.receive(0.5)]
    assert taken == [b"%d" % number for number in range(3000)]
    receiver.close()
    sender.close()
