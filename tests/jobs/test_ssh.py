"""Workers that SSH starts on hosts, by a real sshd: they serve, heal, outlive their coordinator, and leave nothing."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helix_df import deployment
from helix_df.check import check_job
from helix_df.errors import DeploymentError, HelixError
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import job_directory, state_folder
from helix_df.runtime.jobs.lifecycle import start_daemon, until_ready
from helix_df.runtime.jobs.processes import children_of, command_line
from tests.jobs.test_coordinator_dies import HALVES, ROOT, answer, daemon, kill_the_coordinator, until
from tests.runtime.tiny import tiny_plan

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd here (Debian: openssh-server)")

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
PidFile {folder}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
"""


@dataclass(frozen=True)
class Sshd:
    """A server on loopback that lets this user in with one key."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def options(self, **more: Any) -> dict[str, Any]:
        """What a job says of it."""
        command = f"env {' '.join(own_variables())} {sys.executable} -m helix_df"
        return {
            "command": command,
            "user": getpass.getuser(),
            "port": self.port,
            "key": str(self.folder / "client"),
            "known_hosts": str(self.folder / "known_hosts"),
            **more,
        }


def own_variables() -> list[str]:
    """What a session over SSH doesn't inherit, and a test's processes need."""
    named = {"PYTHONPATH", "HELIX_DF_CACHE", "HELIX_DF_STATE", "TMPDIR", "JAX_PLATFORMS", "HELIX_DF_CHECKED"}
    return [f"{name}={value}" for name, value in os.environ.items() if name in named]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    for key in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "config").write_text(CONFIG.format(port=port, folder=tmp_path))
    public = (tmp_path / "host.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    assert SSHD is not None
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "config"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                break
    yield Sshd(port, tmp_path, process)
    process.terminate()
    process.wait()


def over_ssh(options: dict[str, Any], placement: dict[str, LayerRange] = HALVES, **changes: Any) -> Plan:
    nodes = {name: {"gpu": "toy", "launcher": "ssh", "address": "127.0.0.1"} for name in placement}
    return tiny_plan(placement, nodes=nodes, launchers={"ssh": options}, **changes)


def attended() -> dict[str, int]:
    """Workers that `attend` started, and those that attend to them, by what they are and their node."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        words = command_line(int(entry.name))
        if "helix_df" in words and str(state_folder()) in " ".join(words) + own_state(int(entry.name)):
            if "attend" in words:
                found[f"attend {words[words.index('--node') + 1]}"] = int(entry.name)
            elif "worker" in words and "-" in words:
                found[words[words.index("--node") + 1]] = int(entry.name)
    return found


def own_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def test_workers_serve_heal_and_outlive_their_coordinator(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    options = sshd.options()
    with daemon(over_ssh(options), monkeypatch) as (job, record):
        expected = answer(record.url, 1)
        before = attended()
        assert sorted(before) == ["a", "attend a", "attend b", "b"]
        for pid in before.values():
            assert record.token not in " ".join(command_line(pid)) + own_state(pid)
        assert "loading" in (job.path / "logs" / "a.log").read_text()

        os.kill(before["a"], signal.SIGKILL)
        until(lambda: attended().get("a") not in (None, before["a"]))
        until(lambda: fetch_status(record.url).state == "ready")
        assert answer(record.url, 1) == expected

        healed = attended()
        record = kill_the_coordinator(job)
        until(lambda: {"attend a", "attend b"} <= attended().keys())
        assert answer(record.url, 1) == expected
        now = attended()
        assert (now["a"], now["b"]) == (healed["a"], healed["b"]), "the next coordinator found them"
        assert now["attend a"] != healed["attend a"]

        # A session that breaks is none of the worker's business.
        os.kill(now["attend b"], signal.SIGKILL)
        until(lambda: attended().get("attend b") not in (None, now["attend b"]))
        assert attended()["b"] == now["b"]
        assert answer(record.url, 1) == expected

        # Another plan's workers are started beside those that serve, under names of their own.
        deployment.change(over_ssh(options, {"a": LayerRange(0, 1), "b": LayerRange(1, 4)}))
        until(lambda: {name for name in attended() if "attend" not in name} == {"a.2", "b.2"})
        assert answer(record.url, 1) == expected
        record = kill_the_coordinator(job)
        assert answer(record.url, 1) == expected
        assert {name for name in attended() if "attend" not in name} == {"a.2", "b.2"}
        deployment.down("tiny")
        assert attended() == {}
        assert not (state_folder() / "attended").exists()


def test_workers_whose_job_is_gone_end_and_tidy_up(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    job = job_directory("tiny")
    plan = over_ssh(sshd.options(), runtime={"coordinator_timeout": "3s"})
    process = start_daemon(job, plan, start_timeout_s=240)
    record = until_ready(job, process)
    left = attended()
    assert {"a", "b"} <= left.keys()
    for pid in {process.pid, *children_of(process.pid), record.coordinator}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    until(lambda: {"attend a", "attend b"}.isdisjoint(attended()))
    assert attended().items() <= left.items(), "nobody is started any more"
    until(lambda: not attended())
    until(lambda: not (state_folder() / "attended").exists())


def test_what_is_wrong_with_a_host_is_said_in_one_sentence(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    (sshd.folder / "nobody").write_text("")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", sshd.folder / "stranger"], check=True)
    wrong: dict[str, dict[str, Any]] = {
        "launchers.ssh.known_hosts": {"known_hosts": str(sshd.folder / "nobody")},
        "launchers.ssh.key": {"key": str(sshd.folder / "stranger")},
        "launchers.ssh.command": {"command": "helix-fd"},
        "can't be reached": {"port": 1},
    }
    for words, options in wrong.items():
        with pytest.raises(DeploymentError) as error, daemon(over_ssh(sshd.options(**options)), monkeypatch):
            pass
        assert words in str(error.value)
        assert "127.0.0.1" in str(error.value)
    assert attended() == {}


JOB = """\
model: {{source: "random:tiny"}}
nodes:
  a: {{gpu: L4, launcher: ssh{node}}}
links: {{default: {{bandwidth: 1Gbps}}}}
launchers: {{ssh: {{{options}}}}}
"""


@pytest.mark.parametrize(
    ("node", "options", "where"),
    [
        ("", "", "nodes.a"),
        (", address: 10.0.0.1", "key: /no/such/key", "launchers.ssh.key"),
        (", address: 10.0.0.1", "hosts: {b: lab}", "launchers.ssh.hosts.b"),
        (", address: 10.0.0.1", "prot: 22", "launchers.ssh.prot"),
        (", address: 10.0.0.1", "port: 70000", "launchers.ssh.port"),
    ],
)
def test_mistakes_are_found_at_validate(node: str, options: str, where: str) -> None:
    with pytest.raises(HelixError) as error:
        check_job(parse_job(JOB.format(node=node, options=options)))
    assert error.value.where == f"job.yaml:{3 if where.startswith('nodes') else 5}: {where}"
