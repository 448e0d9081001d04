"""A job as Kubernetes manifests, for those who apply them from a repository: a coordinator, and workers by GPU type.

The workers of a GPU type are a StatefulSet, whose pods are the plan's nodes of that type in their order; the kubelet
starts again who ends, and workers find the coordinator by the name of its service. Owns the coordinator's objects and
what is in them of the plan; what workers are is `helix_df.pods`' to say, by what the job says under
``launchers.kubernetes``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from helix_df.errors import PlanError
from helix_df.exporters.api import Command, Export
from helix_df.plan.plan import Plan, to_document
from helix_df.pods.objects import (
    CONFIG,
    KEYS,
    READY,
    STATE,
    an_object,
    budget,
    configuration,
    container,
    label,
    labels,
    members,
    pod,
    set_name,
    workers,
)
from helix_df.pods.options import GPU_LABEL, LAUNCHER, KubernetesOptions
from helix_df.runtime.log_lines import log_arguments
from helix_df.spec.addresses import ANYWHERE

PORT = 7000
"""At which the coordinator and every worker listen, each in a pod of its own."""

Json = dict[str, Any]


def export(plan: Plan) -> Export:
    """See ``export_plan``; the command's text is the manifests.

    Raises:
        PlanError: for a model that lies on this machine, an API that would be open to everybody, or GPU types whose
            names are the same to Kubernetes.
    """
    check_exportable(plan)
    objects = as_objects(plan)
    return Export(
        "kubernetes",
        (Command("the cluster", (), yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True)),),
        {"objects": objects},
        how_to_bring_keys(plan),
    )


def check_exportable(plan: Plan) -> None:
    """Make sure that pods can run a plan.

    Raises:
        PlanError: when they can't.
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


def how_to_bring_keys(plan: Plan) -> tuple[str, ...]:
    """What to do beside applying the objects."""
    name, api_keys = label(plan.job.name), plan.job.runtime.api_keys
    return (
        *_hosts_to_label(plan),
        f"Keys aren't in here: `helix-df keys {plan.job.name}` makes them, and `kubectl create secret generic "
        f"{name}-keys --from-file=keys.json --from-file=worker.key={plan.job.name}.key` brings them there.",
        *([] if api_keys is None else [f"And --from-file=api-keys.json={api_keys} beside these."]),
        f"The image {_options(plan).image} is yours to build and name (packaging/Dockerfile).",
    )


def _hosts_to_label(plan: Plan) -> list[str]:
    """What to say of hosts that the job has no words for."""
    places = {gpu: _options(plan).of(plan.job.nodes[nodes[0]].gpu) for gpu, nodes in nodes_by_gpu(plan).items()}
    types = sorted(gpu for gpu, place in places.items() if place.selector is None)
    return [f"Label hosts with their GPU type: {GPU_LABEL}={' or '.join(types)}."] if types else []


def as_objects(plan: Plan) -> list[Json]:
    """All objects of a job but its keys: configuration, services, the coordinator, workers by GPU type."""
    name = label(plan.job.name)
    found = [_configuration(plan, name), *_services(name), _coordinator(plan, name)]
    most = _options(plan).max_unavailable
    for gpu, nodes in nodes_by_gpu(plan).items():
        found += [_workers(plan, name, gpu, nodes), *([] if most is None else [budget(name, gpu, most)])]
    return found


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


def nodes_by_gpu(plan: Plan) -> dict[str, list[str]]:
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
        runtime["api_keys"] = f"{KEYS}/api-keys.json"
    document["job"].pop("launchers", None)
    return document


def _configuration(plan: Plan, name: str) -> Json:
    nodes = {f"nodes.{gpu}": "".join(f"{node}\n" for node in nodes) for gpu, nodes in nodes_by_gpu(plan).items()}
    document = json.dumps(_document(plan), indent=1, sort_keys=True) + "\n"
    return configuration(name, {"plan.json": document, **nodes})


def _services(name: str) -> list[Json]:
    api = {"name": "api", "port": 8000, "targetPort": "api"}
    wire = {"name": "wire", "port": PORT, "targetPort": "wire"}
    coordinator = {"selector": labels(name, "coordinator"), "ports": [api]}
    return [
        an_object("v1", "Service", name, name, {"spec": coordinator}),
        members(name, f"{name}-wire", "coordinator", [wire]),
        members(name, f"{name}-workers", "worker", [wire]),
    ]


def _coordinator(plan: Plan, name: str) -> Json:
    options = _options(plan)
    run = (
        f"install -D -m 600 {KEYS}/keys.json {STATE}/jobs/{plan.job.name}/keys.json && "
        f"exec {options.command} apply --foreground --name {plan.job.name} {CONFIG}/plan.json"
    )
    own = {
        **container(run, options),
        "ports": [{"name": "api", "containerPort": 8000}, {"name": "wire", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "api"}, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/ping", "port": "api"}, "periodSeconds": 10, "failureThreshold": 6},
        "startupProbe": {"httpGet": {"path": "/ping", "port": "api"}, "periodSeconds": 2, "failureThreshold": 60},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
    }
    claim = {
        "metadata": {"name": "state"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    }
    spec = {
        "serviceName": f"{name}-wire",
        "replicas": 1,
        "selector": {"matchLabels": labels(name, "coordinator")},
        "template": pod(name, "coordinator", own, [{"name": "cache", "emptyDir": {}}], options),
        "volumeClaimTemplates": [claim],
    }
    return an_object("apps/v1", "StatefulSet", set_name(name, "coordinator"), name, {"spec": spec})


def _workers(plan: Plan, name: str, gpu: str, nodes: Sequence[str]) -> Json:
    options = _options(plan)
    run = (
        f'node=$(sed -n "$((${{HOSTNAME##*-}} + 1))p" {CONFIG}/nodes.{gpu}) && exec {options.command} worker '
        f'--join curve://{name}-wire:{PORT} --node "$node" --listen curve://{ANYWHERE}:{PORT} '
        f"--key-file {KEYS}/worker.key --ready-file {READY}"
    )
    run = " ".join([run, *log_arguments(plan.job.runtime.log_format)])
    type_name = plan.job.nodes[nodes[0]].gpu
    return workers(name, gpu, len(nodes), run, options, type_name, [{"name": "wire", "containerPort": PORT}])


def _options(plan: Plan) -> KubernetesOptions:
    """What the job says to the launcher of the same name, checked with the job."""
    return KubernetesOptions.model_validate(plan.job.launchers.get(LAUNCHER, {}))
