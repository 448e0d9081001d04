"""A job as Kubernetes manifests: what Kubernetes' own schemas allow, with a pod for each node, and no secret."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from helix_df.errors import PlanError
from helix_df.exporters.registry import export_plan
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, from_document
from helix_df.pods.objects import label
from tests.runtime.tiny import tiny_plan

kubernetes_validate = pytest.importorskip("kubernetes_validate")

VERSIONS = ("1.29", "1.33", "1.37")
PLACEMENT = {"rack-1": LayerRange(0, 2), "rack-2": LayerRange(0, 2), "desk": LayerRange(2, 4)}
PROFILE = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [4096] * 4}


def plan(desk: str = "Toy_GPU", options: dict[str, Any] | None = None, **runtime: Any) -> Plan:
    gpus = {"rack": "2xL4", "desk": desk}
    return tiny_plan(
        PLACEMENT,
        name="My.Job",
        gpus={gpu: {"memory": "1GiB", "profile": PROFILE} for gpu in gpus.values()},
        nodes={name: {"gpu": gpus[name.partition("-")[0]]} for name in PLACEMENT},
        runtime={"allow_anyone": True, "max_batch": 4, "max_prefill_tokens": 16, **runtime},
        launchers={} if options is None else {"kubernetes": options},
    )


def objects(**runtime: Any) -> list[dict[str, Any]]:
    (command,) = export_plan(plan(**runtime), "kubernetes").commands
    return list(yaml.safe_load_all(command.text))


def of(kind: str, **runtime: Any) -> dict[str, dict[str, Any]]:
    return {it["metadata"]["name"]: it for it in objects(**runtime) if it["kind"] == kind}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_allows_each_object(version: str) -> None:
    found = objects()
    assert {it["kind"] for it in found} == {"ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget"}
    for it in found:
        kubernetes_validate.validate(it, version, strict=True)


def test_each_node_has_a_pod_on_a_host_of_its_gpu_type() -> None:
    sets = of("StatefulSet")
    (configuration,) = of("ConfigMap").values()
    assert {name: it["spec"]["replicas"] for name, it in sets.items()} == {
        "my-job-coordinator": 1,
        "my-job-2xl4": 2,
        "my-job-toy-gpu": 1,
    }
    assert configuration["data"]["nodes.2xl4"].split() == ["rack-1", "rack-2"]
    assert configuration["data"]["nodes.toy-gpu"].split() == ["desk"]
    pod = sets["my-job-2xl4"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"helix-df/gpu": "2xl4"}
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert pod["containers"][0]["readinessProbe"]["exec"]["command"][0] == "test"


def test_selectors_find_their_own_pods_and_mounts_their_volumes() -> None:
    budgets, services = of("PodDisruptionBudget"), of("Service")
    for name, one in of("StatefulSet").items():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
        selector = services[one["spec"]["serviceName"]]["spec"]["selector"]
        assert selector.items() <= labels.items()
        if name in budgets:
            assert budgets[name]["spec"]["selector"]["matchLabels"].items() <= labels.items()
        pod = one["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} <= volumes
    assert budgets.keys() == of("StatefulSet").keys() - {"my-job-coordinator"}


def test_the_plan_in_it_is_the_plan_with_workers_that_the_cluster_starts() -> None:
    (configuration,) = of("ConfigMap").values()
    inside = from_document(json.loads(configuration["data"]["plan.json"]), where="plan.json")
    given = plan()
    assert (inside.placement, inside.flow, inside.edges) == (given.placement, given.flow, given.edges)
    assert {(node.started_by, node.is_placed) for node in inside.job.nodes.values()} == {("external", True)}
    assert inside.job.encrypts
    assert inside.job.coordinator.address == "0.0.0.0:7000"


def test_what_would_be_open_or_out_of_reach_is_refused_and_keys_are_the_users() -> None:
    with pytest.raises(PlanError) as error:
        export_plan(plan(allow_anyone=False), "kubernetes")
    assert error.value.where == "runtime.api_keys"
    (configuration,) = of("ConfigMap", allow_anyone=False, api_keys="mine.json").values()
    assert (
        json.loads(configuration["data"]["plan.json"])["job"]["runtime"]["api_keys"]
        == "/etc/helix-df/keys/api-keys.json"
    )
    notes = export_plan(plan(api_keys="mine.json"), "kubernetes").notes
    assert any("--from-file=api-keys.json=mine.json" in note for note in notes)
    assert not of("Secret")


@pytest.mark.parametrize("desk", ["2xl4", "2XL4", "Coordinator"])
def test_gpu_types_whose_pods_would_have_one_name_are_refused(desk: str) -> None:
    with pytest.raises(PlanError, match="one to Kubernetes") as error:
        export_plan(plan(desk=desk), "kubernetes")
    assert desk in str(error.value.found)


def test_names_are_labels() -> None:
    for text in ("RTX 4090", "4xT4", "A100-40GB", "__", "x" * 90, "Ä"):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", label(text))
        assert len(label(text)) <= 40
