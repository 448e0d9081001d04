"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from typing import IO

from helix_df.profiles.this_device import accelerators
from helix_df.runtime.jobs.launchers.kind import LauncherKind, LaunchSite
from helix_df.runtime.jobs.processes import AdoptedProcess, children_of, command_line, variable_of
from helix_df.runtime.launcher import Exit, WorkerOrder
from helix_df.runtime.log_lines import in_words, log_arguments
from helix_df.runtime.threads import usable_cores, with_large_pages, with_threads

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "HELIX_DF_TOKEN"
PARENT_VARIABLE = "HELIX_DF_PARENT"
"""Processes, one of which a local worker must be a child of to live on: who started it, and who gets it after that."""

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"

LAST_WORDS_LINES = 12
_FRAME = re.compile(r"\s*@\s+0x[0-9a-f]+")
"""A frame of a stack of C++, which says nothing to anybody here; what is wrong stands before."""


class LocalLauncher:
    """One child process a worker, its output in its log file.

    ``workers`` is how many will share this machine. Each computes on as many threads as ``cpus`` says of its node, or
    as its share of the cores that are left, one at least: threads that fight for a core are slower than one that has
    it. If there are cores enough, each worker is kept on its own (on Linux), since a scheduler that moves a worker
    moves it onto another one's core.

    ``supervisor`` is the process whose children the workers become when this one dies. What is left there of a process
    before this one is taken back in place of a new worker, the first time that one is to be started.

    ``visible`` are this machine's accelerators, as ``CUDA_VISIBLE_DEVICES`` calls them: each worker gets its own.
    """

    def __init__(
        self,
        workers: int,
        supervisor: int | None = None,
        visible: tuple[str, ...] = (),
        cpus: Mapping[str, int] | None = None,
    ) -> None:
        self._workers = workers
        self._cpus = dict(cpus or {})
        self._supervisor = supervisor
        self._visible = visible
        self._devices_of: dict[str, tuple[str, ...]] = {}
        self._cores_of: dict[str, tuple[int, ...]] = {}
        self._processes: dict[str, tuple[Popen[bytes] | AdoptedProcess, Path | None]] = {}
        self._left_over: dict[str, AdoptedProcess] | None = None

    def start(self, order: WorkerOrder) -> None:
        """See ``Launcher``."""
        if self._left_over is None:
            self._left_over = {} if self._supervisor is None else _left_over(self._supervisor, order.coordinator)
        adopted = self._left_over.pop(order.node, None)
        if adopted is not None and adopted.poll() is None:
            log.info("worker %s, process %d, is taken back", order.node, adopted.pid)
            self._processes[order.node] = (adopted, order.log_file)
            with contextlib.suppress(OSError):
                cores = tuple(sorted(os.sched_getaffinity(adopted.pid)))
                if cores != usable_cores():
                    self._cores_of[order.node] = cores
            seen = variable_of(adopted.pid, VISIBLE_VARIABLE)
            if self._visible and seen:
                self._devices_of[order.node] = tuple(seen.split(","))
            return
        files = [] if order.log_file is None else ["--log", str(order.log_file), "--events", str(order.events_file)]
        command = [sys.executable, "-m", "helix_df", *worker_arguments(order), *files]
        output = None if order.log_file is None else opened_log(order.log_file)
        try:
            process = Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output or subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                env=self._environment(order),
            )
        finally:
            if output is not None:
                output.close()
        self._pin(order, process.pid)
        self._processes[order.node] = (process, order.log_file)

    def exits(self) -> list[Exit]:
        """See ``Launcher``."""
        # All are started by now that are to be: what is left of a coordinator before this one is nobody's.
        for left in (self._left_over or {}).values():
            left.kill()
        self._left_over = self._left_over and {}
        gone = [node for node, (process, _) in self._processes.items() if process.poll() is not None]
        found = []
        for node in gone:
            process, log_file = self._processes.pop(node)
            code = process.returncode if isinstance(process, Popen) else None
            found.append(Exit(node, last_words(code, log_file)))
        return found

    def command(self, order: WorkerOrder) -> str | None:
        """See ``Launcher``: nothing is left to do by hand."""
        return None

    def stop(self, grace_s: float) -> None:
        """See ``Launcher``."""
        deadline = time.monotonic() + grace_s
        # A worker that serves goes at the coordinator's word; one that still loads hears only a signal.
        for signals_end, until in ((False, deadline - grace_s / 2), (True, deadline)):
            for process, _ in self._processes.values():
                _wait(process, until - time.monotonic())
            for process, _ in self._processes.values():
                if process.poll() is None:
                    (process.kill if signals_end else process.terminate)()
        for process, _ in self._processes.values():
            process.wait()
        self._processes.clear()

    def _pin(self, order: WorkerOrder, pid: int) -> None:
        """Before the new process has threads of its own, which will inherit its cores."""
        if order.node not in self._cores_of:
            taken = {core for cores in self._cores_of.values() for core in cores}
            free = [core for core in usable_cores() if core not in taken]
            own, all_of_them = self._threads(order), self._in_all()
            if own <= len(free) and all_of_them <= len(usable_cores()) and own < len(usable_cores()):
                self._cores_of[order.node] = tuple(free[:own])
        cores = self._cores_of.get(order.node)
        if cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # gone already: `exits` will tell
                os.sched_setaffinity(pid, cores)

    def _threads(self, order: WorkerOrder) -> int:
        declared = tuple(self._cpus.values())
        return threads_of(self._workers, len(usable_cores()), self._cpus.get(order.job_node), declared)

    def _in_all(self) -> int:
        """Threads of all workers."""
        declared, cores = tuple(self._cpus.values()), len(usable_cores())
        rest = self._workers - len(declared)
        return sum(declared) + rest * (threads_of(self._workers, cores, None, declared) if rest else 0)

    def _environment(self, order: WorkerOrder) -> dict[str, str]:
        environment = dict(os.environ)
        environment[TOKEN_VARIABLE] = order.token
        parents = [os.getpid(), *([] if self._supervisor is None else [self._supervisor])]
        environment[PARENT_VARIABLE] = ",".join(map(str, parents))
        own = self._own_devices(order)
        if own:
            environment[VISIBLE_VARIABLE] = ",".join(own)
        on_cpu = {} if self._visible else with_large_pages(environment)
        return environment | on_cpu | with_threads(environment, self._threads(order))

    def _own_devices(self, order: WorkerOrder) -> tuple[str, ...]:
        """Devices that no other worker has; none where there aren't so many, and it sees what this process does."""
        held = self._devices_of.get(order.node, ())
        if len(held) != order.devices:
            alive = {node: self._devices_of.get(node, ()) for node in self._processes if node != order.node}
            taken = {device for devices in alive.values() for device in devices}
            free = tuple(device for device in self._visible if device not in taken)
            held = free[: order.devices] if len(free) >= order.devices else ()
            self._devices_of[order.node] = held
        return held


def visible_devices(environment: Mapping[str, str], accelerators: int) -> tuple[str, ...]:
    """What workers may see of so many accelerators: those that this process sees, by name or number."""
    named = environment.get(VISIBLE_VARIABLE)
    if named is not None:
        return tuple(filter(None, (name.strip() for name in named.split(","))))
    return tuple(map(str, range(accelerators)))


def threads_of(workers: int, cores: int, declared: int | None = None, all_declared: Sequence[int] = ()) -> int:
    """Threads of a worker that shares so many cores with others, ``workers`` in all: as declared, or an equal share.

    ``all_declared`` are the cores of all workers that say how many they have.
    """
    if declared is not None:
        return declared
    return max(1, (cores - sum(all_declared)) // max(1, workers - len(all_declared)))


def threads_each(environment: Mapping[str, str], workers: int) -> dict[str, str]:
    """What to set for a worker that shares this machine with others, ``workers`` in all."""
    return with_threads(environment, threads_of(workers, len(usable_cores())))


def _left_over(supervisor: int, coordinator: str) -> dict[str, AdoptedProcess]:
    """Workers of a process that died, by node; what can't be one of this coordinator's is ended."""
    found: dict[str, AdoptedProcess] = {}
    for pid in children_of(supervisor):
        words = command_line(pid)
        if "--node" not in words or "--join" not in words:
            continue
        node = words[words.index("--node") + 1]
        with contextlib.suppress(OSError):
            process = AdoptedProcess(pid, supervisor)
            if words[words.index("--join") + 1] == coordinator and node not in found:
                found[node] = process
            else:
                process.kill()
    return found


def opened_log(path: Path) -> IO[bytes] | None:
    """A log to write to; none where there can't be one: a worker is worth more."""
    try:
        return path.open("ab")
    except OSError as error:
        log.warning("there is no log of this worker: %s", error)
        return None


def _wait(process: Popen[bytes] | AdoptedProcess, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, seconds))


def worker_arguments(order: WorkerOrder) -> list[str]:
    """The arguments of ``helix-df`` that make a worker of this order; the secret is not among them."""
    limit = [] if order.frame_limit is None else ["--frame-limit", str(order.frame_limit)]
    way = ["--give-way"] if order.gives_way else []
    way += log_arguments(order.log_format)
    return ["worker", "--join", order.coordinator, "--node", order.node, "--listen", order.listen, *limit, *way]


def last_words(code: int | None, log_file: Path | None) -> str:
    """How a worker ended and the end of its log; ``code`` is None where it is another process' to know."""
    ending = "ended" if code is None else f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    if log_file is None or not log_file.exists():
        return ending
    lines = map(in_words, log_file.read_text(encoding="utf-8", errors="replace").splitlines())
    told = [line for line in lines if not _FRAME.match(line)]
    return "\n".join([ending, *told[-LAST_WORDS_LINES:]])


def _of_this_machine(site: LaunchSite, _options: object) -> LocalLauncher:
    cpus = {name: node.cpus for name, node in site.nodes.items() if node.cpus is not None}
    return LocalLauncher(len(site.nodes), site.supervisor, visible_devices(os.environ, len(accelerators())), cpus)


LOCAL = LauncherKind(make=_of_this_machine)
