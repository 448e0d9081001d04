"""Workers as processes on hosts that are namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from helix_df.runtime.jobs.launchers.local import PARENT_VARIABLE, TOKEN_VARIABLE, threads_each, worker_arguments
from helix_df.runtime.launcher import Exit, WorkerOrder
from tests.chaos import faults
from tests.chaos.hosts import Hosts


def host_of_node(name: str) -> str:
    """Where the worker of a node runs: ``b1.2`` is the second one of ``b1``."""
    return name.partition(".")[0]


class HostLauncher:
    """Starts each node's worker on the host of its name.

    ``tells`` is whether a worker's end is told at once, as it is of a process on one's own machine; otherwise it is
    noticed by its silence alone, and nobody starts it again.
    """

    def __init__(self, hosts: Hosts, *, tells: bool) -> None:
        self._hosts = hosts
        self._tells = tells
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._former: list[subprocess.Popen[bytes]] = []

    def start(self, order: WorkerOrder) -> None:
        """See ``Launcher``."""
        assert order.log_file is not None, "workers on hosts write logs"
        program = "tests.chaos.faults" if faults.VARIABLE in os.environ else "helix_df"
        worker = [sys.executable, "-m", program, *worker_arguments(order)]
        secrets = {TOKEN_VARIABLE: order.token, PARENT_VARIABLE: str(os.getpid())}
        with order.log_file.open("ab") as output:
            self.processes[order.node] = subprocess.Popen(
                self._hosts.command(host_of_node(order.node), worker),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | secrets | threads_each(os.environ, len(self._hosts.address)),
            )

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a worker a signal."""
        self.processes[node].send_signal(number)

    def exits(self) -> list[Exit]:
        """See ``Launcher``."""
        if not self._tells:
            return []
        gone = [node for node, process in self.processes.items() if process.poll() is not None]
        self._former += [self.processes.pop(node) for node in gone]
        return [Exit(node, "its process ended") for node in gone]

    def command(self, order: WorkerOrder) -> str | None:
        """See ``Launcher``: nothing is left to do by hand."""
        return None

    def stop(self, grace_s: float) -> None:
        """See ``Launcher``."""
        for process in self.processes.values():
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
