"""The pods of a job that was exported to Kubernetes, run by hand: each container's command as it stands, on a host.

    python -m tests.chaos.pods

No cluster is here: hosts are network namespaces, the names of services stand in a file, and a folder takes the place of
each volume. What Kubernetes would do with the objects isn't shown; that what they say to run works is.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from helix_df.exporters.registry import export_plan
from helix_df.layers import LayerRange
from helix_df.runtime.jobs.job_keys import make_keys
from tests.chaos.hosts import HOME, Hosts, enter, inside, why_not
from tests.runtime.tiny import tiny_plan

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
Json = dict[str, Any]


def objects() -> list[Json]:
    """The manifests of a job of two nodes of one GPU type."""
    plan = tiny_plan(HALVES, runtime={"allow_anyone": True, "max_batch": 4, "max_prefill_tokens": 16})
    (command,) = export_plan(plan, "kubernetes").commands
    return list(yaml.safe_load_all(command.text))


def lay_out(found: list[Json], folder: Path) -> None:
    """What pods mount, at the paths that they mount it at, and names of services as a cluster's DNS has them."""
    lay_over(folder)
    (configuration,) = [one for one in found if one["kind"] == "ConfigMap"]
    for name, text in configuration["data"].items():
        path = Path("/etc/helix-df/job") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    keys = make_keys("tiny", root=folder / "keys")
    mounted = Path("/etc/helix-df/keys")
    mounted.mkdir()
    (mounted / "worker.key").write_bytes(keys.worker_key.read_bytes())
    (mounted / "keys.json").write_bytes((keys.worker_key.parent / "keys.json").read_bytes())
    with Path("/etc/hosts").open("a") as file:
        file.write(f"{HOME} tiny-wire\n")


def lay_over(folder: Path) -> None:
    """Paths of containers that can be written to, and are gone with the sandbox."""
    for path in ("/etc", "/var/lib", "/var/cache"):
        parts = [folder / path.strip("/").replace("/", "-") / part for part in ("upper", "work")]
        for part in parts:
            part.mkdir(parents=True)
        layers = f"lowerdir={path},upperdir={parts[0]},workdir={parts[1]}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, path], check=True)
    for path in ("/run/helix-df", "/var/lib/helix-df", "/var/cache/helix-df", "/etc/helix-df"):
        Path(path).mkdir(exist_ok=True)


def container_of(found: list[Json], name: str) -> Json:
    """The container of a StatefulSet."""
    (one,) = [it for it in found if it["kind"] == "StatefulSet" and it["metadata"]["name"] == name]
    container: Json = one["spec"]["template"]["spec"]["containers"][0]
    return container


def run(container: Json, log: Path, host: str, hosts: Hosts | None = None) -> subprocess.Popen[bytes]:
    """Start a container's command with its environment, at home or on the host of its pod's name."""
    own = {item["name"]: item["value"] for item in container["env"]} | {"HOSTNAME": host}
    kept: Mapping[str, str] = {name: os.environ[name] for name in ("PYTHONPATH", "HOME") if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # of an image that has helix-df
    command = container["command"] if hosts is None else hosts.command(host, container["command"])
    with log.open("wb") as output:
        return subprocess.Popen(command, env={**kept, **own, "PATH": path}, stdout=output, stderr=output)


def answer() -> Json:
    """What the API says, by the port that the service has; HTTP by hand, since nothing else is here."""
    asked = {"model": "tiny", "prompt": [2, 7, 9], "max_tokens": 12, "temperature": 0, "return_token_ids": True}
    body = json.dumps(asked)
    head = ("POST /v1/completions HTTP/1.1", "Host: tiny", "Content-Type: application/json", "Connection: close")
    request = "\r\n".join([*head, f"Content-Length: {len(body)}", "", body])
    with socket.create_connection((HOME, 8000), 60) as line:
        line.sendall(request.encode())
        said = b"".join(iter(lambda: line.recv(65536), b""))
    status, _, rest = said.partition(b"\r\n\r\n")
    assert b" 200 " in status.splitlines()[0], said
    document: Json = json.loads(rest)
    return document


def until(holds: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for something of other processes to come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def measure(folder: Path) -> Json:
    """All of it, in a sandbox."""
    hosts, found = Hosts(["tiny-toy-0", "tiny-toy-1"]), objects()
    lay_out(found, folder)
    coordinator, worker = container_of(found, "tiny-coordinator"), container_of(found, "tiny-toy")
    running = [run(coordinator, folder / "coordinator.log", "tiny-coordinator-0")]
    ready = Path(worker["readinessProbe"]["exec"]["command"][-1])
    try:
        running += [run(worker, folder / f"{host}.log", host, hosts) for host in hosts.address]
        until(ready.exists)
        until(is_ready)
        said = answer()["choices"][0]["token_ids"]
        listening = {host: hosts.listening(host) for host in hosts.address}
        # The kubelet starts a worker again that has ended; it finds the coordinator and joins.
        running[1].kill()
        running[1].wait()
        until(lambda: not is_ready())
        running[1] = run(worker, folder / "again.log", "tiny-toy-0", hosts)
        until(is_ready)
        again = answer()["choices"][0]["token_ids"]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return {"tokens": len(said), "same": said == again, "listening": listening, "ready": ready.exists()}


def is_ready() -> bool:
    """What the coordinator's readiness probe finds."""
    try:
        with socket.create_connection((HOME, 8000), 5) as line:
            line.sendall(b"GET /health HTTP/1.1\r\nHost: tiny\r\nConnection: close\r\n\r\n")
            return b" 200 " in line.recv(64)
    except OSError:
        return False


def main() -> int:
    if inside():
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(folder))), flush=True)
        return 0
    reason = why_not()
    if reason is not None:
        print(f"no hosts can be made here: {reason}", file=sys.stderr)
        return 1
    with enter("tests.chaos.pods", []) as process:
        printed, _ = process.communicate()
    print(printed)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
