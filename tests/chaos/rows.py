"""What is done to a job, as data: each row is a name and an act. A new row is a function here and a line in ``ROWS``.

An act returns the time (s, monotonic) at which its blow fell; it may go on after that. What comes of it is measured by
whoever runs the row (``tests.chaos.__main__``).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from helix_df.errors import DeploymentError
from helix_df.layers import LayerRange
from tests.chaos.scene import REPLICATED, Scene, scene_plan

CHANGED = {**REPLICATED, "a1": LayerRange(0, 2), "b1": LayerRange(2, 3)}
"""Other layers on two of the six, and each still on two."""

AFTER_S = 3.0
"""So long streams go on once all is over."""


@dataclass(frozen=True, slots=True)
class Row:
    """``tells`` as for ``HostLauncher``."""

    name: str
    words: str
    act: Callable[[Scene], Awaitable[float]]
    tells: bool = True


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
        Row("kill-all-copies", "kill -9 of all workers of a layer", _kill("b1", "b2")),
        Row("change", "another plan takes over, and back", _change),
        Row("kill-newcomer", "kill -9 of a worker that a change starts", _kill_a_newcomer),
        Row("stop", "SIGSTOP for 8 s, SIGCONT", _stop("b2", 8.0)),
        Row("cut-10", "link cut for 10 s", _cut("b1", 10.0)),
        Row("cut-60", "link cut for 60 s", _cut("c1", 60.0)),
        Row("host-gone", "a host gone", _gone, tells=False),
    )
}
