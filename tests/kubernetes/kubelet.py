"""Hosts of a cluster without containers: pods are put on hosts, their commands run as they stand, and logs are served.

Speaks to whichever API server there is, as a scheduler and a kubelet do. A pod's process sees the files that its
container mounts at their paths, in a namespace of its own; it shares this machine's network and users. Probes are asked
more often than they say, and waits between restarts are shorter than a kubelet's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]

LOOK_S = 0.05
FIRST_BACK_OFF_S = 0.2
MERGE = {"content-type": "application/merge-patch+json"}

_LAY_OUT = """\
set -e
for path in /etc /var/lib /var/cache; do
    own=$1/layers$path
    mkdir -p $own/upper $own/work
    mount -t overlay overlay -o lowerdir=$path,upperdir=$own/upper,workdir=$own/work $path
done
mount -t tmpfs none /run
mkdir -p /run/netns
cd $1/volumes
while read -r volume path; do
    mkdir -p "$path"
    mount --bind "$1/volumes/$volume" "$path"
done < $1/mounts
cd /
shift
exec "$@"
"""
"""A pod's files, before its command takes the place of this."""


@dataclass(frozen=True)
class Host:
    """A host's name, labels, taints, and how many of what it has."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[tuple[str, str], ...] = ()
    devices: int = 8


@dataclass
class Running:
    """A pod on a host."""

    pod: Json
    folder: Path
    process: asyncio.subprocess.Process | None = None
    container: str = ""
    restarts: int = 0
    ready: bool = False
    last: Json = field(default_factory=dict)
    log: Path = Path()
    task: asyncio.Task[None] | None = None


class Kubelet:
    """All hosts of a cluster."""

    def __init__(self, url: str, token: str, hosts: tuple[Host, ...], images: set[str], folder: Path) -> None:
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, verify=False, timeout=20)
        self.hosts = hosts
        self.images = images
        self._folder = folder
        self._pods: dict[str, Running] = {}
        self.back_off_s = FIRST_BACK_OFF_S

    @property
    def app(self) -> Starlette:
        """What the API server asks for logs."""
        return Starlette(routes=[Route("/containerLogs/{namespace}/{pod}/{container}", self._logs)])

    def pid(self, name: str) -> int | None:
        """The process of a pod's container."""
        for running in self._pods.values():
            if running.pod["metadata"]["name"] == name and running.process is not None:
                return running.process.pid if running.process.returncode is None else None
        return None

    async def run(self) -> None:
        """Until it is cancelled, which ends all pods."""
        try:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            for running in self._pods.values():
                if running.task is not None:
                    running.task.cancel()
                if running.process is not None and running.process.returncode is None:
                    running.process.kill()
                    await running.process.wait()
            await self._client.aclose()

    async def _look(self) -> None:
        listed = (await self._client.get("/api/v1/namespaces/default/pods")).json()["items"]
        for pod in listed:
            uid = pod["metadata"]["uid"]
            if not pod["spec"].get("nodeName"):
                await self._place(pod, listed)
            elif uid not in self._pods:
                running = self._pods[uid] = Running(pod, self._folder / uid)
                running.task = asyncio.create_task(self._attend(running))
            else:
                self._pods[uid].pod = pod
        there = {pod["metadata"]["uid"] for pod in listed}
        for uid in [uid for uid in self._pods if uid not in there]:
            running = self._pods.pop(uid)
            if running.task is not None:
                running.task.cancel()
            if running.process is not None and running.process.returncode is None:
                running.process.kill()  # somebody has removed it without grace
                await running.process.wait()
            shutil.rmtree(running.folder, ignore_errors=True)

    # ------------------------------------------------------------------ as a scheduler

    async def _place(self, pod: Json, others: list[Json]) -> None:
        for host in self.hosts:
            if self._fits(pod, host, others):
                target = {"apiVersion": "v1", "kind": "Node", "name": host.name}
                body = {
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {"name": pod["metadata"]["name"]},
                    "target": target,
                }
                await self._client.post(f"{_path(pod)}/binding", json=body)
                pod["spec"]["nodeName"] = host.name
                return
        count = len(self.hosts)
        words = f"0/{count} nodes are available: {count} node(s) didn't match Pod's node affinity/selector."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
        if condition not in (pod.get("status") or {}).get("conditions", []):
            await self._tell(pod, {"phase": "Pending", "conditions": [condition]})

    def _fits(self, pod: Json, host: Host, others: list[Json]) -> bool:
        spec = pod["spec"]
        selected = (spec.get("nodeSelector") or {}).items() <= host.labels.items()
        tolerated = {(one.get("key"), one.get("effect")) for one in spec.get("tolerations") or []}
        bears = all((key, effect) in tolerated or (key, None) in tolerated for key, effect in host.taints)
        taken = sum(_devices(one) for one in others if one["spec"].get("nodeName") == host.name)
        return selected and bears and taken + _devices(pod) <= host.devices

    # ------------------------------------------------------------------ as a kubelet

    async def _attend(self, running: Running) -> None:
        container = running.pod["spec"]["containers"][0]
        if container["image"] not in self.images:
            words = f'Back-off pulling image "{container["image"]}"'
            await self._say(running, {"waiting": {"reason": "ImagePullBackOff", "message": words}})
            await self._until_deleted(running)
            return
        wait_s = self.back_off_s
        while True:
            await self._start(running, container)
            await self._while_it_runs(running, container)
            if await self._is_deleted(running):
                return
            code = running.process.returncode if running.process is not None else 1
            ended = {
                "exitCode": code if code is not None and code >= 0 else 128 - (code or 0),
                "containerID": running.container,
            }
            running.last = {"terminated": {**ended, "reason": "Error" if code else "Completed", "finishedAt": _now()}}
            running.ready = False
            words = f"back-off {wait_s:g}s restarting failed container"
            await self._say(running, {"waiting": {"reason": "CrashLoopBackOff", "message": words}})
            until = time.monotonic() + wait_s
            while time.monotonic() < until:
                if await self._is_deleted(running):
                    return
                await asyncio.sleep(LOOK_S)
            wait_s = min(2 * wait_s, 5.0)
            running.restarts += 1

    async def _start(self, running: Running, container: Json) -> None:
        folder, pod = running.folder, running.pod
        for part in ("volumes", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        await self._mount(running)
        lines = [f"{mount['name']} {mount['mountPath']}" for mount in container["volumeMounts"]]
        (folder / "mounts").write_text("".join(f"{line}\n" for line in lines))
        running.container = f"standin://{pod['metadata']['uid']}-{running.restarts}"
        running.log = folder / "logs" / f"{running.restarts}.log"
        own = {one["name"]: one["value"] for one in container.get("env") or []}
        image = {name: os.environ[name] for name in ("PYTHONPATH", "HOME", "LANG") if name in os.environ}
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"  # of an image that has helix-df
        layers = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _LAY_OUT, "sh", str(folder)]
        running.process = await asyncio.create_subprocess_exec(
            *layers,
            *container["command"],
            *(container.get("args") or []),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**image, **own, "PATH": path, "HOSTNAME": pod["metadata"]["name"]},
        )
        asyncio.create_task(_write_log(running.process, running.log))  # noqa: RUF006  # ends with the process
        await self._say(running, {"running": {"startedAt": _now()}})

    async def _while_it_runs(self, running: Running, container: Json) -> None:
        process = running.process
        assert process is not None
        while process.returncode is None:
            if await self._is_deleted(running):
                return
            await self._mount(running)
            ready = await self._probe(process.pid, container.get("readinessProbe"))
            if ready != running.ready:
                running.ready = ready
                await self._say(running, {"running": {"startedAt": _now()}})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 4 * LOOK_S)

    async def _probe(self, pid: int, probe: Json | None) -> bool:
        if probe is None:
            return True
        command = [
            "nsenter",
            "--target",
            str(pid),
            "--user",
            "--preserve-credentials",
            "--mount",
            *probe["exec"]["command"],
        ]
        asked = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        return await asked.wait() == 0

    async def _mount(self, running: Running) -> None:
        """Write what volumes hold, as a kubelet does again and again."""
        for volume in running.pod["spec"]["volumes"]:
            folder = running.folder / "volumes" / volume["name"]
            folder.mkdir(exist_ok=True)
            if "configMap" in volume:
                files = (await self._read("configmaps", volume["configMap"]["name"])).get("data") or {}
            elif "secret" in volume:
                data = (await self._read("secrets", volume["secret"]["secretName"])).get("data") or {}
                files = {name: base64.b64decode(text).decode() for name, text in data.items()}
            else:
                continue
            for name, text in files.items():
                if not (folder / name).exists() or (folder / name).read_text() != text:
                    (folder / f".{name}").write_text(text)
                    (folder / f".{name}").chmod(0o640 if "secret" in volume else 0o644)
                    (folder / f".{name}").replace(folder / name)
            for path in folder.iterdir():
                if path.name not in files:
                    path.unlink()

    async def _is_deleted(self, running: Running) -> bool:
        """Whether somebody wants the pod to go, which it then has: asked first, then made to."""
        metadata = running.pod["metadata"]
        if "deletionTimestamp" not in metadata:
            return False
        process = running.process
        if process is not None and process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), metadata["deletionGracePeriodSeconds"])
            if process.returncode is None:
                process.kill()
                await process.wait()
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        options["preconditions"] = {"uid": metadata["uid"]}
        await self._client.request("DELETE", _path(running.pod), json=options)
        return True

    async def _until_deleted(self, running: Running) -> None:
        while not await self._is_deleted(running):
            await asyncio.sleep(LOOK_S)

    async def _read(self, resource: str, name: str) -> Json:
        answer = await self._client.get(f"/api/v1/namespaces/default/{resource}/{name}")
        document: Json = answer.json() if answer.status_code == 200 else {}
        return document

    async def _say(self, running: Running, state: Json) -> None:
        container = running.pod["spec"]["containers"][0]
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": running.ready,
            "started": "running" in state,
            "restartCount": running.restarts,
            "state": state,
            "lastState": running.last,
            **({"containerID": running.container} if running.container else {}),
        }
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if running.ready else "False"},
        ]
        phase = "Running" if running.container else "Pending"
        await self._tell(running.pod, {"phase": phase, "conditions": conditions, "containerStatuses": [status]})

    async def _tell(self, pod: Json, status: Json) -> None:
        await self._client.patch(f"{_path(pod)}/status", content=json.dumps({"status": status}), headers=MERGE)

    async def _logs(self, request: Request) -> Response:
        name = request.path_params["pod"]
        for running in self._pods.values():
            if running.pod["metadata"]["name"] == name and running.log.exists():
                since_s = request.query_params.get("sinceSeconds")
                since = None if since_s is None else time.time() - float(since_s)
                return StreamingResponse(_follow(running.process, running.log, since), media_type="text/plain")
        return PlainTextResponse("there is no such container", 404)


async def _write_log(process: asyncio.subprocess.Process, path: Path) -> None:
    """As container runtimes do: each line behind its time."""
    assert process.stdout is not None
    with path.open("wb") as file:
        while line := await process.stdout.readline():
            file.write(f"{datetime.now(UTC).isoformat()} ".replace("+00:00", "000Z").encode() + line)
            file.flush()


async def _follow(process: asyncio.subprocess.Process | None, path: Path, since: float | None) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        rest = b""
        while True:
            ended = process is None or process.returncode is not None
            rest += file.read()
            *whole, rest = rest.split(b"\n")
            for line in whole:
                at = datetime.fromisoformat(line.partition(b" ")[0].decode().replace("000Z", "+00:00")).timestamp()
                if since is None or at >= since:
                    yield line + b"\n"
            if ended and not whole:
                return
            await asyncio.sleep(LOOK_S)


def _devices(pod: Json) -> int:
    limits = (pod["spec"]["containers"][0].get("resources") or {}).get("limits") or {}
    return sum(int(amount) for name, amount in limits.items() if name.endswith("/gpu"))


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def end(pid: int) -> None:
    """As if the worker itself had died."""
    os.kill(pid, signal.SIGKILL)
