"""A job as Kubernetes manifests, for those who apply them from a repository: a coordinator, and workers by GPU type.

The workers of a GPU type are a StatefulSet, whose pods are the plan's nodes of that type in their order; the kubelet
starts again who ends, and workers find the coordinator by the name of its service. Owns the objects; what a host must
be like is the user's to add, by a label of each GPU type that these ask for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from helix_df.errors import PlanError
from helix_df.exporters.api import Command, Export
from helix_df.plan.plan import Plan, to_document
from helix_df.profiles.catalogue import device_count
from helix_df.release import release
from helix_df.runtime.log_lines import log_arguments
from helix_df.spec.addresses import ANYWHERE

PORT = 7000
"""At which the coordinator and every worker listen, each in a pod of its own."""

GPU_LABEL = "helix-df/gpu"
"""Of a host: the GPU type of the job whose workers it takes, in the form of a label's value."""

_CONFIG, _KEYS, _STATE, _RUN = "/etc/helix-df/job", "/etc/helix-df/keys", "/var/lib/helix-df", "/run/helix-df"
_CACHE = "/var/cache/helix-df"
_USER = 10001

Json = dict[str, Any]


def export(plan: Plan) -> Export:
    """See ``export_plan``; the command's text is the manifests.

    Raises:
        PlanError: for a model that lies on this machine, an API that would be open to everybody, or GPU types whose
            names are the same to Kubernetes.
    """
    runtime = plan.job.runtime
    if runtime.api_keys is None and not runtime.allow_anyone:
        raise PlanError(
            "the API would be open to everybody who reaches its service",
            where="runtime.api_keys",
            found="none",
            expected="a file of API keys, which `helix-df api-keys` makes; or allow_anyone: true",
        )
    if plan.job.model.parsed_source.kind not in ("hf", "package", "random"):
        raise PlanError(
            "pods can't read a model that lies on this machine",
            where="model.source",
            found=plan.job.model.source,
            expected="hf:ORGANISATION/NAME, or a package of the image",
        )
    _check_names(plan)
    name = label(plan.job.name)
    objects = manifests(plan)
    return Export(
        "kubernetes",
        (Command("the cluster", (), yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True)),),
        {"objects": objects},
        (
            f"Label hosts with their GPU type: {GPU_LABEL}={' or '.join(sorted(_by_gpu(plan)))}.",
            f"Keys aren't in here: `helix-df keys {plan.job.name}` makes them, and `kubectl create secret generic "
            f"{name}-keys --from-file=keys.json --from-file=worker.key={plan.job.name}.key` brings them there.",
            *([] if runtime.api_keys is None else [f"And --from-file=api-keys.json={runtime.api_keys} beside these."]),
            f"The image {_image()} is yours to build and name (packaging/Dockerfile).",
        ),
    )


def manifests(plan: Plan) -> list[Json]:
    """All objects of a job but its keys: configuration, services, the coordinator, workers by GPU type."""
    name = label(plan.job.name)
    found = [_configuration(plan, name), *_services(name), _coordinator(plan, name)]
    for gpu, nodes in _by_gpu(plan).items():
        found += [_workers(plan, name, gpu, nodes), _budget(name, gpu)]
    return found


def label(text: str) -> str:
    """A name as Kubernetes has them: small letters, digits and dashes, 40 at most."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "job"


def _check_names(plan: Plan) -> None:
    """That each set of pods has a name of its own."""
    taken = {"coordinator": "the coordinator's own"}
    for gpu in dict.fromkeys(plan.job.nodes[stage.node].gpu for stage in plan.stages):
        if (other := taken.setdefault(label(gpu), gpu)) != gpu:
            raise PlanError(
                "two names are one to Kubernetes, which knows small letters, digits and dashes",
                where="gpus",
                found=f"{gpu} and {other}",
                expected=f"another name than {label(gpu)} for one of them",
            )


def _by_gpu(plan: Plan) -> dict[str, list[str]]:
    """The nodes of each GPU type, by its label, in the plan's order."""
    found: dict[str, list[str]] = {}
    for stage in plan.stages:
        found.setdefault(label(plan.job.nodes[stage.node].gpu), []).append(stage.node)
    return found


def _document(plan: Plan) -> Json:
    """The plan as it runs there: workers are started by the cluster, and find the coordinator by its service's name."""
    document = to_document(plan)
    document["job"]["coordinator"]["address"] = f"0.0.0.0:{PORT}"
    for node in document["job"]["nodes"].values():
        node |= {"launcher": "external", "address": f"{ANYWHERE}:{PORT}"}
    runtime = document["job"]["runtime"]
    runtime |= {"host": "0.0.0.0", "port": 8000}
    if runtime.get("api_keys") is not None:
        runtime["api_keys"] = f"{_KEYS}/api-keys.json"
    document["job"].pop("launchers", None)
    return document


def _configuration(plan: Plan, name: str) -> Json:
    nodes = {f"nodes.{gpu}": "".join(f"{node}\n" for node in nodes) for gpu, nodes in _by_gpu(plan).items()}
    data = {"plan.json": json.dumps(_document(plan), indent=1, sort_keys=True) + "\n", **nodes}
    return _object("v1", "ConfigMap", f"{name}-job", name, {"data": data})


def _services(name: str) -> list[Json]:
    api = {"name": "api", "port": 8000, "targetPort": "api"}
    wire = {"name": "wire", "port": PORT, "targetPort": "wire"}
    coordinator = {"selector": _labels(name, "coordinator"), "ports": [api]}
    # Without an address of its own, and before they are ready: members find each other by the pods' own addresses.
    members = {"clusterIP": "None", "publishNotReadyAddresses": True, "ports": [wire]}
    return [
        _object("v1", "Service", name, name, {"spec": coordinator}),
        _object("v1", "Service", f"{name}-wire", name, {"spec": {**members, "selector": _labels(name, "coordinator")}}),
        _object("v1", "Service", f"{name}-workers", name, {"spec": {**members, "selector": _labels(name, "worker")}}),
    ]


def _coordinator(plan: Plan, name: str) -> Json:
    run = (
        f"install -D -m 600 {_KEYS}/keys.json {_STATE}/jobs/{plan.job.name}/keys.json && "
        f"exec helix-df apply --foreground --name {plan.job.name} {_CONFIG}/plan.json"
    )
    ready = {"httpGet": {"path": "/health", "port": "api"}, "periodSeconds": 5}
    container = {
        **_container(run),
        "ports": [{"name": "api", "containerPort": 8000}, {"name": "wire", "containerPort": PORT}],
        "readinessProbe": ready,
        "livenessProbe": {"httpGet": {"path": "/ping", "port": "api"}, "periodSeconds": 10, "failureThreshold": 6},
        "startupProbe": {"httpGet": {"path": "/ping", "port": "api"}, "periodSeconds": 2, "failureThreshold": 60},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
    }
    claim = {
        "metadata": {"name": "state"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    }
    pod = _pod(name, "coordinator", container, [{"name": "cache", "emptyDir": {}}])
    spec = {
        "serviceName": f"{name}-wire",
        "replicas": 1,
        "selector": {"matchLabels": _labels(name, "coordinator")},
        "template": pod,
        "volumeClaimTemplates": [claim],
    }
    return _object("apps/v1", "StatefulSet", f"{name}-coordinator", name, {"spec": spec})


def _workers(plan: Plan, name: str, gpu: str, nodes: Sequence[str]) -> Json:
    run = (
        f'node=$(sed -n "$((${{HOSTNAME##*-}} + 1))p" {_CONFIG}/nodes.{gpu}) && '
        f'exec helix-df worker --join curve://{name}-wire:{PORT} --node "$node" --listen curve://{ANYWHERE}:{PORT} '
        f"--key-file {_KEYS}/worker.key --ready-file {_RUN}/ready"
    )
    run = " ".join([run, *log_arguments(plan.job.runtime.log_format)])
    devices = {"nvidia.com/gpu": device_count(plan.job.nodes[nodes[0]].gpu)}
    container = {
        **_container(run),
        "ports": [{"name": "wire", "containerPort": PORT}],
        # It is there once the worker has loaded its layers.
        "readinessProbe": {"exec": {"command": ["test", "-e", f"{_RUN}/ready"]}, "periodSeconds": 5},
        "resources": {"limits": devices},
    }
    volumes = [{"name": "cache", "emptyDir": {}}, {"name": "state", "emptyDir": {}}]
    pod = _pod(name, "worker", container, volumes, gpu)
    pod["spec"]["nodeSelector"] = {GPU_LABEL: gpu}
    pod["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    spec = {
        "serviceName": f"{name}-workers",
        "replicas": len(nodes),
        "podManagementPolicy": "Parallel",  # none waits for another, and all are needed
        "selector": {"matchLabels": _labels(name, "worker", gpu)},
        "template": pod,
    }
    return _object("apps/v1", "StatefulSet", f"{name}-{gpu}", name, {"spec": spec})


def _budget(name: str, gpu: str) -> Json:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _labels(name, "worker", gpu)}}
    return _object("policy/v1", "PodDisruptionBudget", f"{name}-{gpu}", name, {"spec": spec})


def _container(run: str) -> Json:
    mounts = {_CONFIG: "job", _KEYS: "keys", _STATE: "state", _CACHE: "cache", _RUN: "run"}
    return {
        "name": "helix-df",
        "image": _image(),
        "command": ["sh", "-c", run],
        "env": [{"name": "HELIX_DF_STATE", "value": _STATE}, {"name": "HELIX_DF_CACHE", "value": _CACHE}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": volume, "mountPath": path, **({"readOnly": True} if volume in ("job", "keys") else {})}
            for path, volume in mounts.items()
        ],
    }


def _pod(name: str, role: str, container: Json, volumes: Sequence[Json], gpu: str | None = None) -> Json:
    shared = [
        {"name": "job", "configMap": {"name": f"{name}-job"}},
        {"name": "keys", "secret": {"secretName": f"{name}-keys", "defaultMode": 0o440}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    return {
        "metadata": {"labels": _labels(name, role, gpu)},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 30,
            "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "fsGroup": _USER},
            "containers": [container],
            "volumes": [*shared, *volumes],
        },
    }


def _labels(name: str, role: str, gpu: str | None = None) -> dict[str, str]:
    own = {"app.kubernetes.io/name": "helix-df", "app.kubernetes.io/instance": name}
    return {**own, "app.kubernetes.io/component": role, **({} if gpu is None else {GPU_LABEL: gpu})}


def _object(version: str, kind: str, name: str, job: str, rest: Mapping[str, Any]) -> Json:
    labels = {"app.kubernetes.io/name": "helix-df", "app.kubernetes.io/instance": job}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, **rest}


def _image() -> str:
    return f"helix-df:{release()}"
