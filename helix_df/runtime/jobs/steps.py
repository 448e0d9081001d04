"""The workers of a job inside its Slurm allocation: each is a step, begun by what lies in a folder that hosts share.

A launcher writes orders and says whom to end; here steps are begun and ended, and what became of them is written down.
Both look from time to time. Neither depends on the other being there: the allocation goes on without a coordinator
until its workers have ended, and the next coordinator finds it. Owns the files of that folder.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

LOOK_EVERY_S = 0.3

FORGOTTEN_S = 120.0
"""An allocation without a step for so long is nobody's, and ends."""


@dataclass(frozen=True, slots=True)
class StepOrder:
    """A worker that is wanted. ``serial`` tells it from those before it on its node.

    ``component`` is that of the allocation, and ``place`` which of its hosts, both from 0; ``log`` gets its output.
    """

    node: str
    serial: int
    component: int
    place: int
    arguments: tuple[str, ...]
    log: str


@dataclass(frozen=True, slots=True)
class StepEnd:
    """Whom to end, or what became of one: the exit code, negative for a signal."""

    node: str
    serial: int
    code: int = 0
    force: bool = False


Kind = TypeVar("Kind", StepOrder, StepEnd)


class Exchange:
    """The folder: ``orders``, ``ends`` that are asked for, and ``exits``, one file a node in each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder, for its owner's eyes."""
        for part in ("orders", "ends", "exits"):
            (self.folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, part: str, said: StepOrder | StepEnd) -> None:
        """Write one file, in one step."""
        path = self.folder / part / f"{said.node}.json"
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(asdict(said)), "utf-8")
        scratch.replace(path)

    def read(self, part: str, node: str, kind: type[Kind]) -> Kind | None:
        """What is written of a node; ``None`` without such a file."""
        try:
            document: Any = json.loads((self.folder / part / f"{node}.json").read_text("utf-8"))
            fields: Any = {name: tuple(it) if isinstance(it, list) else it for name, it in document.items()}
            return kind(**fields)
        except (OSError, ValueError, TypeError):
            return None

    def every(self, part: str, kind: type[Kind]) -> Iterator[Kind]:
        """What is written of all nodes."""
        with suppress(OSError):
            for path in sorted((self.folder / part).glob("*.json")):
                found = self.read(part, path.stem, kind)
                if found is not None:
                    yield found


def run_steps(folder: Path, command: str) -> None:
    """Inside an allocation: do what the folder says until nobody wants anything any more.

    Args:
        folder: of the exchange.
        command: how helix-df is called on the hosts, as a shell reads it.
    """
    exchange, hosts = Exchange(folder), hosts_of(os.environ)
    running: dict[str, tuple[StepOrder, subprocess.Popen[bytes]]] = {}
    done: dict[str, int] = {}
    busy_s = time.monotonic()
    while running or time.monotonic() - busy_s < FORGOTTEN_S:
        if running:
            busy_s = time.monotonic()
        for order in exchange.every("orders", StepOrder):
            before = running.get(order.node)
            if before is not None and before[0].serial != order.serial:
                _end(before[1], force=True)
            elif before is None and done.get(order.node) != order.serial and not _has_ended(exchange, order):
                running[order.node] = order, _begin(order, hosts, command)
        for end in exchange.every("ends", StepEnd):
            step = running.get(end.node)
            if step is not None and step[0].serial == end.serial:
                _end(step[1], force=end.force)
        for node, (order, step_of) in list(running.items()):
            code = step_of.poll()
            if code is not None:
                del running[node]
                done[node] = order.serial
                exchange.write("exits", StepEnd(node, order.serial, code))
        time.sleep(LOOK_EVERY_S)


def hosts_of(environment: Mapping[str, str]) -> list[list[str]]:
    """The hosts of each component of the allocation that this process runs in."""
    parts = int(environment.get("SLURM_HET_SIZE", "1"))
    names = ["SLURM_JOB_NODELIST"] if parts == 1 else [f"SLURM_JOB_NODELIST_HET_GROUP_{i}" for i in range(parts)]
    found = []
    for name in names:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", environment[name]], capture_output=True, text=True, check=True
        )
        found.append(listed.stdout.split())
    return found


def _has_ended(exchange: Exchange, order: StepOrder) -> bool:
    """Whether an allocation before this one had it to its end."""
    end = exchange.read("exits", order.node, StepEnd)
    return end is not None and end.serial == order.serial


def _begin(order: StepOrder, hosts: list[list[str]], command: str) -> subprocess.Popen[bytes]:
    component = [f"--het-group={order.component}"] if len(hosts) > 1 else []
    host = hosts[order.component][order.place]
    step = [*component, "--nodes=1", "--ntasks=1", "--overlap", f"--nodelist={host}", f"--job-name={order.node}"]
    output = [f"--output={order.log}", "--open-mode=append", "--unbuffered"]
    worker = ["sh", "-c", f"exec {command} {shlex.join(order.arguments)}"]
    return subprocess.Popen(["srun", *step, *output, *worker], stdin=subprocess.DEVNULL)


def _end(step: subprocess.Popen[bytes], *, force: bool) -> None:
    """A step gets the signals of its ``srun``, but for the one that nobody can pass on."""
    if step.poll() is None:
        if force:
            step.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                step.wait(2.0)
        (step.kill if force else step.terminate)()
