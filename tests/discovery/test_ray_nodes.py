"""The nodes of a Ray cluster: what Ray says of one, and a real cluster of two raylets asked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from helix_df.cli.main import main
from helix_df.discovery.kind import FoundHost
from helix_df.discovery.ray import host_of, place
from helix_df.runtime.jobs.processes import command_line
from tests.jobs.test_coordinator_dies import until


def test_what_ray_says_of_a_node() -> None:
    node = {
        "NodeManagerAddress": "10.0.0.7",
        "Alive": True,
        "Resources": {"CPU": 64.0, "GPU": 4.0, "node:10.0.0.7": 1.0, "accelerator_type:A100": 1.0},
        "Labels": {"ray.io/node-id": "f00", "ray.io/accelerator-type": "A100-80G", "ray.io/region": "eu-1"},
    }
    host = host_of(node)
    labels = {"ray.io/accelerator-type": "A100-80G", "ray.io/region": "eu-1"}
    assert host == FoundHost("10.0.0.7", "A100-80G", 4, labels, "eu-1")
    assert place(host, None) == {"gpus": 4, "labels": labels}
    unlabelled = host_of(node | {"Labels": {}})
    assert (unlabelled.device, unlabelled.region) == ("A100", None)
    assert place(unlabelled, None) == {"gpus": 4, "resources": {"accelerator_type:A100": 0.001}}
    assert host_of(node | {"Alive": False}).why_not == "Ray says that it isn't alive"
    assert place(FoundHost("r", labels={"kind": "big"}), "kind=big") == {"gpus": 0, "labels": {"kind": "big"}}


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Two raylets of this machine, one with two devices; yields the address."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a socket's path has to be short
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", "--num-gpus=2"]
    raylets = [start([*head, "--labels=ray.io/accelerator-type=NVIDIA_L4,zone=a"])]
    try:
        until(lambda: connects(port))
        raylets.append(start([f"--address={address}", "--num-gpus=0", "--labels=kind=small"]))
        yield address
    finally:
        for raylet in reversed(raylets):
            raylet.terminate()  # which ends what it started
            raylet.wait()
        end_all_in(folder)
        shutil.rmtree(folder, ignore_errors=True)


def start(words: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *words]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--num-cpus=1"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def end_all_in(folder: str) -> None:
    """End what is left of this cluster: processes of Ray that have its folder on their command lines."""
    for entry in Path("/proc").glob("[0-9]*"):
        words = " ".join(command_line(int(entry.name)))
        if f"{folder}/" in words and "ray" in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray isn't installed")
def test_a_real_cluster(tmp_path: Path) -> None:
    part = tmp_path / "nodes.yaml"
    command = [sys.executable, "-m", "helix_df", "discover", "ray", "--type", "kind=small=T4", "--out", str(part)]
    with cluster() as address:
        # Until the second one has joined, no host has its label.
        until(lambda: subprocess.run([*command, f"--address={address}"], capture_output=True).returncode == 0)
    found = yaml.safe_load(part.read_text())
    assert found["nodes"] == {
        "2xl4": {"gpu": "2xL4", "launcher": "ray", "address": "auto"},
        "t4": {"gpu": "T4", "launcher": "ray", "address": "auto"},
    }
    assert found["launchers"]["ray"]["place"] == {
        "2xL4": {"gpus": 2, "labels": {"ray.io/accelerator-type": "NVIDIA_L4"}},
        "T4": {"gpus": 0, "labels": {"kind": "small"}},
    }


@pytest.mark.skipif(find_spec("ray") is None, reason="ray isn't installed")
def test_where_there_is_no_cluster_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["discover", "ray", "--address", "not an address"])
    assert ended.value.code == 7
    assert "there is no such Ray cluster" in capsys.readouterr().err
