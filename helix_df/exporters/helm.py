"""A job as values of the chart in packaging/helm: what of the manifests is a job's own, so that a chart makes the rest.

Takes all of it from the objects that ``kubernetes`` makes, of which the chart makes equals.
"""

from __future__ import annotations

from typing import Any

import yaml

from helix_df.exporters.api import Command, Export
from helix_df.exporters.kubernetes import as_objects, check_exportable, how_to_bring_keys, nodes_by_gpu
from helix_df.plan.plan import Plan
from helix_df.pods.objects import Json, label
from helix_df.pods.options import LAUNCHER, KubernetesOptions


def export(plan: Plan) -> Export:
    """See ``export_plan``; the command's text is the values.

    Raises:
        PlanError: for whatever ``kubernetes`` refuses.
    """
    check_exportable(plan)
    values = values_of(plan)
    name = values["fullnameOverride"]
    return Export(
        "helm",
        (Command("the cluster", (), yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**9)),),
        {"values": values},
        (
            f"`helm install {name} packaging/helm/helix-df -f` this file makes the job's objects.",
            *how_to_bring_keys(plan),
        ),
    )


def values_of(plan: Plan) -> Json:
    """What the chart asks for."""
    options = KubernetesOptions.model_validate(plan.job.launchers.get(LAUNCHER, {}))
    objects = {(it["kind"], it["metadata"]["name"]): it for it in as_objects(plan)}
    name = label(plan.job.name)
    data = objects["ConfigMap", f"{name}-job"]["data"]
    sets = [it for (kind, _), it in objects.items() if kind == "StatefulSet"]
    said: dict[str, Any] = {
        "fullnameOverride": name,
        "job": plan.job.name,
        "image": options.image,
        "imagePullPolicy": options.pull,
        "imagePullSecrets": list(options.pull_secrets),
        "command": options.command,
        "env": options.env,
        "maxUnavailable": options.max_unavailable,
    }
    chosen = {key: value for key, value in said.items() if value not in (None, [], {}) or key == "maxUnavailable"}
    groups = [
        _group(gpu, nodes, worker)
        for (gpu, nodes), worker in zip(
            nodes_by_gpu(plan).items(), sets[1:], strict=True
        )  # the first is the coordinator's
    ]
    return {**chosen, "groups": groups, "plan": data["plan.json"]}


def _group(gpu: str, nodes: list[str], worker: Json) -> Json:
    pod = worker["spec"]["template"]["spec"]
    found = {
        "name": gpu,
        "statefulSet": worker["metadata"]["name"],
        "nodes": nodes,
        "nodeSelector": pod.get("nodeSelector"),
        "tolerations": pod.get("tolerations"),
        "resources": pod["containers"][0]["resources"],
    }
    return {key: value for key, value in found.items() if value is not None}
