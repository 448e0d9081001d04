"""Workers as threads of this process, for tests, notebooks and small tools."""

from __future__ import annotations

import logging
import queue
import threading
import time

from helix_df.runtime.launcher import Exit, WorkerOrder
from helix_df.runtime.wire.transport import listen
from helix_df.runtime.worker.shell import EngineBuilder, Worker

log = logging.getLogger(__name__)


class EmbeddedLauncher:
    """One thread a worker; ``build_engine`` makes what each computes with."""

    def __init__(self, build_engine: EngineBuilder) -> None:
        self._build_engine = build_engine
        self._threads: dict[str, threading.Thread] = {}
        self._ended: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self._stopping = threading.Event()

    def start(self, order: WorkerOrder) -> None:
        """See ``Launcher``."""
        # No daemon: an interpreter that ends while such a thread compiles would abort. It waits for it instead.
        thread = threading.Thread(target=self._run, args=(order,), name=f"worker-{order.node}")
        self._threads[order.node] = thread
        thread.start()

    def exits(self) -> list[Exit]:
        """See ``Launcher``."""
        return [self._ended.get_nowait() for _ in range(self._ended.qsize())]

    def command(self, order: WorkerOrder) -> str | None:
        """See ``Launcher``: nothing is left to do by hand."""
        return None

    def stop(self, grace_s: float) -> None:
        """See ``Launcher``. A thread can't be killed; one that is still loading ends as soon as it has loaded."""
        self._stopping.set()
        deadline = time.monotonic() + grace_s
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _wanted(self) -> bool:
        return not self._stopping.is_set() and threading.main_thread().is_alive()

    def _run(self, order: WorkerOrder) -> None:
        try:
            worker = Worker(
                order.node,
                listen(order.listen),
                order.coordinator,
                order.token,
                self._build_engine,
                alive=self._wanted,
                events=order.events_file,
            )
            worker.run()
        except Exception as error:
            log.exception("worker %s ended", order.node)
            self._ended.put(Exit(order.node, str(error) or type(error).__name__))
