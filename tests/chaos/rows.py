"""What is done to a job, as data: each row is a name and an act. A new row is a function here and a line in ``ROWS``.

An act returns the time (s, monotonic) at which its blow fell; it may go on after that. What comes of it is measured by
whoever runs the row (``tests.chaos.__main__``).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from helix_df.runtime.requests import GenerationRequest
from tests.chaos.scene import REPLICATED, Scene, scene_plan
from tests.runtime.tiny import answer, tiny_request

CHANGED = {**REPLICATED, "a1": LayerRange(0, 2), "b1": LayerRange(2, 3)}
"""Other layers on two of the six, and each still on two."""

LONG = 24
"""Long prompts that come at once, and the number of the first of their streams."""

LONG_FROM = 1000

AFTER_S = 3.0
"""So long streams go on once all is over."""


@dataclass(frozen=True, slots=True)
class Row:
    """``tells`` as for ``HostLauncher``, ``faults`` as for ``scene``; ``runtime`` is what its job says so.

    What has no act is done to the coordinator (``tests.chaos.supervised``).
    """

    name: str
    words: str
    act: Callable[[Scene], Awaitable[float]] | None
    tells: bool = True
    faults: str | None = None
    runtime: Mapping[str, object] = field(default_factory=dict)


async def _nothing(_scene: Scene) -> float:
    return time.monotonic()


def _kill(*nodes: str) -> Callable[[Scene], Awaitable[float]]:
    async def act(scene: Scene) -> float:
        for node in nodes:
            scene.launcher.signal(node, signal.SIGKILL)
        at = time.monotonic()
        await _healed(scene)
        return at

    return act


async def _kill_in_prefill(scene: Scene) -> float:
    """A worker is killed that has computed the first of many long prompts, which come in pieces, and is at the next."""
    longs = [_long_request(number) for number in range(LONG)]
    expected = await asyncio.gather(*(answer(scene.coordinator, request) for request in longs))
    longs = [replace(request, id=f"{request.id}-again") for request in longs]
    asked = [asyncio.create_task(scene.ask(request, LONG_FROM + n)) for n, request in enumerate(longs)]
    held = scene.coordinator._state.requests_state.requests
    names = [request.id for request in longs]

    def begun(on: str) -> dict[str, str]:
        """Attempts at long requests which a worker is to compute, or does, and that have no token yet."""
        requests = [held[name] for name in names if name in held and not held[name].generated]
        return {one.asked.id: one.key for one in requests if any(hop.node == on for hop in one.pipeline or ())}

    async with asyncio.timeout(120):
        while len(before := begun("b1")) < 3:
            await scene.coordinator.changed()
        while not 2 <= len(now := begun("b1")) < len(before):
            before |= now
            await scene.coordinator.changed()
    scene.launcher.signal("b1", signal.SIGKILL)
    at = time.monotonic()
    await _reaches(scene, "degraded")
    began_again = [name for name, key in now.items() if name in held and held[name].key != key]
    assert began_again, "it was in no prompt when it was killed"
    answers = await asyncio.gather(*asked)
    await _reaches(scene, "ready")
    scene.seen.compare(answers, expected)
    return at


def _long_request(number: int) -> GenerationRequest:
    """Of four pieces."""
    prompt = tuple((11 * number + 5 * position) % 256 for position in range(220))
    return tiny_request(number, id=f"long{number}", prompt=prompt, max_tokens=8)


async def _kill_in_loading(scene: Scene) -> float:
    """A worker is killed, and again while it loads."""
    scene.launcher.signal("b1", signal.SIGKILL)
    at = time.monotonic()
    await _reaches(scene, "degraded")
    async with asyncio.timeout(120):
        while _state_of(scene, "b1") not in ("loading", "compiling"):
            await scene.coordinator.changed()
    scene.launcher.signal("b1", signal.SIGKILL)
    async with asyncio.timeout(120):
        while _state_of(scene, "b1") != "failed":
            await scene.coordinator.changed()
    await _reaches(scene, "ready")
    return at


def _state_of(scene: Scene, node: str) -> str:
    return next(one.state for one in scene.coordinator.snapshot().nodes if one.name == node)


def _disturbed(seconds: float) -> Callable[[Scene], Awaitable[float]]:
    async def act(scene: Scene) -> float:
        scene.faults.touch()
        at = time.monotonic()
        await asyncio.sleep(seconds)
        scene.faults.unlink()
        return at

    return act


def _stop(node: str, seconds: float) -> Callable[[Scene], Awaitable[float]]:
    async def act(scene: Scene) -> float:
        scene.launcher.signal(node, signal.SIGSTOP)
        at = time.monotonic()
        await asyncio.sleep(seconds)
        scene.launcher.signal(node, signal.SIGCONT)
        await _healed(scene)
        return at

    return act


def _cut(node: str, seconds: float) -> Callable[[Scene], Awaitable[float]]:
    async def act(scene: Scene) -> float:
        scene.hosts.cut(node)
        at = time.monotonic()
        await asyncio.sleep(seconds)
        scene.hosts.mend(node)
        await _healed(scene)
        return at

    return act


def _cut_between(tail: str, seconds: float) -> Callable[[Scene], Awaitable[float]]:
    """The link from a node to one that it sends requests to."""

    async def act(scene: Scene) -> float:
        head = scene.coordinator._state.requests_state.adjacency[tail][0]
        scene.hosts.cut_between(tail, head)
        at = time.monotonic()
        await asyncio.sleep(seconds)
        assert (tail, head) in scene.coordinator.snapshot().cut_hops
        scene.hosts.mend_between(tail, head)
        async with asyncio.timeout(60):
            while scene.coordinator.snapshot().cut_hops:
                await scene.coordinator.changed()
        return at

    return act


async def _change(scene: Scene) -> float:
    """A plan with other layers takes over, and then that of before."""
    at = time.monotonic()
    for placement in (CHANGED, REPLICATED):
        scene.coordinator.begin_change(scene_plan(scene.hosts, placement, **scene.runtime))
        await scene.coordinator.until_changed()
    return at


async def _kill_a_newcomer(scene: Scene) -> float:
    """A worker of a plan that is to take over is killed while it loads."""
    scene.coordinator.begin_change(scene_plan(scene.hosts, CHANGED, **scene.runtime))
    at = time.monotonic()
    scene.launcher.signal("b1.2", signal.SIGKILL)
    with suppress(DeploymentError):
        await scene.coordinator.until_changed()
    return at


async def _gone(scene: Scene) -> float:
    scene.hosts.cut("b1")
    scene.launcher.signal("b1", signal.SIGKILL)
    at = time.monotonic()
    await _reaches(scene, "degraded")
    return at


async def _reaches(scene: Scene, *states: str) -> None:
    async with asyncio.timeout(120):
        while scene.coordinator.snapshot().state not in states:
            await scene.coordinator.changed()


async def _healed(scene: Scene) -> None:
    """Wait until it has been noticed, and all is well again."""
    await _reaches(scene, "degraded", "failed", "starting")
    await _reaches(scene, "ready")


ROWS = {
    row.name: row
    for row in (
        Row("nothing", "nothing", _nothing),
        Row("kill-one", "kill -9 of one worker", _kill("b1")),
        Row("kill-two", "kill -9 of two workers", _kill("a1", "c2")),
        Row("kill-prefill", "kill -9 of one in prefill", _kill_in_prefill, runtime={"prefix_cache": False}),
        Row("kill-loading", "kill -9 of one, and again while it loads", _kill_in_loading),
        Row("kill-all-copies", "kill -9 of all workers of a layer", _kill("b1", "b2")),
        Row("kill-coordinator", "kill -9 of the coordinator, twice", None),
        Row("change", "another plan takes over, and back", _change),
        Row("kill-newcomer", "kill -9 of a worker that a change starts", _kill_a_newcomer),
        Row("stop", "SIGSTOP for 8 s, SIGCONT", _stop("b2", 8.0)),
        Row("cut-10", "link cut for 10 s", _cut("b1", 10.0)),
        Row("cut-60", "link cut for 60 s", _cut("c1", 60.0)),
        Row("delayed", "messages 50 to 200 ms late for 20 s", _disturbed(20.0), faults="delayed"),
        Row("duplicated", "a tenth of messages come twice for 20 s", _disturbed(20.0), faults="duplicated"),
        Row("reordered", "a tenth of messages out of order for 20 s", _disturbed(20.0), faults="reordered"),
        Row("dropped", "one message in 200 lost for 20 s", _disturbed(20.0), faults="dropped"),
        Row("host-gone", "a host gone", _gone, tells=False),
        Row("cut-between", "link between two workers cut for 10 s", _cut_between("b1", 10.0)),
    )
}
