"""The one interface of every system: how to start it, and asking it for tokens.

Doesn't know what any system is. A system is a process that ``child.serve`` runs in, with whatever it starts itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.child import Answer, Setup

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table.

    Attributes:
        name: of the row.
        how: processes, threads and cores, in words.
        module: the file with ``load``, as a module's name.
        needs: a module that the interpreter must have, else the row is left out.
        python: the interpreter that runs it.
        cores: how many cores it uses in all.
        splits_layers: whether its processes hold different layers.
        requests: the numbers of concurrent requests to measure; with one number only, nothing else is measured.
        settle_s: how long its processes stay busy after an answer, so that the next system waits for them.
        option: see ``Setup``.
        environment: what its process gets on top of ours.
    """

    name: str
    how: str
    module: str
    needs: str
    python: Path = Path(sys.executable)
    cores: int = 2
    splits_layers: bool = False
    requests: tuple[int, ...] = (1, 4, 8, 16)
    settle_s: float = 0.0
    option: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Why it can't run here, or None."""
        if not self.python.exists():
            return f"there is no {self.python}"
        look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({self.needs!r}) is None)"
        found = subprocess.run([self.python, "-c", look], capture_output=True, check=False)
        return None if found.returncode == 0 else f"{self.python} has no module {self.needs}"


def one_thread(count: int = 1) -> dict[str, str]:
    """The environment of a process whose BLAS and OpenMP run on ``count`` threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(count))


class Running:
    """A system that has been started. Its output goes to ``log``.

    Raises:
        RuntimeError: when it ends before it has answered, with its last words.
    """

    def __init__(self, system: System, setup: Setup, log: Path) -> None:
        self.system = system
        self._log = log
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [system.python, "-m", system.module, setup.encode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                bufsize=1,
                cwd=ROOT,
                env={**os.environ, **system.environment, "PYTHONPATH": paths},
            )

    def wait_ready(self) -> None:
        """Until the model is loaded and warm."""
        self._read()

    def ask(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        """Greedy continuations of all prompts, asked at once."""
        if self._process.stdin is None:
            raise RuntimeError("the system's input is closed")
        print(json.dumps({"prompts": prompts, "tokens": tokens}), file=self._process.stdin, flush=True)
        return [Answer(tokens, times_s) for tokens, times_s in self._read()]

    def stop(self) -> None:
        """End it; it ends what it has started itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            words = self._log.read_text(errors="replace").splitlines()[-12:]
            raise RuntimeError("\n".join([f"{self.system.name} ended with {self._process.wait()}", *words]))
        return json.loads(line)
