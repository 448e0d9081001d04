"""What keeps a cluster's sets as they say: pods are made and removed, and those whose set is gone go, too."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from typing import Any

import httpx

Json = dict[str, Any]

LOOK_S = 0.05


class Controllers:
    """Of StatefulSets and of what objects own, in one namespace, as a controller manager of Kubernetes keeps them."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, verify=False, timeout=20)

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            await self._client.aclose()

    async def _look(self) -> None:
        sets = (await self._client.get("/apis/apps/v1/namespaces/default/statefulsets")).json()["items"]
        pods = (await self._client.get("/api/v1/namespaces/default/pods")).json()["items"]
        there = {one["metadata"]["uid"] for one in sets}
        for pod in pods:
            owners = [owner["uid"] for owner in pod["metadata"].get("ownerReferences") or []]
            if owners and not there.intersection(owners):
                await self._remove(pod)
        for one in sets:
            await self._keep(one, [pod for pod in pods if _is_of(pod, one)])

    async def _keep(self, one: Json, pods: list[Json]) -> None:
        wanted = [f"{one['metadata']['name']}-{number}" for number in range(one["spec"]["replicas"])]
        names = {pod["metadata"]["name"] for pod in pods}
        for number, name in enumerate(wanted):
            if name not in names:
                made = await self._client.post("/api/v1/namespaces/default/pods", json=_pod(one, name, number))
                if made.status_code >= 400:
                    await self._tell(one, made.json()["message"])
        for pod in pods:
            if pod["metadata"]["name"] not in wanted:
                await self._remove(pod)
        old = [pod for pod in pods if pod["metadata"]["labels"]["controller-revision-hash"] != _revision(one)]
        if old and not any("deletionTimestamp" in pod["metadata"] for pod in pods):
            await self._remove(max(old, key=lambda pod: int(pod["metadata"]["name"].rpartition("-")[2])))

    async def _tell(self, one: Json, words: str) -> None:
        name, uid = one["metadata"]["name"], one["metadata"]["uid"]
        about = {"apiVersion": "apps/v1", "kind": "StatefulSet", "namespace": "default", "name": name, "uid": uid}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{hashlib.blake2b(words.encode(), digest_size=8).hexdigest()}"},
            "involvedObject": about,
            "reason": "FailedCreate",
            "message": words,
            "type": "Warning",
        }
        await self._client.post("/api/v1/namespaces/default/events", json=event)

    async def _remove(self, pod: Json) -> None:
        if "deletionTimestamp" not in pod["metadata"]:
            await self._client.delete(f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}")


def _is_of(pod: Json, one: Json) -> bool:
    return any(owner["uid"] == one["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences") or [])


def _revision(one: Json) -> str:
    text = json.dumps(one["spec"]["template"], sort_keys=True)
    return f"{one['metadata']['name']}-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


def _pod(one: Json, name: str, number: int) -> Json:
    template = json.loads(json.dumps(one["spec"]["template"]))
    own = {
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(number),
        "controller-revision-hash": _revision(one),
    }
    owner = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": one["metadata"]["name"],
        "uid": one["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {"name": name, "labels": template["metadata"]["labels"] | own, "ownerReferences": [owner]}
    spec = template["spec"] | {"hostname": name, "subdomain": one["spec"]["serviceName"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
