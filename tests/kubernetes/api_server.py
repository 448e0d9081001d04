"""An API server of Kubernetes for the calls that helix-df makes, and no others: strict where a real one is.

Objects are held to Kubernetes' published schemas, which know no unknown field, and to the rules beyond those that real
servers have: versions, conflicts, names, what can't be changed, deletion with grace. Whoever asks needs the token.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import hmac
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import kubernetes_validate
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]

SCHEMA = "1.37"
KINDS = {
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "events"): "Event",
    ("v1", "pods"): "Pod",
    ("v1", "secrets"): "Secret",
    ("v1", "services"): "Service",
    ("apps/v1", "statefulsets"): "StatefulSet",
    ("policy/v1", "poddisruptionbudgets"): "PodDisruptionBudget",
}
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"(?=.{0,63}$)([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
CHANGEABLE = {"replicas", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy", "minReadySeconds"}
"""Of a StatefulSet."""

MOST_CONFIG_BYTES = 2**20
KNOWN_QUERIES = {
    "labelSelector",
    "fieldSelector",
    "watch",
    "resourceVersion",
    "timeoutSeconds",
    "container",
    "follow",
    "timestamps",
    "sinceSeconds",
}


class Refusal(Exception):
    """A Status, as the server answers with one."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.document: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


def merged(there: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    result = dict(there) if isinstance(there, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class ApiServer:
    """All objects of a cluster, and who may do what with them.

    ``forbidden`` are verbs and resources that the user of ``token`` may not use; ``hosts`` and ``controllers`` have
    the token ``inner``, which may do everything.
    """

    def __init__(self, token: str, inner: str, namespaces: tuple[str, ...] = ("default",)) -> None:
        self.token, self.inner = token, inner
        self.namespaces = namespaces
        self.forbidden: set[tuple[str, str]] = set()
        self.groups = {"apps/v1", "policy/v1"}
        self.kubelet = ""
        self.is_away = False
        self.quota: int | None = None
        """How many pods there may be."""
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._version = 100
        self._oldest = 100
        self._events: list[tuple[int, str, Json]] = []
        self._changed = asyncio.Event()

    @property
    def app(self) -> Starlette:
        """What answers."""
        names = "/namespaces/{namespace}/{resource}"
        routes = [
            Route("/version", self._answer(self._say_version), methods=["GET"]),
            Route(
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self._answer(self._review), methods=["POST"]
            ),
            Route("/apis/{group}/{version}", self._answer(self._group), methods=["GET"]),
        ]
        for root in ("/api/{version}", "/apis/{group}/{version}"):
            routes += [
                Route(f"{root}{names}", self._answer(self._collection), methods=["GET", "POST"]),
                Route(f"{root}{names}/{{name}}", self._answer(self._one), methods=["GET", "PATCH", "DELETE"]),
                Route(f"{root}{names}/{{name}}/{{part}}", self._answer(self._part), methods=["GET", "PATCH", "POST"]),
            ]
        return Starlette(routes=routes)

    def forget_history(self) -> None:
        """As a server does that has been running for long: watches can't go on from old versions."""
        self._oldest = self._version
        self._events.clear()

    # ------------------------------------------------------------------ HTTP

    def _answer(self, handle: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                unknown = set(request.query_params) - KNOWN_QUERIES
                if unknown:
                    raise Refusal(400, "BadRequest", f"unknown query parameters {unknown}")
                self._authenticate(request)
                if self.is_away and request.headers["authorization"] == f"Bearer {self.token}":
                    raise Refusal(503, "ServiceUnavailable", "the server is currently unable to handle the request")
                said = handle(request)
                said = await said if asyncio.iscoroutine(said) else said
            except Refusal as refusal:
                return JSONResponse(refusal.document, refusal.code)
            return said if isinstance(said, Response) else JSONResponse(said, 201 if request.method == "POST" else 200)

        return answer

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not any(hmac.compare_digest(token, one) for one in (self.token, self.inner)):
            raise Refusal(401, "Unauthorized", "Unauthorized")

    def _authorize(self, request: Request, verb: str, resource: str) -> None:
        outer = request.headers["authorization"] == f"Bearer {self.token}"
        if outer and (verb, resource) in self.forbidden:
            words = f'{resource} is forbidden: User "tester" cannot {verb} resource "{resource}" in API group ""'
            raise Refusal(403, "Forbidden", words)

    def _say_version(self, request: Request) -> Json:
        return {"major": "1", "minor": SCHEMA.split(".")[1], "gitVersion": f"v{SCHEMA}.0"}

    def _group(self, request: Request) -> Json:
        group = f"{request.path_params['group']}/{request.path_params['version']}"
        if group not in self.groups:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": []}

    async def _review(self, request: Request) -> Json:
        review = json.loads(await request.body())
        asked = review["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return review | {"status": {"allowed": (asked["verb"], resource) not in self.forbidden}}

    async def _collection(self, request: Request) -> Json | Response:
        kind, resource, namespace = self._kind(request)
        if request.method == "POST":
            self._authorize(request, "create", resource)
            return self.create(kind, namespace, await _body(request))
        watching = request.query_params.get("watch") == "true"
        self._authorize(request, "watch" if watching else "list", resource)
        fits = _filter(request.query_params.get("labelSelector", ""), request.query_params.get("fieldSelector", ""))
        if watching:
            since = int(request.query_params["resourceVersion"])
            seconds = float(request.query_params.get("timeoutSeconds", "300"))
            return StreamingResponse(self._watch(kind, namespace, fits, since, seconds), media_type="application/json")
        items = [one for (of, where, _), one in self._objects.items() if (of, where) == (kind, namespace) and fits(one)]
        version = {"resourceVersion": str(self._version)}
        return {"kind": f"{kind}List", "apiVersion": "v1", "metadata": version, "items": copy.deepcopy(items)}

    async def _one(self, request: Request) -> Json:
        kind, resource, namespace = self._kind(request)
        name = request.path_params["name"]
        verb = {"GET": "get", "PATCH": "patch", "DELETE": "delete"}[request.method]
        self._authorize(request, verb, resource)
        if verb == "get":
            return copy.deepcopy(self._get(kind, namespace, name))
        if verb == "delete":
            return self.delete(kind, namespace, name, json.loads(await request.body() or b"{}"))
        return self.patch(kind, namespace, name, await _patch(request))

    async def _part(self, request: Request) -> Json | Response:
        kind, resource, namespace = self._kind(request)
        name, part = request.path_params["name"], request.path_params["part"]
        verb = {"GET": "get", "PATCH": "patch", "POST": "create"}[request.method]
        self._authorize(request, verb, f"{resource}/{part}")
        one = self._get(kind, namespace, name)
        match kind, part, verb:
            case "Pod", "log", "get":
                return await self._log(one, request.query_params)
            case "Pod", "binding", "create":
                one["spec"]["nodeName"] = (await _body(request))["target"]["name"]
                self._tell("MODIFIED", one)
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
            case _, "status", "patch":
                change = await _patch(request)
                self._require_version(one, change)
                one["status"] = merged(one.get("status") or {}, change["status"])
                self._tell("MODIFIED", one)
                return copy.deepcopy(one)
        raise Refusal(404, "NotFound", "the server could not find the requested resource")

    def _kind(self, request: Request) -> tuple[str, str, str]:
        params = request.path_params
        version = "/".join(filter(None, (params.get("group"), params["version"])))
        kind = KINDS.get((version, params["resource"]))
        if kind is None or (params.get("group") and version not in self.groups):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return kind, params["resource"], params["namespace"]

    async def _log(self, pod: Json, query: Mapping[str, str]) -> Response:
        statuses = (pod.get("status") or {}).get("containerStatuses") or []
        (container,) = [one["name"] for one in pod["spec"]["containers"] if one["name"] == query["container"]]
        if not any("running" in one["state"] or "terminated" in one["state"] or one["lastState"] for one in statuses):
            words = f'container "{container}" in pod "{pod["metadata"]["name"]}" is waiting to start'
            raise Refusal(400, "BadRequest", words)
        path = f"{self.kubelet}/containerLogs/{pod['metadata']['namespace']}/{pod['metadata']['name']}/{container}"
        asked = {key: value for key, value in query.items() if key != "container"}

        async def pieces() -> AsyncIterator[bytes]:
            async with (
                httpx.AsyncClient(verify=False, timeout=None) as client,
                client.stream("GET", path, params=asked) as answer,
            ):
                async for piece in answer.aiter_raw():
                    yield piece

        return StreamingResponse(pieces(), media_type="text/plain")

    async def _watch(
        self, kind: str, namespace: str, fits: Callable[[Json], bool], since: int, seconds: float
    ) -> AsyncIterator[bytes]:
        until = asyncio.get_running_loop().time() + seconds
        if since < self._oldest:
            gone = Refusal(410, "Expired", f"too old resource version: {since} ({self._oldest})").document
            yield json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
            return
        matched: set[str] = set()
        while not self.is_away:
            for version, what, one in list(self._events):
                if version <= since or one["kind"] != kind or one["metadata"]["namespace"] != namespace:
                    continue
                since = version
                if fits(one) or one["metadata"]["uid"] in matched:
                    matched.add(one["metadata"]["uid"])
                    yield json.dumps({"type": what, "object": one}).encode() + b"\n"
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, 1.0))
            except TimeoutError:
                continue

    # ------------------------------------------------------------------ objects

    def create(self, kind: str, namespace: str, one: Json) -> Json:
        """Add an object."""
        if namespace not in self.namespaces:
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        if one.get("kind") != kind:
            raise Refusal(400, "BadRequest", f"the object provided is a {one.get('kind')}, not a {kind}")
        name = one["metadata"]["name"]
        if kind == "Pod" and self.quota is not None and sum(of == "Pod" for of, _, _ in self._objects) >= self.quota:
            words = f'pods "{name}" is forbidden: exceeded quota: pods, requested: pods=1, limited: pods={self.quota}'
            raise Refusal(403, "Forbidden", words)
        if (kind, namespace, name) in self._objects:
            raise Refusal(409, "AlreadyExists", f'{kind} "{name}" already exists')
        one["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        self._prepare(one)
        self._check(one)
        if kind == "StatefulSet":
            one["metadata"]["generation"] = 1
        self._objects[kind, namespace, name] = one
        self._tell("ADDED", one)
        return copy.deepcopy(one)

    def patch(self, kind: str, namespace: str, name: str, change: Json) -> Json:
        """Change an object by a merge patch."""
        there = self._get(kind, namespace, name)
        self._require_version(there, change)
        after = merged(there, change)
        self._prepare(after)
        self._check(after)
        if kind == "StatefulSet":
            fixed = [key for key in there["spec"].keys() | after["spec"].keys() if key not in CHANGEABLE]
            if any(there["spec"].get(key) != after["spec"].get(key) for key in fixed):
                words = f"spec: Forbidden: updates to fields other than {sorted(CHANGEABLE)} are forbidden"
                raise Refusal(422, "Invalid", f'StatefulSet.apps "{name}" is invalid: {words}')
        if after != there:
            self._objects[kind, namespace, name] = after
            self._tell("MODIFIED", after)
        return copy.deepcopy(after)

    def delete(self, kind: str, namespace: str, name: str, options: Json) -> Json:
        """Remove an object; a pod on a host stays until that has ended it."""
        one = self._get(kind, namespace, name)
        if options.get("propagationPolicy") not in (None, "Background"):
            raise Refusal(400, "BadRequest", "the stand-in knows Background alone")
        if options.get("preconditions", {}).get("uid", one["metadata"]["uid"]) != one["metadata"]["uid"]:
            raise Refusal(409, "Conflict", "Precondition failed: UID in precondition and in object differ")
        grace = options.get("gracePeriodSeconds", one.get("spec", {}).get("terminationGracePeriodSeconds", 30))
        if kind == "Pod" and grace > 0 and one["spec"].get("nodeName"):
            if "deletionTimestamp" not in one["metadata"]:
                one["metadata"] |= {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": grace}
                self._tell("MODIFIED", one)
            return copy.deepcopy(one)
        del self._objects[kind, namespace, name]
        self._tell("DELETED", one)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _get(self, kind: str, namespace: str, name: str) -> Json:
        one = self._objects.get((kind, namespace, name))
        if one is None:
            raise Refusal(404, "NotFound", f'{kind.lower()}s "{name}" not found')
        return one

    def _require_version(self, there: Json, change: Json) -> None:
        version = change.get("metadata", {}).get("resourceVersion")
        if version is not None and version != there["metadata"]["resourceVersion"]:
            raise Refusal(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )

    def _prepare(self, one: Json) -> None:
        if one["kind"] == "Secret" and "stringData" in one:
            texts = {key: base64.b64encode(text.encode()).decode() for key, text in one.pop("stringData").items()}
            one["data"] = one.get("data", {}) | texts

    def _check(self, one: Json) -> None:
        metadata = one["metadata"]
        wrong = []
        if NAME.fullmatch(metadata["name"]) is None:
            wrong.append(f"metadata.name: Invalid value: {metadata['name']!r}")
        for labels in _labels(one):
            wrong += [f"labels: Invalid value: {text!r}" for text in labels.values() if LABEL.fullmatch(text) is None]
        if one["kind"] in ("ConfigMap", "Secret"):
            wrong += [
                f"data: Invalid key {key}"
                for key in one.get("data") or {}
                if not re.fullmatch(r"[-._A-Za-z0-9]{1,253}", key)
            ]
            if len(json.dumps(one.get("data"))) > MOST_CONFIG_BYTES:
                wrong.append("data: Too long: must have at most 1048576 bytes")
        if one["kind"] == "StatefulSet":
            spec = one["spec"]
            selector = spec["selector"]["matchLabels"]
            if not selector.items() <= spec["template"]["metadata"]["labels"].items():
                wrong.append(
                    "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"
                )
        try:
            kubernetes_validate.validate(one, SCHEMA, strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong.append(f"{'.'.join(map(str, error.path))}: {error.message}")
        if wrong:
            words = ", ".join(wrong)
            raise Refusal(422, "Invalid", f'{one["kind"]} "{metadata["name"]}" is invalid: {words}')

    def _tell(self, what: str, one: Json) -> None:
        self._version += 1
        one["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, what, copy.deepcopy(one)))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _labels(one: Json) -> list[dict[str, str]]:
    found = [one["metadata"].get("labels") or {}]
    if one["kind"] == "StatefulSet":
        found += [one["spec"]["selector"]["matchLabels"], one["spec"]["template"]["metadata"]["labels"]]
    return found


def _filter(labels: str, fields: str) -> Callable[[Json], bool]:
    wanted = [part.partition("=")[::2] for part in labels.split(",") if part]
    inside = [part.partition("=")[::2] for part in fields.split(",") if part]

    def at(one: Json, path: str) -> Any:
        found: Any = one
        for key in path.split("."):
            found = (found or {}).get(key)
        return found

    def fits(one: Json) -> bool:
        own = one["metadata"].get("labels") or {}
        return all(own.get(key) == value for key, value in wanted) and all(
            at(one, key) == value for key, value in inside
        )

    return fits


async def _body(request: Request) -> Json:
    document: Json = json.loads(await request.body())
    return document


async def _patch(request: Request) -> Json:
    if request.headers.get("content-type") != "application/merge-patch+json":
        raise Refusal(415, "UnsupportedMediaType", "the stand-in knows merge patches alone")
    return await _body(request)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
