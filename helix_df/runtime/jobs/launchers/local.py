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
from helix_df.runtime.jobs.fork_server import ForkedProcess, ForkServer
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


_Process = Popen[bytes] | AdoptedProcess | ForkedProcess


class LocalLauncher:
    """One child process a worker, its output in its log file.

    ``workers`` is how many will share this machine. Each computes on as many threads as ``cpus`` says of its node, or
    as its share of the cores that are left, one at least: threads that fight for a core are slower than one that has
    it. If there are cores enough, each worker is kept on its own (on Linux), since a scheduler that moves a worker
    moves it onto another one's core.

    ``supervisor`` is the process whose children the workers become when this one dies. What is left there of a process
    before this one is taken back in place of a new worker, the first time that one is to be started.

    ``visible`` are this machine's accelerators, as ``CUDA_VISIBLE_DEVICES`` calls them: each worker gets its own.

    Workers come of ``forks`` until each has been started once; those that come later are few, and start anew.
    """

    def __init__(
        self,
        workers: int,
        supervisor: int | None = None,
        visible: tuple[str, ...] = (),
        cpus: Mapping[str, int] | None = None,
        forks: ForkServer | None = None,
    ) -> None:
        self._forks = forks
        self._first: set[str] = set()
        self._forking: dict[str, WorkerOrder] = {}
        self._workers = workers
        self._cpus = dict(cpus or {})
        self._supervisor = supervisor
        self._visible = visible
        self._devices_of: dict[str, tuple[str, ...]] = {}
        self._cores_of: dict[str, tuple[int, ...]] = {}
        self._processes: dict[str, tuple[_Process, Path | None]] = {}
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
        arguments, changes, cores = [*worker_arguments(order), *files], self._changes(order), self._cores(order)
        forked = self._forked(order, arguments, changes, cores)
        self._forking.pop(order.node, None)
        if forked is not None:
            self._forking[order.node] = order
        self._processes[order.node] = (forked or _started(order, arguments, changes, cores), order.log_file)

    def _forked(
        self, order: WorkerOrder, arguments: Sequence[str], changes: Mapping[str, str], cores: Sequence[int]
    ) -> ForkedProcess | None:
        """The worker as a fork of what has imported all; ``None`` where it has to start anew."""
        # What a process was given of devices is read from its environment, which a fork has none of its own.
        if self._forks is None or VISIBLE_VARIABLE in changes:
            return None
        forked = self._forks.start(arguments, changes, order.log_file, cores)
        self._first.add(order.node)
        if len(self._first) >= self._workers:
            self._forks.end_when_done()
        return forked

    def exits(self) -> list[Exit]:
        """See ``Launcher``."""
        # All are started by now that are to be: what is left of a coordinator before this one is nobody's.
        for left in (self._left_over or {}).values():
            left.kill()
        self._left_over = self._left_over and {}
        if self._forks is not None:
            self._forks.look()
        for node, order in list(self._forking.items()):
            process, _ = self._processes[node]
            if isinstance(process, ForkedProcess) and process.never_was:
                self.start(order)  # anew, and it says itself what it lacks
            elif process.pid is not None:
                del self._forking[node]
        gone = [node for node, (process, _) in self._processes.items() if process.poll() is not None]
        found = []
        for node in gone:
            process, log_file = self._processes.pop(node)
            code = None if isinstance(process, AdoptedProcess) else process.returncode
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
        self._forking.clear()
        if self._forks is not None:
            self._forks.end()

    def _cores(self, order: WorkerOrder) -> tuple[int, ...]:
        """The cores that a worker is kept on; none if it may run on any."""
        if order.node not in self._cores_of:
            taken = {core for cores in self._cores_of.values() for core in cores}
            free = [core for core in usable_cores() if core not in taken]
            own, all_of_them = self._threads(order), self._in_all()
            if own <= len(free) and all_of_them <= len(usable_cores()) and own < len(usable_cores()):
                self._cores_of[order.node] = tuple(free[:own])
        return self._cores_of.get(order.node, ())

    def _threads(self, order: WorkerOrder) -> int:
        declared = tuple(self._cpus.values())
        return threads_of(self._workers, len(usable_cores()), self._cpus.get(order.job_node), declared)

    def _in_all(self) -> int:
        """Threads of all workers."""
        declared, cores = tuple(self._cpus.values()), len(usable_cores())
        rest = self._workers - len(declared)
        return sum(declared) + rest * (threads_of(self._workers, cores, None, declared) if rest else 0)

    def _changes(self, order: WorkerOrder) -> dict[str, str]:
        """What a worker's environment has beside this process' own."""
        parents = [os.getpid(), *([] if self._supervisor is None else [self._supervisor])]
        changes = {TOKEN_VARIABLE: order.token, PARENT_VARIABLE: ",".join(map(str, parents))}
        own = self._own_devices(order)
        if own:
            changes[VISIBLE_VARIABLE] = ",".join(own)
        on_cpu = {} if self._visible else with_large_pages(os.environ)
        return changes | on_cpu | with_threads(os.environ, self._threads(order))

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


def _started(
    order: WorkerOrder, arguments: Sequence[str], changes: Mapping[str, str], cores: Sequence[int]
) -> Popen[bytes]:
    """A new process of a worker."""
    output = None if order.log_file is None else opened_log(order.log_file)
    try:
        process = Popen(
            [sys.executable, "-m", "helix_df", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env={**os.environ, **changes},
        )
    finally:
        if output is not None:
            output.close()
    if cores and hasattr(os, "sched_setaffinity"):  # before it has threads of its own, which will inherit its cores
        with contextlib.suppress(OSError):  # gone already: `exits` will tell
            os.sched_setaffinity(process.pid, cores)
    return process


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


def _wait(process: _Process, seconds: float) -> None:
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
    visible = visible_devices(os.environ, len(accelerators()))
    return LocalLauncher(len(site.nodes), site.supervisor, visible, cpus, site.forks)


LOCAL = LauncherKind(make=_of_this_machine, forks=True)
