"""A helper process of a search: JSON lines in, JSON lines out.

Owns the life of the process. Doesn't know what is asked. Not ``multiprocessing``, which would run the caller's script
again unless it is guarded, and a library can't ask for that.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

POLL_S = 0.02
"""Seconds between looks at the stop signal while the child works on."""


class Child:
    """``python -m MODULE``, which answers every line but the first with one line."""

    def __init__(self, module: str) -> None:
        package_root = str(Path(__file__).parents[2])
        path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, document: dict[str, Any]) -> None:
        """Send a line; nothing happens when the child is gone, which ``next`` finds out."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(document) + "\n")
            self.process.stdin.flush()
        except OSError:
            return

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def next(self, stop: Callable[[], bool]) -> Any:
        """The next answer; ``None`` when asked to stop before it came, or the child is gone."""
        while True:
            try:
                line = self._lines.get(timeout=POLL_S)
            except queue.Empty:
                if stop():
                    return None
                continue
            if not line:
                self._lines.put("")
                return None
            return json.loads(line)

    def close(self) -> None:
        """End the child, busy or not."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                # Lines that it didn't live to read can't be flushed.
                with suppress(OSError):
                    pipe.close()
