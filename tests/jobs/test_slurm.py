"""Workers as steps of a real Slurm allocation: slurmctld and four slurmds of this machine, two kinds of hosts."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helix_df import deployment
from helix_df.check import check_job
from helix_df.errors import DeploymentError, HelixError
from helix_df.load import parse_job
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import state_folder
from helix_df.runtime.jobs.processes import command_line
from tests.jobs.test_coordinator_dies import HALVES, answer, daemon, kill_the_coordinator, until
from tests.runtime.tiny import tiny_plan

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MISSING = [command for command in NEEDED if shutil.which(command, path=PATH) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0, reason=f"needs root and Slurm (Debian: slurmctld, slurmd, munge); no {MISSING}"
)

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=bf_interval=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=2
SlurmdTimeout=300
GresTypes=gpu
NodeName=large[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{large}] CPUs=2 Feature=large Gres=gpu:a100_80gb:2
NodeName=small[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{small}] CPUs=2 Feature=small
PartitionName=all Nodes=ALL Default=YES State=UP
"""
GENERIC = "".join(f"NodeName=large[1-2] Name=gpu Type=a100_80gb File=/dev/{name}\n" for name in ("null", "zero"))


@dataclass(frozen=True)
class Slurm:
    """A cluster of this machine."""

    folder: Path

    def run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout


def free_ports(count: int) -> list[int]:
    """Ports one after the other that nobody listens on."""
    for first in range(21000, 30000, count):
        with socket.socket() as probe:
            taken = [port for port in range(first, first + count) if probe.connect_ex(("127.0.0.1", port)) == 0]
        if not taken:
            return list(range(first, first + count))
    raise AssertionError("no free ports")


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    monkeypatch.setenv("PATH", PATH)
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # the path of a socket below it may have 108 letters
    folder.chmod(0o755)
    port, *ports = free_ports(5)
    config = CONFIG.format(
        host=socket.gethostname().partition(".")[0],
        port=port,
        folder=folder,
        large=f"{ports[0]}-{ports[1]}",
        small=f"{ports[2]}-{ports[3]}",
    )
    (folder / "slurm.conf").write_text(config)
    (folder / "gres.conf").write_text(GENERIC)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    files = {name: f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")}
    commands = [["munged", "--foreground", "--force", f"--socket={folder}/munge.sock", *files.values()]]
    commands += [["slurmctld", "-D", "-L", f"{folder}/ctld.log"]]
    (folder / "state").mkdir()
    for node in ("large1", "large2", "small1", "small2"):
        (folder / f"spool.{node}").mkdir()
        commands += [["slurmd", "-D", "-N", node, "-L", f"{folder}/{node}.log"]]
    processes = []
    try:
        for command in commands:
            processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
            if command[0] == "munged":
                until((folder / "munge.sock").exists)
        cluster = Slurm(folder)
        until(
            lambda: (
                subprocess.run(["sinfo", "-h", "-N", "-o", "%t"], capture_output=True).stdout.split() == [b"idle"] * 4
            )
        )
        yield cluster
    finally:
        subprocess.run(["scancel", "--quiet", "--user=root"], capture_output=True, timeout=20)
        for process in reversed(processes):
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def on_slurm(**options: Any) -> Plan:
    gpus = {"big": "large", "little": "small"}
    profile = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [4096] * 4}
    nodes = {name: {"gpu": gpu, "launcher": "slurm", "address": "auto"} for name, gpu in zip(HALVES, gpus, strict=True)}
    place = {gpu: [f"--constraint={feature}", "--cpus-per-task=1"] for gpu, feature in gpus.items()}
    said = {"place": place, "command": f"{sys.executable} -m helix_df", "sbatch": ["--partition=all"], **options}
    return tiny_plan(
        HALVES,
        gpus={gpu: {"memory": "1GiB", "profile": profile} for gpu in gpus},
        nodes=nodes,
        coordinator={"address": "127.0.0.1"},
        launchers={"slurm": said},
    )


def workers() -> dict[str, int]:
    """Processes of this test's workers by node; others may run theirs."""
    found, own = {}, str(state_folder())
    for entry in Path("/proc").glob("[0-9]*"):
        words = command_line(int(entry.name))
        if words[1:4] == ("-m", "helix_df", "worker") and any(own in word for word in words):
            found[words[words.index("--node") + 1]] = int(entry.name)
    return found


def test_workers_serve_heal_and_are_found_again(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(on_slurm(), monkeypatch) as (job, record):
        expected = answer(record.url, 1)
        (first, second) = sorted(slurm.run("squeue", "-h", "-o", "%A %N %f").splitlines())
        assert ("large" in first, "small" in second) == (True, True), "one allocation of two components"
        number = first.split()[0]
        before = workers()
        assert sorted(before) == ["a", "b"]
        assert record.token not in "".join(" ".join(command_line(pid)) for pid in before.values())
        assert "loading" in (job.path / "logs" / "a.log").read_text()

        steps = dict(line.split() for line in slurm.run("squeue", "-h", "-s", "-o", "%j %i").splitlines())
        # It ends the step, and says that the other component has none of this number.
        subprocess.run(["scancel", steps["a"]], capture_output=True)
        until(lambda: workers().get("a") not in (None, before["a"]))
        until(lambda: fetch_status(record.url).state == "ready")
        assert answer(record.url, 1) == expected

        os.kill(workers()["b"], signal.SIGKILL)
        until(lambda: workers().get("b") not in (None, before["b"]))
        until(lambda: fetch_status(record.url).state == "ready")
        assert answer(record.url, 1) == expected

        healed = workers()
        record = kill_the_coordinator(job)
        assert answer(record.url, 1) == expected
        assert workers() == healed
        assert number in slurm.run("squeue", "-h", "-o", "%A"), "the next coordinator found the allocation"
        deployment.down("tiny")
        until(lambda: not slurm.run("squeue", "-h"))
        assert workers() == {}
        assert not list(job.path.glob("helix-df-*"))


def test_what_slurm_refuses_is_said_in_its_words(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "invalid partition": {"sbatch": ["--partition=nowhere"]},
        "no room": {"sbatch": ["--partition=all", "--begin=now+1hour"], "wait": "2s"},
        "held": {"sbatch": ["--partition=all", "--hold"]},
        "no such": {"command": "no-such-command"},
    }
    for words, options in wrong.items():
        with pytest.raises(DeploymentError) as error, daemon(on_slurm(**options), monkeypatch):
            pass
        assert words.split()[-1] in str(error.value).lower(), words
        until(lambda: not slurm.run("squeue", "-h"))


JOB = """\
model: {{source: "random:tiny"}}
nodes:
  a: {{gpu: L4, launcher: slurm, {node}}}
links: {{default: {{bandwidth: 1Gbps}}}}
launchers: {{slurm: {{{options}}}}}
"""


@pytest.mark.parametrize(
    ("node", "options", "where"),
    [
        ("address: 10.0.0.1", "", "nodes.a.address"),
        ("address: auto", "place: {T4: []}", "launchers.slurm.place.T4"),
        ("address: auto", "sbatch: --partition=gpu", "launchers.slurm.sbatch"),
        ("address: auto", "wiat: 5s", "launchers.slurm.wiat"),
    ],
)
def test_mistakes_are_found_at_validate(node: str, options: str, where: str) -> None:
    with pytest.raises(HelixError) as error:
        check_job(parse_job(JOB.format(node=node, options=options)))
    assert error.value.where == f"job.yaml:{3 if where.startswith('nodes') else 5}: {where}"
