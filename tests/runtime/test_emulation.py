"""A cluster on one machine: links and speeds as declared, and answers that don't care."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from helix_df.graph.problem import COORDINATOR, LinkTable
from helix_df.graph.problem import Link as Quality
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.profiles.timing import LayerTiming
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import NEW_ENGINE, EngineHealth, TokenEvent
from helix_df.runtime.wire.emulation import EmulatedEndpoint
from helix_df.runtime.wire.framing import encode
from helix_df.runtime.wire.messages import Forward
from helix_df.runtime.wire.pacing import Lane
from helix_df.runtime.wire.transport import listen
from helix_df.runtime.worker.paced_engine import BatchSeconds, Pace, PacedEngine, as_profiled, slowed
from helix_df.runtime.worker.steps import Step, StepResult
from helix_df.simulator import Trace, TraceRequest, options_of, setup_of
from helix_df.simulator.kernel.batches import begin_batch
from helix_df.simulator.kernel.runs import add_step, new_run, put_in_inbox
from helix_df.simulator.options import MESSAGE_BYTES
from helix_df.simulator.simulation import Course, Simulation
from tests.runtime.test_transport import SCHEMES, open_at, take
from tests.runtime.tiny import answer, tiny_plan, tiny_request

AN_HOUR = 3600.0


def links(**found: Quality) -> LinkTable:
    regions = dict.fromkeys(["a", "b", "c", COORDINATOR], "here")
    return LinkTable(regions, by_node=LinkTable.symmetric((COORDINATOR, name, link) for name, link in found.items()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_slow_link_keeps_its_order_and_holds_up_nobody_else(scheme: str) -> None:
    slow, quick, free = open_at(scheme), open_at(scheme), open_at(scheme)
    here = EmulatedEndpoint(open_at(scheme), COORDINATOR, links(a=Quality(1.0, AN_HOUR), b=Quality(1e9, 1e-3)))
    for name, peer in (("a", slow), ("b", quick), ("c", free)):
        here.place(name, peer.address)
    for index in range(20):
        for peer in (slow, quick, free):
            here.send(peer.address, [b"%d" % index, b"x" * 1000])
    expected = [b"%d" % index for index in range(20)]
    for peer in (quick, free):
        assert [frames[0] for frames in take(peer, 20)] == expected
    assert slow.receive(0.0) == []
    assert {name: lane.messages for name, lane in here.traffic.items()} == {"a": 20, "b": 20}
    assert here.traffic["a"].bytes == sum(len(text) + 1000 for text in expected)
    here.close()  # what is under way arrives at once
    assert [frames[0] for frames in take(slow, 20)] == expected
    for peer in (slow, quick, free):
        peer.close()


def test_a_direction_has_its_own_link() -> None:
    table = LinkTable(
        {"a": "here", COORDINATOR: "here"}, Quality(1e9, 0.0), by_node={("a", COORDINATOR): Quality(1.0, AN_HOUR)}
    )
    one, other = open_at("local://*"), open_at("local://*")
    head = EmulatedEndpoint(one, COORDINATOR, table)
    node = EmulatedEndpoint(other, "a", table)
    head.place("a", node.address)
    node.place(COORDINATOR, head.address)
    head.send(node.address, [b"down"])
    node.send(head.address, [b"up"])
    assert take(other, 1) == [[b"down"]]
    assert one.receive(0.0) == []
    assert node.traffic[COORDINATOR].busy_s == 2.0
    node.close()
    assert [bytes(frames[0]) for frames in take(one, 1)] == [b"up"]
    head.close()


@pytest.mark.parametrize("latency_s", [0.0, 2.0, 20.0])
def test_a_link_that_changes_lets_nothing_overtake(latency_s: float) -> None:
    lane = Lane(bytes_per_s=100.0, latency_s=5.0)
    before = lane.carry(200, 0.0)
    assert before == 7.0
    lane.become(bytes_per_s=1000.0, latency_s=latency_s)
    after = lane.carry(100, 1.0)
    assert after == max(2.0 + latency_s, 7.0) + 0.1


def test_links_change_while_messages_are_under_way() -> None:
    peers = {name: open_at("local://*") for name in "abc"}
    here = EmulatedEndpoint(open_at("local://*"), COORDINATOR, links(a=Quality(1e9, AN_HOUR), b=Quality(1e9, AN_HOUR)))
    for name, peer in peers.items():
        here.place(name, peer.address)
    gone = LinkTable({"a": "here", COORDINATOR: "here"}, default=Quality(1e9, 0.0))
    here.send(peers["a"].address, [b"first"])
    here.become(gone)
    for peer in peers.values():
        here.send(peer.address, [b"second"])
    for name in "bc":  # they are of no plan any more, so nothing holds up what is said to them
        assert take(peers[name], 1) == [[b"second"]]
    assert peers["a"].receive(0.0) == [], "the first is an hour away, and nothing overtakes it"
    here.close()
    assert [bytes(frames[0]) for frames in take(peers["a"], 2)] == [b"first", b"second"]
    for peer in peers.values():
        peer.close()


def test_a_link_is_one_link_wherever_its_node_listens() -> None:
    before, after = listen("local://*"), listen("local://*")
    here = EmulatedEndpoint(listen("local://*"), COORDINATOR, links(a=Quality(1.0, AN_HOUR)))
    here.place("a", before.address)
    here.send(before.address, [b"x" * 10])
    here.place("a", after.address)
    here.send(after.address, [b"y" * 10])
    assert here.traffic["a"].busy_s == 20.0
    here.close()
    before.close()
    after.close()


def test_a_rest_makes_the_work_as_long_as_planned() -> None:
    pace = Pace()
    assert pace.rest_s(planned_s=4.0, wall_s=1.0) == 3.0
    pace.rested(3.5)  # half a second too long, which the next rest makes good
    assert pace.rest_s(planned_s=4.0, wall_s=1.0) == 2.5
    pace.rested(2.5)
    # Held up by others: 2 s have passed, so only 2 s are left of 4.
    assert pace.rest_s(planned_s=4.0, wall_s=2.0) == 2.0


def test_a_long_hold_up_is_not_made_good_for_ever() -> None:
    pace = Pace()
    assert pace.rest_s(planned_s=2.0, wall_s=100.0) == 0.0
    assert pace.rest_s(planned_s=2.0, wall_s=1.0) == 0.0
    assert pace.rest_s(planned_s=2.0, wall_s=1.0) == 0.0
    assert pace.rest_s(planned_s=2.0, wall_s=1.0) == 1.0


@dataclass
class Clocks:
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.wall_s += seconds


@dataclass
class FakeEngine:
    """Takes one second of the core and two on the wall for each batch; the first compiles for a hundred."""

    clocks: Clocks
    kv_tokens: int = 64
    health: EngineHealth = NEW_ENGINE
    compilations: int = 0
    released: list[str] = field(default_factory=list)

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        first, self.compilations = self.compilations == 0, 1
        self.clocks.cpu_s += 100 if first else 1
        self.clocks.wall_s += 100 if first else 2
        return []

    def release(self, request: str) -> None:
        self.released.append(request)

    def fork(self, parent: str, child: str, tokens: int) -> None:
        raise NotImplementedError

    def trim(self, request: str, tokens: int) -> None:
        raise NotImplementedError

    def warm_up(self) -> Iterator[object]:
        return iter(())

    def compile_next(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(("on_cpu", "seconds"), [(True, 4.0), (False, 8.0)])
def test_a_slowed_engine_counts_what_it_worked_but_not_compiling(on_cpu: bool, seconds: float) -> None:
    clocks = Clocks()
    engine = paced(clocks, slowed(0.25, on_cpu=on_cpu))
    engine.run(())
    assert clocks.wall_s == 100.0
    for _ in range(5):
        engine.run(())
    assert clocks.wall_s == pytest.approx(100 + 5 * seconds)


def paced(clocks: Clocks, planned_s: BatchSeconds) -> PacedEngine:
    return PacedEngine(
        FakeEngine(clocks), planned_s, wall=lambda: clocks.wall_s, cpu=lambda: clocks.cpu_s, sleep=clocks.sleep
    )


TIMING = LayerTiming(prefill=((0.0, 1.0), (16.0, 1.0), (32.0, 3.0)), decode=((0.0, 2.0), (1.0, 2.0), (3.0, 4.0)))


def step(request: str, layers: LayerRange, tokens: int) -> Step:
    if layers.start == 0:
        return Step(request, layers, 0, tokens=np.zeros(tokens, np.int32))
    return Step(request, layers, 0, hidden=np.zeros((tokens, 4), np.float32))


def test_a_profiled_engine_takes_what_the_profile_says_of_just_that_batch() -> None:
    clocks = Clocks()
    engine = paced(clocks, as_profiled(TIMING.stretched(2)))
    engine.run(())  # compiles
    all_layers, some = LayerRange(0, 3), LayerRange(1, 3)
    batches = {
        (step("a", all_layers, 1),): 2 * 3 * 2.0,
        (step("a", all_layers, 1), step("b", all_layers, 1), step("c", all_layers, 1)): 2 * 3 * 4.0,
        (step("a", all_layers, 1), step("b", some, 1)): 2 * (3 * 2.0 + 2 * 2.0),
        # A piece rides with decode steps of the same layers, and takes what 17 tokens take beyond 1; others run alone.
        (step("a", all_layers, 1), step("b", some, 24), step("c", all_layers, 16)): 2 * (3 * 2.125 + 2 * 2.0),
        (step("a", all_layers, 1), step("b", all_layers, 8), step("c", all_layers, 16)): 2 * 3 * (2.125 + 1.0),
    }
    for batch, seconds in batches.items():
        before = clocks.wall_s
        engine.run(batch)
        assert clocks.wall_s - before == pytest.approx(seconds)


def test_workers_and_the_simulator_time_a_batch_alike() -> None:
    """A stage that requests enter at two layers, with everything at once in its queues."""
    placement = {"a": LayerRange(0, 1), "b": LayerRange(0, 2), "c": LayerRange(1, 4)}
    gpus = {"toy": {"memory": "1GiB", "profile": {"prefill_ms": [[16, 1.0], [32, 3.0]], "decode_ms": [[1, 2], [3, 4]]}}}
    nodes = {name: {"gpu": "toy", "speed": 0.5} for name in placement}
    plan = tiny_plan(placement, gpus=gpus, nodes=nodes, runtime={"max_batch": 8, "max_prefill_tokens": 64})
    setup = setup_of(plan)
    # What waits is put there by hand, without the requests that messages would be about.
    options = options_of(plan.served, scheduler="random", bundles=False)
    run = Simulation(setup, Course(Trace("one", (TraceRequest(0.0, 9, 9, 9),)), options))
    fixed, state, rules = run.fixed, run.state, run.rules
    number = [one.name for one in setup.stages].index("c")
    steps = []
    for at, (tail, prompt) in enumerate([("a", 0), ("a", 0), ("b", 0), ("a", 20), ("b", 30)]):
        made = new_run(state)
        row = state.runs[made]
        row.link = next(at for at, link in enumerate(run.network.links) if (link.tail, link.head) == (tail, "c"))
        row.order, row.first, row.tokens = at, at, prompt
        if not prompt:
            add_step(state, made, at)
        put_in_inbox(state, number, made)
        steps.append(step(str(at), LayerRange(placement[tail].stop, 4), prompt or 1))
    end, refused = begin_batch(fixed, state, rules, number)
    assert not refused
    assert as_profiled(setup.stages[number].timing)(steps, 0.0, 0.0) == pytest.approx(end)


def test_the_simulator_counts_headers_as_large_as_they_are() -> None:
    """Of a request that came through the API, between two workers."""
    hidden = np.zeros((1, 576), np.float32)
    message = Forward("cmpl-" + 32 * "0" + "-0/1", 40, True, None, hidden)
    size = sum(memoryview(frame).nbytes for frame in encode(message, 32 * "0"))
    assert size - hidden.nbytes == pytest.approx(MESSAGE_BYTES, abs=10)


async def answers_of(codec: str, *, emulate: bool) -> list[list[TokenEvent]]:
    placement = {"fast": LayerRange(0, 2), "slow": LayerRange(2, 4)}
    plan = tiny_plan(
        placement,
        nodes={"fast": {"gpu": "toy"}, "slow": {"gpu": "toy", "speed": 0.5}},
        links={
            "default": {"bandwidth": "100Mbps", "latency": "1ms"},
            "nodes": [{"between": ["fast", "slow"], "bandwidth": "10Mbps", "latency": "2ms", "codec": codec}],
        },
        runtime={"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "emulate": emulate},
    )
    coordinator = new_coordinator(plan, embedded=True)
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        requests = [tiny_request(index, max_tokens=8) for index in range(1, 7)]
        found = list(await asyncio.gather(*(answer(coordinator, request) for request in requests)))
        assert all(node.kv_used_tokens == 0 for node in coordinator.snapshot().nodes)
        return found
    finally:
        await coordinator.close()


async def test_an_emulated_cluster_answers_as_a_plain_one() -> None:
    assert await answers_of("none", emulate=True) == await answers_of("none", emulate=False)


async def test_an_emulated_cluster_is_changed_while_it_serves() -> None:
    """Another plan, other links: workers that stay hold messages back as the new job says."""
    runtime = {"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "emulate": True}

    def plan(placement: dict[str, LayerRange], latency: str) -> Plan:
        return tiny_plan(
            placement,
            nodes={name: {"gpu": "toy"} for name in placement},
            links={"default": {"bandwidth": "100Mbps", "latency": latency}},
            runtime=runtime,
        )

    coordinator = new_coordinator(plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4)}, "1ms"), embedded=True)
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        expected = await answer(coordinator, tiny_request(1, max_tokens=8))
        later = {"a": LayerRange(0, 1), "b": LayerRange(2, 4), "c": LayerRange(1, 2)}
        coordinator.begin_change(plan(later, "50ms"))
        during = await answer(coordinator, tiny_request(1, id="during", max_tokens=8))
        await coordinator.until_changed()
        began_s = time.monotonic()
        after = await answer(coordinator, tiny_request(1, id="after", max_tokens=8))
        took_s = time.monotonic() - began_s
        serving = {node.name for node in coordinator.snapshot().nodes if node.role == "serving"}
    finally:
        await coordinator.close()
    assert serving == {"a.2", "b", "c"}
    assert expected == during == after
    assert took_s >= 8 * 4 * 50e-3, "each of eight tokens crosses four links, b's among them"


@pytest.mark.parametrize("codec", ["bfloat16", "int8"])
async def test_every_request_is_answered_over_a_link_with_a_codec(codec: str) -> None:
    found = await answers_of(codec, emulate=False)
    assert [len(events) for events in found] == [8] * 6
    # Emulation paces the same bytes, so it changes nothing about them.
    assert await answers_of(codec, emulate=True) == found


async def test_a_worker_keeps_to_its_profile() -> None:
    """It tells what it timed of itself: never less than the profile says, whatever this machine does."""
    placement = {"fast": LayerRange(0, 2), "slow": LayerRange(2, 4)}
    plan = tiny_plan(
        placement,
        gpus={"toy": {"memory": "1GiB", "profile": {"prefill_ms": [[16, 3.0]], "decode_ms": [[1, 2.0]]}}},
        nodes={"fast": {"gpu": "toy"}, "slow": {"gpu": "toy", "speed": 0.5}},
        runtime={"max_batch": 4, "max_prefill_tokens": 16, "port": 0, "emulate": True},
    )
    coordinator = new_coordinator(plan, embedded=True)
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        assert len(await answer(coordinator, tiny_request(1, max_tokens=3))) == 3
        speeds = {node.name: node.speed for node in coordinator.snapshot().nodes}
    finally:
        await coordinator.close()
    for name, factor in (("fast", 1), ("slow", 2)):
        speed = speeds[name]
        assert speed is not None
        assert speed.prefill_s >= factor * 2 * 3e-3
        assert speed.decode_s >= factor * 2 * 2e-3
