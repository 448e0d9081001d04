"""A launcher in a process of its own, for libraries that end theirs when the system they talk to is gone.

The process hears orders and says who has ended, in lines of JSON. When it dies it is started again with all orders that
still stand: launchers find workers that run already. It goes with the coordinator; workers don't.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from helix_df.runtime.jobs.job_keys import JobKeys
from helix_df.runtime.jobs.launchers.kind import LauncherKind, LaunchSite
from helix_df.runtime.launcher import Exit, Launcher, WorkerOrder
from helix_df.runtime.log_lines import WORDS, formatter
from helix_df.runtime.wire.keys import KeyPair
from helix_df.spec.nodes import Node
from helix_df.spec.section import Section

log = logging.getLogger(__name__)

BEYOND_GRACE_S = 12.0
"""So much longer than its grace the process may take to stop; then it is killed."""

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 60.0
"""Before it is started again, twice as long each time it doesn't last."""

LASTED_S = 60.0

_LOOK_EVERY_S = 0.2


class ApartLauncher:
    """Passes orders on to the launcher that ``kind``, as in ``module:KIND``, makes in a process of its own."""

    def __init__(self, kind: str, site: LaunchSite, options: Section) -> None:
        self._opening = {"kind": kind, **_site_document(site), "options": options.model_dump(mode="json")}
        self._orders: dict[str, WorkerOrder] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self._pause_s = FIRST_PAUSE_S
        self._started_s = 0.0
        self._again_s: float | None = None

    def start(self, order: WorkerOrder) -> None:
        """See ``Launcher``."""
        self._orders[order.node] = order
        if self._process is None and self._again_s is None:
            self._open()
        elif self._process is not None:
            self._say({"start": _order_document(order)})

    def exits(self) -> list[Exit]:
        """See ``Launcher``; also the time to see that the process lives."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            if now - self._started_s > LASTED_S:
                self._pause_s = FIRST_PAUSE_S
            log.error(
                "the launcher's process ended with code %d; again in %g s", self._process.returncode, self._pause_s
            )
            self._process, self._again_s = None, now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
        if self._again_s is not None and now >= self._again_s:
            self._open()
        found = [self._ended.get_nowait() for _ in range(self._ended.qsize())]
        for gone in found:
            self._orders.pop(gone.node, None)
        return found

    def command(self, order: WorkerOrder) -> str | None:
        """See ``Launcher``: nothing is left to do by hand."""
        return None

    def stop(self, grace_s: float) -> None:
        """See ``Launcher``."""
        process = self._process
        if process is None:
            return
        self._say({"stop": grace_s})
        try:
            process.wait(grace_s + BEYOND_GRACE_S)
        except subprocess.TimeoutExpired:
            log.error("the launcher's process doesn't end; what it started may run until nobody answers it")
            process.kill()
            process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()

    def _open(self) -> None:
        self._again_s, self._started_s = None, time.monotonic()
        command = [sys.executable, "-m", "helix_df.runtime.jobs.launchers.apart"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        threading.Thread(target=self._hear, args=(self._process.stdout,), name="launcher", daemon=True).start()
        self._say(self._opening)
        for order in self._orders.values():
            self._say({"start": _order_document(order)})

    def _hear(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._ended.put(Exit(**json.loads(line)))

    def _say(self, document: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(document) + "\n").encode())
            self._process.stdin.flush()
        except OSError as error:  # it is gone, which `exits` will see
            log.warning("the launcher's process doesn't hear: %s", error)


def run(lines: IO[bytes], out: IO[bytes]) -> None:
    """The process: make the launcher of the first line, and obey the others until they end."""
    opening: Any = json.loads(lines.readline())
    module, _, attribute = str(opening["kind"]).partition(":")
    kind: LauncherKind = getattr(import_module(module), attribute)
    launcher: Launcher = kind.make(_site(opening), kind.options.model_validate(opening["options"]))
    while True:
        for gone in launcher.exits():
            out.write((json.dumps(asdict(gone)) + "\n").encode())
            out.flush()
        if not select.select([lines], [], [], _LOOK_EVERY_S)[0]:
            continue
        line = lines.readline()
        if not line:
            os._exit(0)  # the coordinator is gone, and workers are the next one's
        document: Any = json.loads(line)
        if "stop" in document:
            launcher.stop(document["stop"])
            return
        order = _order(document["start"])
        for handler in logging.getLogger().handlers:
            handler.setFormatter(formatter(order.log_format, "launcher"))
        launcher.start(order)


def _site_document(site: LaunchSite) -> dict[str, Any]:
    pair = site.keys.coordinator
    return {
        "nodes": {name: node.model_dump(mode="json", exclude_unset=True) for name, node in site.nodes.items()},
        "token": site.keys.token,
        "coordinator": None if pair is None else [pair.public, pair.secret],
    }


def _site(opening: Mapping[str, Any]) -> LaunchSite:
    pair = opening["coordinator"]
    keys = JobKeys(opening["token"], None if pair is None else KeyPair(*pair))
    return LaunchSite({name: Node.model_validate(node) for name, node in opening["nodes"].items()}, keys)


def _order_document(order: WorkerOrder) -> dict[str, Any]:
    return {**asdict(order), "log_file": None if order.log_file is None else str(order.log_file)}


def _order(document: Mapping[str, Any]) -> WorkerOrder:
    log_file = document["log_file"]
    return WorkerOrder(**{**document, "log_file": None if log_file is None else Path(log_file)})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format=WORDS)
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print belongs in the coordinator's log
    with open(0, "rb", buffering=0, closefd=False) as heard:
        run(heard, told)
