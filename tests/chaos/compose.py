"""The services of packaging/compose.yaml, their commands as they stand, each on a host of its own.

What an image brings (the program, its paths, its environment) is laid over this machine's in a sandbox, where all hosts
have the same files. Containers and images themselves are not here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos.hosts import HOME, Hosts, inside
from tests.chaos.pods import answer, is_ready, lay_over, run, until

Json = dict[str, Any]

JOB = """\
name: compose
model: {source: "random:tiny", context: 256}
gpus: {cpu: {memory: 1GiB, profile: {tokens_per_s: [400, 200, 130, 100], kv_tokens: [4096, 4096, 4096, 4096]}}}
nodes: {worker: {gpu: cpu, count: 2, launcher: external, address: auto}}
links: {default: {bandwidth: 10Gbps}}
solver: even
coordinator: {address: "coordinator:7000"}
runtime: {host: 0.0.0.0, port: 8000, allow_anyone: true, max_batch: 4, max_prefill_tokens: 16}
"""


def container_of(service: Json) -> Json:
    """What runs, as ``run`` takes it; `$$` is a dollar to compose."""
    command = [word.replace("$$", "$") for word in (*service["entrypoint"], *service["command"])]
    image = {"HELIX_DF_STATE": "/var/lib/helix-df", "HELIX_DF_CACHE": "/var/cache/helix-df"}
    said: Json = image | (service.get("environment") or {})
    return {"command": command, "env": [{"name": name, "value": value} for name, value in said.items()]}


def measure(services: Json, folder: Path) -> Json:
    """All of it, in a sandbox."""
    workers = sorted(services.keys() - {"coordinator"})
    hosts = Hosts(workers)
    lay_over(folder)
    Path("/etc/helix-df/job.yaml").write_text(JOB)
    Path("/etc/helix-df/keys").mkdir()
    with Path("/etc/hosts").open("a") as file:
        file.write(f"{HOME} coordinator\n")
    running = [run(container_of(services[worker]), folder / f"{worker}.log", worker, hosts) for worker in workers]
    try:
        running.append(run(container_of(services["coordinator"]), folder / "coordinator.log", "coordinator"))
        until(is_ready)
        ready = Path(services[workers[0]]["healthcheck"]["test"][-1]).exists()
        said = answer()["choices"][0]["token_ids"]
        listening = {host: hosts.listening(host) for host in workers}
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()
    return {"tokens": len(said), "ready": ready, "listening": listening}


def main() -> int:
    assert inside()
    services: Json = json.loads(Path(sys.argv[1]).read_text())["services"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(json.dumps(measure(services, Path(folder))), flush=True)
        except AssertionError:
            for log in Path(folder).glob("*.log"):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
