"""A cluster's API as the launcher needs it: objects by kind and name, pods that are watched, logs that are followed.

Speaks through the official client, whose configuration, authentication and connections these are; objects are plain
documents, as manifests have them. Owns the words for what the API refuses. Doesn't know what the objects are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helix_df.errors import DeploymentError, SpecError
from helix_df.pods.objects import Json
from helix_df.pods.options import KubernetesOptions

log = logging.getLogger(__name__)

WHERE = "launchers.kubernetes"

CALL_S = 20.0
WATCH_S = 240
"""A watch ends by itself after so many seconds, and begins anew, since a connection may be gone without a word."""

SILENCE_S = 3600.0
"""A log in which nothing is written for so long is asked for again."""

MERGE = "application/merge-patch+json"
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REFRESH_S = 60

_PATHS = {
    "ConfigMap": ("/api/v1", "configmaps"),
    "Event": ("/api/v1", "events"),
    "Pod": ("/api/v1", "pods"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
}


class ApiRefusal(Exception):
    """What the API server says no to: the code of HTTP, its reason in one word, and its words."""

    def __init__(self, code: int, reason: str, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.reason = reason


class ApiSilence(Exception):
    """No answer came."""


@dataclass(frozen=True, slots=True)
class ApiRight:
    """What somebody does to objects of a kind."""

    verb: str
    kind: str
    part: str = ""

    @property
    def attributes(self) -> Json:
        """As the API asks about it, but for the namespace."""
        root, plural = _PATHS[self.kind]
        group = root.split("/")[2] if root.startswith("/apis/") else ""
        return {"verb": self.verb, "group": group, "resource": plural, "subresource": self.part}

    def __str__(self) -> str:
        plural = _PATHS[self.kind][1]
        return f"{self.verb} {plural}/{self.part}" if self.part else f"{self.verb} {plural}"


class ClusterApi:
    """One namespace of one cluster."""

    def __init__(self, client: Any, namespace: str, refresh: asyncio.Task[None] | None = None) -> None:
        self._client = client
        self._refresh = refresh
        self.namespace = namespace

    async def close(self) -> None:
        """Let go of all connections."""
        if self._refresh is not None:
            self._refresh.cancel()
        await self._client.close()

    async def get(self, kind: str, name: str) -> Json | None:
        """An object, or ``None`` if there is none.

        Raises:
            ApiRefusal, ApiSilence: as all methods do.
        """
        return await _unless_absent(self.call("GET", self._path(kind, name)))

    async def list(self, kind: str, selector: str = "", fields: str = "") -> Json:
        """The objects of a kind that bear labels and have values in fields."""
        return await self.call("GET", self._path(kind), {"labelSelector": selector, "fieldSelector": fields})

    async def create(self, document: Json) -> Json:
        """Make an object."""
        return await self.call("POST", self._path(document["kind"]), body=document)

    async def patch(self, kind: str, name: str, change: Json) -> Json:
        """Change what an object has, by a merge patch."""
        return await self.call("PATCH", self._path(kind, name), body=change, content=MERGE)

    async def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """Remove an object and what belongs to it, if it is there."""
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        options = body if grace_s is None else body | {"gracePeriodSeconds": grace_s}
        await _unless_absent(self.call("DELETE", self._path(kind, name), body=options))

    async def may(self, access: ApiRight) -> bool:
        """Whether this user may do something here; yes where the API doesn't tell."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": access.attributes | {"namespace": self.namespace}},
        }
        try:
            said = await self.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        except ApiRefusal as refusal:
            if refusal.code in (403, 404):
                return True
            raise
        return bool(said["status"].get("allowed"))

    async def serves(self, group: str) -> bool:
        """Whether the cluster knows a group of objects, such as ``policy/v1``."""
        return await _unless_absent(self.call("GET", f"/apis/{group}")) is not None

    async def watch(self, kind: str, selector: str, since: str) -> AsyncIterator[tuple[str, Json]]:
        """What happens to objects from a version on, as ``ADDED``, ``MODIFIED`` and so on, for a while."""
        query = {
            "labelSelector": selector,
            "watch": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(WATCH_S),
        }
        async with self._stream(self._path(kind), query, WATCH_S + CALL_S) as lines:
            async for line in lines:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _refusal(event["object"].get("code", 500), line)
                yield event["type"], event["object"]

    async def log(self, pod: str, container: str, since_s: int | None) -> AsyncIterator[bytes]:
        """The lines of a container's log as they come, each behind its time and a space."""
        query = {"container": container, "follow": "true", "timestamps": "true"}
        if since_s is not None:
            query["sinceSeconds"] = str(since_s)
        async with self._stream(f"{self._path('Pod', pod)}/log", query, SILENCE_S) as lines:
            async for line in lines:
                yield line

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content: str = "application/json",
    ) -> Json:
        """An answer's document."""
        import aiohttp

        with _told_silence():
            answer = await self._request(method, path, query or {}, body, content, aiohttp.ClientTimeout(total=CALL_S))
            text = await answer.read()
        if answer.status >= 400:
            raise _refusal(answer.status, text)
        document: Json = json.loads(text or b"{}")
        return document

    @contextlib.asynccontextmanager
    async def _stream(
        self, path: str, query: Mapping[str, str], silence_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=silence_s)
        with _told_silence():
            answer = (await self._request("GET", path, query, None, "application/json", timeout)).response
            try:
                if answer.status >= 400:
                    raise _refusal(answer.status, await answer.read())
                yield _lines(answer.content)
            finally:
                answer.close()

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: Json | None, content: str, timeout: Any
    ) -> Any:
        asked = await self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=[(key, value) for key, value in query.items() if value],
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        return await self._client.call_api(*asked, _request_timeout=timeout)

    def _path(self, kind: str, name: str = "") -> str:
        root, plural = _PATHS[kind]
        path = f"{root}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path


async def connect(options: KubernetesOptions) -> ClusterApi:
    """The cluster that a job means.

    Raises:
        DeploymentError: where nothing says how it is reached.
    """
    from kubernetes.aio import client, config

    said = client.Configuration()
    said.connection_pool_maxsize = 0  # a log that is followed takes one each
    refresh = None
    namespace = options.namespace
    try:
        if in_pod() and not kubeconfigs(options):
            config.load_incluster_config(said)
            namespace = namespace or (IN_POD / "namespace").read_text("utf-8").strip()
        else:
            file = None if options.kubeconfig is None else str(options.kubeconfig.expanduser())
            loader = await config.load_kube_config(
                file, context=options.context, client_configuration=said, persist_config=False
            )
            namespace = namespace or current_namespace(options)
            if loader._user is not None:
                refresh = asyncio.create_task(config.refresh_token(loader, said, REFRESH_S))
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        raise DeploymentError(
            "nothing says how the cluster is reached",
            where=f"{WHERE}.kubeconfig",
            found=str(error),
            hint="`kubectl config view` shows what there is; KUBECONFIG or launchers.kubernetes.kubeconfig names it",
        ) from error
    return ClusterApi(client.ApiClient(said), namespace or "default", refresh)


def in_pod() -> bool:
    """Whether this is a pod with an account of its own."""
    return (IN_POD / "token").exists()


def kubeconfigs(options: KubernetesOptions) -> list[Path]:
    """The files that say how clusters are reached, as far as they are there."""
    places = os.environ.get("KUBECONFIG") or "~/.kube/config"
    said = places.split(os.pathsep) if options.kubeconfig is None else [str(options.kubeconfig)]
    return [path for path in (Path(one).expanduser() for one in said if one) if path.is_file()]


def contexts(files: Sequence[Path]) -> tuple[dict[str, Json], str | None]:
    """The contexts in files, by name, and the current one; the first file that names a thing is right.

    Raises:
        SpecError: for a file that is none.
    """
    found: dict[str, Json] = {}
    current: str | None = None
    for file in files:
        try:
            document = yaml.safe_load(file.read_text("utf-8")) or {}
            current = current or document.get("current-context") or None
            for one in document.get("contexts") or []:
                found.setdefault(str(one["name"]), one.get("context") or {})
        except (yaml.YAMLError, OSError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            words = " ".join(str(error).split())
            raise SpecError("this is no kubeconfig", where=f"{WHERE}.kubeconfig", found=f"{file}: {words}") from error
    return found, current


def current_namespace(options: KubernetesOptions) -> str | None:
    """The namespace of the context in use, if it has one."""
    found, current = contexts(kubeconfigs(options))
    namespace: str | None = found.get(options.context or current or "", {}).get("namespace")
    return namespace


def in_words(error: ApiRefusal | ApiSilence, doing: str, api: ClusterApi) -> DeploymentError:
    """What the API said, for a user, and what would work."""
    namespace = api.namespace
    if isinstance(error, ApiSilence):
        return DeploymentError(
            "the cluster can't be reached",
            where=WHERE,
            found=f"{doing}: {error}",
            hint="`kubectl version` from here; launchers.kubernetes.context and kubeconfig say which cluster",
        )
    hints = {
        401: "the token or certificate has run out, or is another cluster's: `kubectl auth whoami`",
        403: f"`kubectl auth can-i --list -n {namespace}` says what this user may do, docs/fleets.md what is needed",
        404: "somebody has removed it; `helix-df down` and `helix-df apply` make all anew",
        409: "somebody else changes the same objects; `helix-df apply` again",
        422: "what the cluster expects is in its words above; launchers.kubernetes says what pods are like",
    }
    if error.code == 404 and "namespace" in str(error):
        hints[404] = f"`kubectl create namespace {namespace}`, or another one under launchers.kubernetes.namespace"
    hint = hints.get(error.code, "the cluster's own log says more; `helix-df apply` again")
    return DeploymentError(f"the cluster says no to {doing}", where=WHERE, found=f"{error.code}: {error}", hint=hint)


def _refusal(code: int, text: bytes) -> ApiRefusal:
    try:
        status: Any = json.loads(text)
        status = status.get("object", status)
        return ApiRefusal(code, str(status.get("reason") or ""), str(status.get("message") or "no words"))
    except (ValueError, AttributeError):
        return ApiRefusal(code, "", text.decode(errors="replace").strip()[:500] or "no words")


async def _unless_absent(answer: Coroutine[Any, Any, Json]) -> Json | None:
    try:
        return await answer
    except ApiRefusal as refusal:
        if refusal.code == 404:
            return None
        raise


@contextlib.contextmanager
def _told_silence() -> Iterator[None]:
    import aiohttp

    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ApiSilence(str(error) or type(error).__name__) from error


async def _lines(content: Any) -> AsyncIterator[bytes]:
    """Whole lines of a stream, however long they are; the last one may have no end."""
    rest = b""
    while piece := await content.readany():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
