"""A job whose workers SSH starts, on hosts that are apart: each has an address, an sshd and a link of its own.

    python -m tests.chaos.ssh_hosts

For root, since an sshd has users of its own. Prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import job_directory, state_folder
from helix_df.runtime.jobs.lifecycle import start_daemon, stop_daemon, until_ready
from helix_df.runtime.jobs.processes import command_line
from tests.chaos.hosts import HOME, Hosts, enter, inside, why_not
from tests.jobs.test_coordinator_dies import answer
from tests.runtime.tiny import tiny_plan

PLACEMENT = {"a": LayerRange(0, 1), "b": LayerRange(1, 3), "c": LayerRange(3, 4)}
CUT_S = 8.0
SLOW_BITS_PER_S = 100_000
SSHD = "/usr/sbin/sshd"
CONFIG = """\
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
"""


def plan(hosts: Hosts, folder: Path) -> Plan:
    """A chain over three hosts."""
    variables = ("PYTHONPATH", "HELIX_DF_CACHE", "HELIX_DF_STATE")
    own = [f"{name}={os.environ[name]}" for name in variables if name in os.environ]
    ssh = {"command": f"env {' '.join(own)} {sys.executable} -m helix_df", "user": "root"}
    ssh |= {"key": str(folder / "client"), "known_hosts": str(folder / "known_hosts")}
    nodes = {name: {"gpu": "toy", "launcher": "ssh", "address": hosts.address[name]} for name in PLACEMENT}
    return tiny_plan(PLACEMENT, nodes=nodes, coordinator={"address": HOME}, launchers={"ssh": ssh})


@contextlib.contextmanager
def servers(hosts: Hosts, folder: Path) -> Iterator[None]:
    """An sshd on every host."""
    for key in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text("".join(f"{address} {public}" for address in hosts.address.values()))
    Path("/run/sshd").mkdir(exist_ok=True)
    running = []
    for host, address in hosts.address.items():
        config = folder / f"sshd.{host}"
        config.write_text(CONFIG.format(address=address, folder=folder))
        running.append(
            subprocess.Popen(hosts.command(host, [SSHD, "-D", "-f", str(config)]), stderr=subprocess.DEVNULL)
        )
    try:
        until(lambda: all(f"{address}:22" in hosts.listening(host) for host, address in hosts.address.items()))
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def until(holds: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for something of other processes to come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def workers() -> dict[str, int]:
    """Processes of workers by node."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        words = command_line(int(entry.name))
        if words[1:4] == ("-m", "helix_df", "worker") and str(state_folder()) in " ".join(words):
            found[words[words.index("--node") + 1]] = int(entry.name)
    return found


def timed(url: str) -> tuple[float, Any]:
    """Seconds of an answer, and what it says."""
    began = time.monotonic()
    said = answer(url, 1)
    return time.monotonic() - began, said


def measure(folder: Path) -> dict[str, Any]:
    """All of it, in a sandbox."""
    hosts, seen = Hosts(list(PLACEMENT)), dict[str, Any]()
    with servers(hosts, folder), contextlib.ExitStack() as ending:
        job = job_directory("tiny")
        process = start_daemon(job, plan(hosts, folder), start_timeout_s=240)
        ending.callback(stop_daemon, job)
        record = until_ready(job, process)
        for _ in range(3):  # they compile
            quick_s, expected = timed(record.url)
        before = workers()
        seen["nodes"] = sorted(before)
        # Beside sshd, one port a host, at the address that the job says.
        seen["listen"] = {
            host: [place for place in hosts.listening(host) if place != f"{address}:22"]
            for host, address in hosts.address.items()
        }
        seen["addresses"] = hosts.address

        hosts.cut("b")
        cut_s = time.monotonic()
        until(lambda: fetch_status(record.url).state != "ready")
        until(lambda: time.monotonic() - cut_s > CUT_S)
        hosts.mend("b")
        until(lambda: fetch_status(record.url).state == "ready")
        seen["same_after_cut"] = answer(record.url, 1) == expected
        seen["same_workers"] = workers() == before

        hosts.slow("b", SLOW_BITS_PER_S)
        sent = hosts.sent_bytes("b")
        slow_s, said = timed(record.url)
        carried_s = 8 * (hosts.sent_bytes("b") - sent) / SLOW_BITS_PER_S
        seen["same_when_slow"], seen["quick_s"] = said == expected, quick_s
        seen["slow_s"], seen["carried_s"] = slow_s, carried_s

        stop_daemon(job)
        process.wait()
        until(lambda: not workers())
        seen["left"] = [str(path) for path in (state_folder() / "attended").glob("**/*")]
    return seen


def main() -> int:
    if inside():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HELIX_DF_STATE"] = f"{folder}/state"  # its jobs are nobody else's
            print(json.dumps(measure(Path(folder))), flush=True)
        return 0
    reason = why_not() or (None if os.geteuid() == 0 else "an sshd has users of its own, which takes root")
    if reason is not None:
        print(f"no hosts can be made here: {reason}", file=sys.stderr)
        return 1
    with enter("tests.chaos.ssh_hosts", [], as_root=True) as process:
        printed, _ = process.communicate()
    print(printed)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
