"""What is done to a job, as data: each row is a name and an act. A new row is a function here and a line in ``ROWS``.

An act returns the time (s, monotonic) at which its blow fell; it may go on after that. What comes of it is measured by
whoever runs the row (``tests.chaos.__main__``).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.scene import Scene

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
        Row("stop", "SIGSTOP for 8 s, SIGCONT", _stop("b2", 8.0)),
        Row("cut-10", "link cut for 10 s", _cut("b1", 10.0)),
        Row("cut-60", "link cut for 60 s", _cut("c1", 60.0)),
        Row("host-gone", "a host gone", _gone, tells=False),
    )
}
