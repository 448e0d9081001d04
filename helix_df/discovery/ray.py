"""The nodes of a Ray cluster, as its control store lists them: devices by resources, their type by labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helix_df.discovery.kind import Discoverer, FoundHost
from helix_df.discovery.part import region_name
from helix_df.errors import DeploymentError, MissingExtra

DEVICES = ("GPU", "TPU")
TYPE_LABEL = "ray.io/accelerator-type"
TYPE_RESOURCE = "accelerator_type:"
REGION_LABELS = ("ray.io/availability-zone", "ray.io/region")
OWN_LABELS = ("ray.io/node-id",)
"""Labels that tell each node apart, and so say nothing of its kind."""

LEAST = 0.001
"""Of a resource that is only there to say what a node is."""


def find(address: str | None) -> tuple[FoundHost, ...]:
    """The nodes of the cluster at ``host:port``, or of the one that this host is a node of.

    Raises:
        MissingExtra: without Ray.
        DeploymentError: when there is no such cluster.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtra("Ray isn't installed", hint="pip install 'helix-df[ray]'") from None
    try:
        ray.init(address or "auto", log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DeploymentError(
            "there is no such Ray cluster",
            where="--address",
            found=f"{address or 'auto'}: {error}",
            hint="`ray status` on this host says whether it is a node of one",
        ) from error
    try:
        return tuple(host_of(node) for node in ray.nodes())
    finally:
        ray.shutdown()


def host_of(node: Mapping[str, Any]) -> FoundHost:
    """A node as ``ray.nodes`` describes it."""
    resources, labels = node.get("Resources", {}), dict(node.get("Labels") or {})
    typed = [name.removeprefix(TYPE_RESOURCE) for name in sorted(resources) if name.startswith(TYPE_RESOURCE)]
    device = labels.get(TYPE_LABEL) or (typed[0] if len(typed) == 1 else None)
    region = next((labels[label] for label in REGION_LABELS if label in labels), None)
    return FoundHost(
        str(node.get("NodeManagerAddress") or node.get("NodeManagerHostname")),
        device=device,
        devices=int(sum(resources.get(kind, 0) for kind in DEVICES)),
        labels={key: value for key, value in labels.items() if key not in OWN_LABELS},
        region=region_name(region),
        why_not=None if node.get("Alive") else "Ray says that it isn't alive",
    )


def place(host: FoundHost, label: str | None) -> dict[str, Any]:
    """What ``launchers.ray.place`` says of such a node."""
    key, equals, value = (label or "").partition("=")
    labels = {key: value} if equals and host.labels.get(key) == value else {}
    said: dict[str, Any] = {"gpus": host.devices}
    if host.device is not None and TYPE_LABEL in host.labels:
        labels[TYPE_LABEL] = host.device
    elif host.device is not None:
        said["resources"] = {f"{TYPE_RESOURCE}{host.device}": LEAST}
    if host.region is not None:
        labels |= {one: host.labels[one] for one in REGION_LABELS if host.labels.get(one) == host.region}
    return said | ({"labels": dict(sorted(labels.items()))} if labels else {})


RAY = Discoverer(find=find, place=place, launcher="ray", by_node=True)
