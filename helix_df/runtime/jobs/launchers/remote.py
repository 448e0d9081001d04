"""What launchers share whose workers are elsewhere: a thread of their own, on which a task stays with each worker.

A coordinator calls launchers on its event loop, which must not wait for a network. Owns that thread, the tasks and the
order in which they are ended; how a worker is started and ended is each launcher's.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from helix_df.errors import HelixError
from helix_df.runtime.launcher import Exit, WorkerOrder

log = logging.getLogger(__name__)

LAST_S = 5.0
"""How long workers may take to end once they are made to, beyond the grace that they had."""


class RemoteLauncher(ABC):
    """Stays with each worker on a thread of its own; see ``Launcher`` for what is called from elsewhere."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[str, Future[None]] = {}
        self._ended: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self._stopping = False

    @abstractmethod
    async def stay_with(self, order: WorkerOrder) -> str:
        """Start a worker, or find it where it runs already, and wait until it has ended; its last words.

        Raises:
            HelixError: when it can't be started, in words for a user.
        """

    @abstractmethod
    async def end(self, node: str, *, force: bool) -> None:
        """Ask a worker to end, or make it."""

    async def close(self) -> None:  # noqa: B027  # most have nothing to do
        """Let go of what all workers shared, once they have ended."""

    def start(self, order: WorkerOrder) -> None:
        """See ``Launcher``."""
        self._tasks[order.node] = self._submit(self._stay(order))

    def exits(self) -> list[Exit]:
        """See ``Launcher``."""
        return [self._ended.get_nowait() for _ in range(self._ended.qsize())]

    def command(self, order: WorkerOrder) -> str | None:
        """See ``Launcher``: nothing is left to do by hand."""
        return None

    def stop(self, grace_s: float) -> None:
        """See ``Launcher``."""
        if self._loop is not None:
            self._submit(self._stop(grace_s)).result()
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _stop(self, grace_s: float) -> None:
        self._stopping = True
        # A worker that serves goes at the coordinator's word; one that still loads hears only of this.
        for wait_s, force in ((grace_s / 2, None), (grace_s / 2, False), (LAST_S, True)):
            left = [node for node, task in self._tasks.items() if not task.done()]
            if force is not None and left:
                await asyncio.gather(*(self.end(node, force=force) for node in left), return_exceptions=True)
            if left:
                await asyncio.wait([asyncio.wrap_future(self._tasks[node]) for node in left], timeout=wait_s)
        for node, task in self._tasks.items():
            if not task.done():
                log.error("worker %s can't be reached, and may run until it finds that nobody answers it", node)
                task.cancel()
        await self.close()

    async def _stay(self, order: WorkerOrder) -> None:
        try:
            words = await self.stay_with(order)
        except HelixError as error:
            words = str(error)
        except Exception as error:
            log.exception("worker %s", order.node)
            words = str(error) or type(error).__name__
        if not self._stopping:
            self._ended.put(Exit(order.node, words))

    def _submit(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            name = type(self).__name__
            threading.Thread(target=self._loop.run_forever, name=name, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)
