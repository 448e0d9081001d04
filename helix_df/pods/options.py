"""What a job says to Kubernetes under ``launchers.kubernetes``: which cluster, which image, which hosts.

Owns the words and their rules, which are those of Kubernetes' own fields. Doesn't know objects or clients.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from helix_df.profiles.catalogue import device_count
from helix_df.release import release
from helix_df.spec.mistakes import Refusal
from helix_df.spec.section import Count, Section
from helix_df.spec.units import Duration

GPU_LABEL = "helix-df/gpu"
"""Of a host: the GPU type of the job whose workers it takes, in the form of a label's value."""

LAUNCHER = "kubernetes"
"""Where a job says it, under ``launchers``."""

_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_QUANTITY = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[numkMGTPE]|[KMGTPE]i|[eE][0-9]+)?")


def _key(text: str) -> str:
    domain, slash, part = text.rpartition("/")
    if _PART.fullmatch(part) is None or (slash and _DOMAIN.fullmatch(domain) is None):
        raise Refusal("this can't be a key of Kubernetes", "up to 63 letters, digits, '-', '_' or '.', DOMAIN/ before")
    return text


def _value(text: str) -> str:
    if text and _PART.fullmatch(text) is None:
        raise Refusal("this can't be a label's value", "up to 63 letters, digits, '-', '_' or '.'")
    return text


def _quantity(text: str) -> str:
    if _QUANTITY.fullmatch(text) is None:
        raise Refusal("this is no quantity of Kubernetes", "a number, or one with a unit such as 500m, 2 or 16Gi")
    return text


def _domain(text: str) -> str:
    if _DOMAIN.fullmatch(text) is None:
        raise Refusal("this can't be a name of Kubernetes", "small letters, digits, '-' and '.'")
    return text


def _namespace(text: str) -> str:
    if "." in text or len(text) > 63:
        raise Refusal("this can't be a namespace", "up to 63 small letters, digits and '-'")
    return _domain(text)


LabelKey = Annotated[str, AfterValidator(_key)]
LabelValue = Annotated[str, AfterValidator(_value)]
Quantity = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_quantity)]
ObjectName = Annotated[str, AfterValidator(_domain)]


class Toleration(Section):
    """A taint of hosts that pods put up with."""

    key: LabelKey | None = Field(default=None, description="The taint's key; all taints without one.")
    operator: Literal["Exists", "Equal"] = Field(default="Exists", description="As Kubernetes has it.")
    value: LabelValue | None = Field(default=None, description="With `Equal`: the taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Of the taint; all of them by default."
    )
    seconds: Count | None = Field(default=None, ge=0, description="How long a pod stays under a taint of NoExecute.")

    @model_validator(mode="after")
    def _fits(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise Refusal("a value is for the operator Equal, which needs one", "both, or neither")
        if self.key is None and self.operator == "Equal":
            raise Refusal("Equal compares the value of a key", "a key, or the operator Exists")
        if self.seconds is not None and self.effect != "NoExecute":
            raise Refusal("seconds are for the effect NoExecute", "effect: NoExecute beside them")
        return self


class PodPlace(Section):
    """Which hosts the pods of a GPU type go to, and what they take there."""

    selector: dict[LabelKey, LabelValue] | None = Field(
        default=None,
        description="Labels of the hosts; by default `helix-df/gpu` with the GPU type in small letters and dashes.",
        examples=[{"cloud.google.com/gke-accelerator": "nvidia-l4"}],
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(Toleration(key="nvidia.com/gpu", effect="NoSchedule"),),
        description="Taints of the hosts that pods put up with; by default that of NVIDIA's devices.",
    )
    limits: dict[LabelKey, Quantity] | None = Field(
        default=None,
        description="What a pod may take at most; by default `nvidia.com/gpu`, as many as the GPU type has devices.",
        examples=[{"nvidia.com/gpu": "1", "memory": "64Gi"}],
    )
    requests: dict[LabelKey, Quantity] = Field(
        default_factory=dict, description="What is reserved for a pod.", examples=[{"cpu": "4", "memory": "32Gi"}]
    )

    def limits_of(self, gpu: str) -> dict[str, str]:
        """What a pod of a GPU type may take at most."""
        return {"nvidia.com/gpu": str(device_count(gpu))} if self.limits is None else self.limits


class KubernetesOptions(Section):
    """Which cluster, which image, and where in it the workers of each GPU type go."""

    kubeconfig: Path | None = Field(
        default=None,
        description="File that says how clusters are reached; by default that of KUBECONFIG or `~/.kube/config`, or in "
        "a pod its service account.",
    )
    context: str | None = Field(default=None, min_length=1, description="Of that file; its current one by default.")
    namespace: Annotated[str, AfterValidator(_namespace)] | None = Field(
        default=None, description="Where all objects go; by default that of the context, else `default`."
    )
    image: str = Field(
        default_factory=lambda: f"helix-df:{release()}",
        min_length=1,
        pattern=r"^\S+$",
        description="Image of the pods, which packaging/Dockerfile makes.",
        examples=["registry.example/helix-df:0.1.0-cuda"],
    )
    pull: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When hosts fetch the image (`imagePullPolicy`)."
    )
    pull_secrets: tuple[ObjectName, ...] = Field(default=(), description="Secrets of the image's registry.")
    command: str = Field(
        default="helix-df", min_length=1, description="How helix-df is called in the image, as a shell reads it."
    )
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        default_factory=dict,
        description="Environment of the pods.",
        examples=[{"XLA_FLAGS": "--xla_gpu_autotune_level=1"}],
    )
    place: dict[str, PodPlace] = Field(
        default_factory=dict,
        description="Hosts of the workers of a GPU type, else those under `default`.",
        examples=[{"L4": {"selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}}],
    )
    max_unavailable: Count | None = Field(
        default=1,
        ge=0,
        description="So many pods of a GPU type may be away while hosts are drained (PodDisruptionBudget); `null` "
        "makes no such object.",
    )
    wait: Duration = Field(
        default=600.0, gt=0, description="How long a pod may wait for a host and its image.", examples=["30min"]
    )

    def of(self, gpu: str) -> PodPlace:
        """Where workers of a GPU type go."""
        return self.place.get(gpu) or self.place.get("default") or PodPlace()
