"""Logs of events: bounded, private, versioned, read back, replayed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from helix_df.errors import ProtocolError
from helix_df.layers import LayerRange
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.replay import replay
from helix_df.runtime.requests import TopLogprobs
from helix_df.runtime.wire import event_log
from helix_df.runtime.wire.event_log import EventLog, older, read_events
from helix_df.runtime.wire.framing import pack_values, unpack_values
from helix_df.runtime.wire.messages import Forward, Sampled
from helix_df.runtime.worker.recorded import RecordedWorker
from helix_df.runtime.worker.state import WorkerState
from property_tests.runtime_world import World, toy_plan
from tests.runtime.tiny import answer, tiny_plan, tiny_request


def test_what_is_taken_down_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.events"
    log = EventLog("worker", {"node": "a"}, path, clock_s=5.0)
    log.append(6.5, "release", "r/1", 4)
    log.append(7.0, "batch", "r/1", "s/2")
    found = log.read()
    assert (found.role, found.machine, found.clock_s, found.is_whole) == ("worker", {"node": "a"}, 5.0, True)
    assert [(e.number, e.at_s, e.name, e.values) for e in found.events] == [
        (0, 6.5, "release", ("r/1", 4)),
        (1, 7.0, "batch", ("r/1", "s/2")),
    ]
    log.close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    path.write_bytes(path.read_bytes()[:-3])  # as when the process was killed
    assert [event.name for event in read_events(path).events] == ["release"]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(("bounds", "most"), [({"most_events": 100}, 100), ({"most_bytes": 4000}, 400)])
def test_a_log_drops_its_oldest_events_and_can_not_be_replayed_then(tmp_path, on_disk, bounds, most) -> None:
    path = tmp_path / "a.events" if on_disk else None
    log = EventLog("worker", {}, path, **bounds)
    for number in range(1000):
        log.append(float(number), "forget_all")
    found = log.read()
    assert most // 4 <= len(found.events) <= most
    assert [event.at_s for event in found.events] == [float(event.number) for event in found.events]
    assert found.events[-1].number == 999
    with pytest.raises(ProtocolError, match="beginning is gone"):
        replay(found)
    if path is not None:
        assert path.stat().st_size + older(path).stat().st_size < 12_000


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.events"
    with monkeypatch.context() as patch:
        patch.setattr(event_log, "VERSION", 2)
        EventLog("worker", {}, path).close()
    with pytest.raises(ProtocolError, match=r"another format(.|\n)*found:\s+2(.|\n)*expected:\s+1"):
        read_events(path)
    for junk in (b"", b"not a log", msgpack.packb([1, 2])):
        path.write_bytes(junk)
        with pytest.raises(ProtocolError, match="not a log of events"):
            read_events(path)


def test_a_full_disk_ends_the_log_and_not_the_job(caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog("worker", {}, Path("/dev/full"), most_events=10**6)
    for number in range(100_000):
        log.append(float(number), "forget_all")
    assert [record.message for record in caplog.records] == [
        "no events are logged any more: [Errno 28] No space left on device"
    ]


def test_messages_survive_as_values() -> None:
    message = Sampled("r/1", 7, 3, TopLogprobs(-0.5, ((3, -0.5), (4, -1.0))))
    packed = msgpack.unpackb(msgpack.packb(pack_values(message)), raw=False)
    assert unpack_values("sampled", packed) == message


def test_a_log_in_memory_says_what_a_worker_was_told_without_the_numbers_of_hidden_states() -> None:
    world = World(toy_plan({"a": LayerRange(0, 2)}, 2, 64))
    world.submit((1, 2, 3), 2)
    first = Forward("r/1", 0, True, None, np.ones((3, 64), np.float32), "int8")
    recorded = RecordedWorker(WorkerState("b", "home", 4, 4, 8), lambda: 1.0)
    recorded.on_forward(first)
    (event,) = recorded.events.read().events
    assert (event.name, event.values) == ("forward", ("r/1", 0, True, None, ["float32", None, 3, 64], "int8", []))


def test_a_run_with_a_killed_worker_and_cancelled_requests_replays_to_the_same_actions() -> None:
    placement = {"a": LayerRange(0, 3), "b": LayerRange(0, 3), "c": LayerRange(3, 6), "d": LayerRange(3, 6)}
    world = World(toy_plan(placement, 6, 120, max_queue=20, max_prefill_tokens=16))
    names = [world.submit(tuple(range(length)), 9) for length in (5, 17, 33, 8, 21, 4)]
    for _ in range(3):
        for wire in world.busy_wires():
            world.deliver(wire)
        for address in sorted(world.workers):
            world.compute(address)
    world.cancel(names[1])
    world.kill("c")
    world.cancel(names[4])
    world.settle()
    world.join("c")
    world.submit(tuple(range(9)), 5)
    world.settle()
    assert len(world.outcomes) > 60
    assert sum(len(actions) for actions in world.outcomes if isinstance(actions, list)) > 100
    world.replay()
    world.outcomes[20] = []
    with pytest.raises(AssertionError):
        world.replay()


async def test_the_log_of_a_real_job_replays_to_its_status(tmp_path: Path) -> None:
    coordinator = new_coordinator(tiny_plan(), embedded=True, log_dir=tmp_path)
    await coordinator.start()
    await coordinator.wait_ready(120)
    stream = coordinator.submit(tiny_request(1, max_tokens=200))
    await anext(stream)
    await stream.aclose()
    await answer(coordinator, tiny_request(2))
    status = coordinator._state.snapshot()
    at_end: Any = replay(coordinator.events.read()).state
    assert at_end.snapshot() == status
    await coordinator.close()
    for node in ("front", "early", "late", "back"):
        again = replay(tmp_path / f"{node}.events")
        assert cast(WorkerState, again.state).requests == 0
        assert again.steps


async def test_a_job_that_does_not_want_a_log_has_none(tmp_path: Path) -> None:
    runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "event_log": False}
    coordinator = new_coordinator(tiny_plan(runtime=runtime), embedded=True, log_dir=tmp_path)
    await coordinator.start()
    await coordinator.wait_ready(120)
    await answer(coordinator, tiny_request(2))
    assert coordinator.events.read().events == ()
    await coordinator.close()
    assert list(tmp_path.iterdir()) == []
