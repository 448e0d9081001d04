"""The nodes of a Kubernetes cluster: devices by what is allocatable, their type by the labels of their drivers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helix_df.discovery.kind import Discoverer, FoundHost
from helix_df.discovery.part import region_name
from helix_df.errors import DeploymentError, MissingExtra

DEVICES = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu")
TYPE_LABELS = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
    "cloud.google.com/gke-tpu-accelerator",
    "k8s.amazonaws.com/accelerator",
)
"""What operators and clouds write the type of a node's devices to; the first that is there counts."""

REGION_LABELS = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
ASK_S = 60.0


def find(address: str | None) -> tuple[FoundHost, ...]:
    """The nodes of the cluster of a context of the kubeconfig, by default the current one's, or a pod's own.

    Raises:
        MissingExtra: without the client.
        DeploymentError: when nothing says how the cluster is reached, and when it doesn't answer.
    """
    try:
        from kubernetes import client, config
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError:
        raise MissingExtra(
            "the client of Kubernetes isn't installed", hint="pip install 'helix-df[kubernetes]'"
        ) from None
    from_file: Any = config.load_kube_config
    in_pod: Any = config.load_incluster_config
    try:
        try:
            from_file(context=address)
        except config.ConfigException:
            if address is not None or not IN_POD.exists():
                raise
            in_pod()
    except (config.ConfigException, OSError) as error:
        raise DeploymentError(
            "nothing says how the cluster is reached",
            where="--address",
            found=str(error),
            hint="`kubectl config get-contexts` lists the contexts that there are",
        ) from error
    try:
        listed = client.CoreV1Api().list_node(_request_timeout=ASK_S).to_dict()
    except (client.ApiException, HTTPError) as error:
        raise DeploymentError("the cluster doesn't tell its nodes", found=str(error)) from error
    return tuple(host_of(node) for node in listed["items"])


def host_of(node: dict[str, Any]) -> FoundHost:
    """A node, as the client gives it."""
    labels: dict[str, str] = node["metadata"].get("labels") or {}
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    region = next((labels[label] for label in REGION_LABELS if label in labels), None)
    return FoundHost(
        node["metadata"]["name"],
        device=next((labels[label] for label in TYPE_LABELS if labels.get(label)), None),
        devices=sum(int(allocatable.get(kind, 0)) for kind in DEVICES),
        labels={key: value for key, value in labels.items() if not key.startswith("kubernetes.io/hostname")},
        region=region_name(region),
        why_not=_why_not(node),
    )


def _why_not(node: dict[str, Any]) -> str | None:
    conditions = (node.get("status") or {}).get("conditions") or []
    if any(one["type"] == "Ready" and one["status"] != "True" for one in conditions):
        return "Kubernetes says that it isn't ready"
    return "Kubernetes puts nothing there (unschedulable)" if (node.get("spec") or {}).get("unschedulable") else None


def place(host: FoundHost, label: str | None) -> dict[str, Any]:
    """What ``launchers.kubernetes.place`` says of such a node."""
    key, equals, value = (label or "").partition("=")
    selector = {key: value} if equals and host.labels.get(key) == value else {}
    for name in TYPE_LABELS:
        if host.device is not None and host.labels.get(name) == host.device:
            selector[name] = host.device
            break
    return {"selector": dict(sorted(selector.items()))} if selector else {}


KUBERNETES = Discoverer(find=find, place=place, launcher="kubernetes")
