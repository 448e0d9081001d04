"""The objects of Kubernetes that workers are, whoever makes them: a launcher in a cluster, or an export for it.

Owns their shape, names and labels. All objects of a job begin with one ``name`` and bear it as a label. Doesn't know
how they get into a cluster, nor what a plan is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from helix_df.pods.options import GPU_LABEL, KubernetesOptions, PodPlace, Toleration

CONFIG, KEYS, STATE, RUN = "/etc/helix-df/job", "/etc/helix-df/keys", "/var/lib/helix-df", "/run/helix-df"
CACHE = "/var/cache/helix-df"
READY = f"{RUN}/ready"
"""Paths in a pod: its configuration, keys, state, what is gone with it; the last is there once a worker serves."""

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
OURS = {"app.kubernetes.io/name": "helix-df"}

MOST_SET_NAME = 52
"""Letters in the name of a StatefulSet: its pods bear it in a label of 63, with a hash of ten behind it."""

GRACE_S = 30
_USER = 10001

Json = dict[str, Any]


def label(text: str) -> str:
    """A name as Kubernetes has them: small letters, digits and dashes, 40 at most."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "job"


def set_name(name: str, part: str) -> str:
    """What the set of a part of a job is called, 52 letters at most."""
    whole = f"{name}-{part}"
    if len(whole) <= MOST_SET_NAME:
        return whole
    mark = hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()
    return f"{whole[: MOST_SET_NAME - len(mark) - 1].rstrip('-')}-{mark}"


def labels(name: str, role: str | None = None, gpu: str | None = None) -> dict[str, str]:
    """Of a job's objects; of its pods with a role; ``gpu`` is a label already."""
    own = {**OURS, INSTANCE: name}
    return own | ({} if role is None else {COMPONENT: role}) | ({} if gpu is None else {GPU_LABEL: gpu})


def an_object(version: str, kind: str, called: str, name: str, rest: Mapping[str, Any]) -> Json:
    """An object of a job, which bears its label."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": called, "labels": labels(name)}, **rest}


def configuration(name: str, data: Mapping[str, str]) -> Json:
    """What pods find under ``CONFIG``, a file each."""
    return an_object("v1", "ConfigMap", f"{name}-job", name, {"data": dict(data)})


def keys(name: str, worker_key: str) -> Json:
    """The Secret of which pods find ``worker.key`` under ``KEYS``."""
    rest = {"type": "Opaque", "stringData": {"worker.key": worker_key}}
    return an_object("v1", "Secret", f"{name}-keys", name, rest)


def members(name: str, called: str, role: str, ports: Sequence[Json] = ()) -> Json:
    """A headless service, by which members are found before they are ready."""
    spec: Json = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels(name, role)}
    return an_object("v1", "Service", called, name, {"spec": spec | ({"ports": list(ports)} if ports else {})})


def budget(name: str, gpu: str, most: int) -> Json:
    """That no more than so many workers of a GPU type are sent away at a time."""
    spec = {"maxUnavailable": most, "selector": {"matchLabels": labels(name, "worker", gpu)}}
    return an_object("policy/v1", "PodDisruptionBudget", set_name(name, gpu), name, {"spec": spec})


def workers(
    name: str, gpu: str, pods: int, run: str, options: KubernetesOptions, type_name: str, ports: Sequence[Json] = ()
) -> Json:
    """The set of workers of a GPU type, each of which runs a line of shell.

    Args:
        name: of the job's objects.
        gpu: the GPU type as a label has it; ``type_name`` is what the job calls it.
        pods: how many there are.
        run: the line; it has ``READY`` made once the worker serves.
        options: what the job says of its pods.
        ports: where they listen, as far as that is known.
    """
    place = options.of(type_name)
    probe = {"exec": {"command": ["test", "-e", READY]}, "periodSeconds": 5}
    limits = place.limits_of(type_name)
    own = {
        **container(run, options),
        **({"ports": list(ports)} if ports else {}),
        # It is there once the worker has loaded its layers.
        "readinessProbe": probe,
        "resources": {part: it for part, it in (("limits", limits), ("requests", place.requests)) if it},
    }
    template = pod(name, "worker", own, [{"name": "cache", "emptyDir": {}}, {"name": "state", "emptyDir": {}}], options)
    template["metadata"]["labels"] = labels(name, "worker", gpu)
    template["spec"] |= _placed(place, gpu)
    spec = {
        "serviceName": f"{name}-workers",
        "replicas": pods,
        "podManagementPolicy": "Parallel",  # none waits for another, and all are needed
        "selector": {"matchLabels": labels(name, "worker", gpu)},
        "template": template,
    }
    return an_object("apps/v1", "StatefulSet", set_name(name, gpu), name, {"spec": spec})


def container(run: str, options: KubernetesOptions) -> Json:
    """What runs in a pod: a line of shell, in the job's image."""
    mounts = {CONFIG: "job", KEYS: "keys", STATE: "state", CACHE: "cache", RUN: "run"}
    env = {"HELIX_DF_STATE": STATE, "HELIX_DF_CACHE": CACHE, **options.env}
    return {
        "name": "helix-df",
        "image": options.image,
        **({} if options.pull is None else {"imagePullPolicy": options.pull}),
        "command": ["sh", "-c", run],
        "env": [{"name": variable, "value": value} for variable, value in env.items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": volume, "mountPath": path, **({"readOnly": True} if volume in ("job", "keys") else {})}
            for path, volume in mounts.items()
        ],
    }


def pod(name: str, role: str, own: Json, volumes: Sequence[Json], options: KubernetesOptions) -> Json:
    """The template of a role's pods, with nothing that Kubernetes' strictest standard for pods forbids."""
    shared = [
        {"name": "job", "configMap": {"name": f"{name}-job"}},
        {"name": "keys", "secret": {"secretName": f"{name}-keys", "defaultMode": 0o440}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    secrets = [{"name": secret} for secret in options.pull_secrets]
    return {
        "metadata": {"labels": labels(name, role)},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": GRACE_S,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "fsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **({"imagePullSecrets": secrets} if secrets else {}),
            "containers": [own],
            "volumes": [*shared, *volumes],
        },
    }


def _placed(place: PodPlace, gpu: str) -> Json:
    selector = {GPU_LABEL: gpu} if place.selector is None else place.selector
    tolerations = [_toleration(one) for one in place.tolerations]
    return {part: it for part, it in (("nodeSelector", selector), ("tolerations", tolerations)) if it}


def _toleration(said: Toleration) -> Json:
    found = {
        "key": said.key,
        "operator": said.operator,
        "value": said.value,
        "effect": said.effect,
        "tolerationSeconds": said.seconds,
    }
    return {field: value for field, value in found.items() if value is not None}
