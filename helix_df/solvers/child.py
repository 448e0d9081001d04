"""A helper process of a solver: documents in, documents out, one JSON line each. The only protocol for such processes.

Owns the life of the process, both ends of its lines, and what it said last when it failed. Doesn't know what is asked.
A process of its own is for what can't be stopped otherwise (a MIP backend) and for what holds the interpreter lock. Not
``multiprocessing``, which would run the caller's script again unless it is guarded, and a library can't ask for that.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, TextIO, TypeVar

from helix_df.paths import package_environment
from helix_df.solvers.documents import decode, encode

T = TypeVar("T")


class ChildEnded(Exception):
    """The process is gone; says how, with the last thing that it complained of."""


class Child:
    """The parent's end of ``python -m MODULE``."""

    def __init__(self, module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=package_environment(),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._complaint = ""
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._hear)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        for line in _open(self.process.stdout):
            self._lines.put(line)
        self._lines.put("")

    def _hear(self) -> None:
        for line in _open(self.process.stderr):
            self._complaint = line.strip() or self._complaint

    def tell(self, message: object) -> None:
        """Send a document; nothing happens when the child is gone, which ``next`` finds out."""
        with suppress(OSError):
            stdin = self.process.stdin
            assert stdin is not None
            stdin.write(json.dumps(encode(message)) + "\n")
            stdin.flush()

    def next(self, kind: type[T], timeout_s: float) -> T | None:
        """The next answer; ``None`` when none came in time.

        Raises:
            ChildEnded: when none will come.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if not line:
            self._lines.put("")
            code = self.process.wait()
            self._readers[1].join()
            raise ChildEnded("; ".join(filter(None, [f"its process ended with {code}", self._complaint])))
        return decode(kind, json.loads(line))

    def close(self) -> None:
        """End the child, busy or not."""
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                # Lines that it didn't live to read can't be flushed.
                with suppress(OSError):
                    pipe.close()


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


class Parent:
    """The child's end: what it is told, and whom it answers. Ctrl-C is the parent's, who ends the child."""

    def __init__(self, lines: TextIO, output: TextIO) -> None:
        self.lines, self.output = lines, output

    def asks(self, kind: type[T]) -> Iterator[T]:
        """Documents of a type until the parent has no more, or is gone."""
        for line in self.lines:
            yield decode(kind, json.loads(line))

    def ask(self, kind: type[T]) -> T:
        """The next of them."""
        return next(self.asks(kind))

    def answer(self, message: object) -> None:
        """Send a document."""
        self.output.write(json.dumps(encode(message)) + "\n")
        self.output.flush()

    def end_when_gone(self, last: Callable[[], None]) -> None:
        """From now on hear nothing, and when the parent is gone do ``last`` and end, whatever this process is at."""

        def wait() -> None:
            for _ in self.lines:
                pass
            last()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def be_child(serve: Callable[[Parent], None]) -> None:
    """Run a child's work; whatever else prints to stdout must not mix with the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(Parent(sys.stdin, output))
