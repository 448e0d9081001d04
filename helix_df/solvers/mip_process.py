"""The parent's side of a MIP solve in a child process.

Owns the life of the child: its files, its lines, its end. Doesn't know placements or what the backends are called in
OR-Tools (``mip_worker`` does).
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_df.errors import SolverError


@dataclass(frozen=True, slots=True)
class MipRequest:
    """What the child needs besides the model. ``decisions`` names the variables whose values are sent back."""

    backend: str
    time_limit_s: float
    seed: int
    threads: int
    gap: float
    decisions: Sequence[str]
    hint: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MipMessage:
    """A line of the child: a better solution (its values above 0), and at the end a bound and a status."""

    values: Mapping[str, float] | None = None
    bound: float | None = None
    status: str | None = None


class MipChild:
    """A running solve; ``next`` waits for its lines."""

    def __init__(self, process: subprocess.Popen[str], backend: str, errors: Path) -> None:
        self._process = process
        self._backend = backend
        self._errors = errors
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def next(self, timeout_s: float) -> MipMessage | None:
        """The next line, or ``None`` when none came in time.

        Raises:
            SolverError: when the backend failed or the child ended without a result.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if line is None:
            code = self._process.wait()
            tail = self._errors.read_text(errors="replace").strip().splitlines()[-1:]
            raise self._failure("; ".join([f"its process ended with {code}", *tail]))
        message = json.loads(line)
        if "error" in message:
            raise self._failure(message["error"])
        return MipMessage(**message)

    def _failure(self, found: str) -> SolverError:
        return SolverError(
            f"the backend {self._backend} failed", where="solver.backend", found=found, hint="try another backend"
        )

    def close(self) -> None:
        """End the child, finished or not."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def run_mip(model: bytes, request: MipRequest) -> Iterator[MipChild]:
    """A child that solves ``model`` (a serialized MathOpt ``ModelProto``); it is gone when the block is left."""
    with tempfile.TemporaryDirectory(prefix="helix-df-mip-") as scratch:
        directory = Path(scratch)
        (directory / "model.pb").write_bytes(model)
        (directory / "request.json").write_text(json.dumps(asdict(request)))
        errors = directory / "stderr"
        package_root = str(Path(__file__).parents[2])
        path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "helix_df.solvers.mip_worker", scratch],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        child = MipChild(process, request.backend, errors)
        try:
            yield child
        finally:
            child.close()
