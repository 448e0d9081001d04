"""A job on a real Ray cluster, whose nodes are hosts of their own: it serves, a host is lost, and nothing stays behind.

    python -m tests.chaos.ray_cluster

Four raylets with a label each, two of them for one kind of worker. The job's own host is the head, which has no cores
for workers. Prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray

from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import job_directory
from helix_df.runtime.jobs.launchers.ray import NAMESPACE
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.jobs.processes import command_line
from tests.chaos.hosts import HOME, Hosts, enter, inside, why_not
from tests.jobs.test_coordinator_dies import answer, kill_the_coordinator
from tests.runtime.tiny import tiny_plan

KINDS = {"r1": "large", "r2": "large", "r3": "small", "r4": "small"}
HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
PORT = 6399


def plan() -> Plan:
    """Two nodes, each on a kind of its own."""
    place = {name: {"gpus": 0, "labels": {"kind": kind}} for name, kind in (("a", "large"), ("b", "small"))}
    nodes = {name: {"gpu": "toy", "launcher": "ray", "address": "auto"} for name in HALVES}
    return tiny_plan(
        HALVES,
        nodes=nodes,
        coordinator={"address": HOME},
        launchers={"ray": {"address": f"{HOME}:{PORT}", "place": place}},
    )


class Cluster:
    """Raylets on hosts, in sessions of their own so that each can be killed with all that it started."""

    def __init__(self, hosts: Hosts, folder: str) -> None:
        self._hosts = hosts
        self._folder = folder
        self._raylets: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """The head, then the others."""
        head = ["--head", f"--port={PORT}", f"--node-ip-address={HOME}", "--include-dashboard=false", "--num-cpus=0"]
        self._start("head", [*head, f"--temp-dir={self._folder}"])
        until(self._is_reached)
        for number, (host, kind) in enumerate(KINDS.items(), start=2):
            node = [f"--address={HOME}:{PORT}", f"--node-ip-address={self._hosts.address[host]}", "--num-cpus=1"]
            self._start(host, [*node, f"--labels=kind={kind}"])
            # One at a time: they share a folder, which hosts do not.
            until(partial(self._has_nodes, number))

    def _start(self, host: str, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words]
        command = [*command, "--object-store-memory=80000000"]
        self._raylets[host] = subprocess.Popen(
            command if host == "head" else self._hosts.command(host, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _has_nodes(self, count: int) -> bool:
        return sum(node["Alive"] for node in ray.nodes()) == count

    def _is_reached(self) -> bool:
        try:
            ray.init(f"{HOME}:{PORT}", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError):
            return False
        return True

    def kill(self, host: str) -> None:
        """A host's Ray is gone, as when its power is cut."""
        self._kill(self._hosts.address[host])

    def stop(self) -> None:
        """All of it."""
        ray.shutdown()
        self._kill(self._folder)
        for raylet in self._raylets.values():
            raylet.kill()
            raylet.wait()

    def _kill(self, word: str) -> None:
        """Processes of Ray with a word on their command lines; a number isn't the beginning of another one."""
        wanted = re.compile(re.escape(word) + r"(?![0-9])")
        for entry in Path("/proc").glob("[0-9]*"):
            words = " ".join(command_line(int(entry.name)))
            if wanted.search(words) and ("raylet" in words or "ray.scripts" in words or "gcs_server" in words):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)


def until(holds: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for something of other processes to come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def workers() -> dict[str, tuple[int, str]]:
    """Processes of workers, and where they listen, by node."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        words = command_line(int(entry.name))
        if "worker" in words and "--node" in words and any("helix-df-ray-" in word for word in words):
            found[words[words.index("--node") + 1]] = (int(entry.name), str(entry))
    return found


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Hosts, Cluster]]:
    """A cluster on hosts."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a socket's path has to be short
    hosts = Hosts(list(KINDS))
    found = Cluster(hosts, folder)
    try:
        found.start()
        yield hosts, found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


def host_of_worker(hosts: Hosts, url: str, node: str) -> str:
    """Which host a node's worker is on, as the job's status says."""
    (address,) = [one.address for one in fetch_status(url).nodes if one.name == node]
    (found,) = [host for host, number in hosts.address.items() if f"{number}:" in str(address)]
    return found


def measure() -> dict[str, Any]:
    """All of it, in a sandbox."""
    seen: dict[str, Any] = {}
    with cluster() as (hosts, raylets), contextlib.ExitStack() as ending:
        job = job_directory("tiny")
        process = start_daemon(job, plan(), start_timeout_s=240)
        ending.callback(stop_daemon, job)
        record = until_ready(job, process)
        expected = answer(record.url, 1)
        first = host_of_worker(hosts, record.url, "a")
        seen["kinds"] = [KINDS[host_of_worker(hosts, record.url, node)] for node in HALVES]
        seen["actors"] = len(ray.util.list_named_actors())
        seen["log"] = "loading" in (job.path / "logs" / "a.log").read_text()
        # Ray's own processes listen on every address of their host; a worker on the one that it says.
        own = {host: [place for place in hosts.listening(host) if not place.startswith("*")] for host in KINDS}
        seen["listen"] = sum(len(places) for places in own.values())
        secret = any(record.token in " ".join(command_line(int(entry.name))) for entry in Path("/proc").glob("[0-9]*"))
        seen["secret_shown"] = secret

        pids = {node: pid for node, (pid, _) in workers().items()}
        record = kill_the_coordinator(job)
        seen["adopted"] = {node: pid for node, (pid, _) in workers().items()} == pids
        seen["same_after_coordinator"] = answer(record.url, 1) == expected

        began = time.monotonic()
        raylets.kill(first)
        until(lambda: fetch_status(record.url).state != "ready")
        until(lambda: fetch_status(record.url).state == "ready", 180)
        seen["healed_s"] = time.monotonic() - began
        seen["moved"] = host_of_worker(hosts, record.url, "a") != first
        seen["same_after_host"] = answer(record.url, 1) == expected

        stop_daemon(job)
        process.wait()
        until(lambda: not workers())
        groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
        seen["left"] = [ray.util.list_named_actors(), groups]
    return seen


def main() -> int:
    if inside():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HELIX_DF_STATE"] = f"{folder}/state"  # its jobs are nobody else's
            print(json.dumps(measure()), flush=True)
        return 0
    reason = why_not()
    if reason is not None:
        print(f"no hosts can be made here: {reason}", file=sys.stderr)
        return 1
    with enter("tests.chaos.ray_cluster", []) as process:
        printed, _ = process.communicate()
    print(printed)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
