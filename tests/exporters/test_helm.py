"""The chart of packaging/helm, by Helm itself: it makes what `--to kubernetes` makes, and refuses what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from helix_df.exporters.registry import export_plan
from helix_df.plan.plan import Plan
from helix_df.release import release
from tests.exporters.test_kubernetes import VERSIONS, plan

kubernetes_validate = pytest.importorskip("kubernetes_validate")

CHART = Path(__file__).parents[2] / "packaging/helm/helix-df"
HELM = os.environ.get("HELIX_DF_HELM") or shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="needs helm: `scripts/helm FOLDER`, HELIX_DF_HELM=FOLDER/helm")

Json = dict[str, Any]

OPTIONS: Json = {
    "image": "registry.example/helix-df:1-cuda",
    "pull": "Always",
    "pull_secrets": ["registry"],
    "command": "python -m helix_df",
    "env": {"XLA_FLAGS": "--xla_x=1", "HELIX_DF_CACHE": "/models"},
    "max_unavailable": None,
    "place": {
        "2xL4": {"selector": {"pool": "l4"}, "tolerations": [], "requests": {"memory": "16Gi"}, "limits": {"cpu": 2}},
        "default": {"tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes"}]},
    },
}


def values_of(of: Plan) -> Json:
    values: Json = yaml.safe_load(export_plan(of, "helm").script())
    return values


def helm(command: str, values: Json, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    name = ["a-release"] if command == "template" else []
    words = [HELM, command, *name, str(CHART), "-f", str(folder / "values.yaml"), *more]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env={"HOME": str(folder)})


def rendered(values: Json, folder: Path, *more: str) -> list[Json]:
    done = helm("template", values, folder, *more)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def plain(one: Json) -> Json:
    """An object without what Helm says of itself, and lists by name where their order means nothing."""
    metadata = one["metadata"]
    for label in ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"):
        metadata["labels"].pop(label, None)
    template = one.get("spec", {}).get("template")
    if template is not None:
        template["metadata"].pop("annotations", None)
        (container,) = template["spec"]["containers"]
        for part in (container["env"], template["spec"]["volumes"]):
            part.sort(key=lambda item: item["name"])
    return one


@needs_helm
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
def test_the_chart_makes_what_the_manifests_are(options: Json, tmp_path: Path) -> None:
    of = plan(options=options)
    (command,) = export_plan(of, "kubernetes").commands
    wanted = [plain(one) for one in yaml.safe_load_all(command.text)]
    made = [plain(one) for one in rendered(values_of(of), tmp_path)]

    def by_name(objects: list[Json]) -> dict[str, Json]:
        return {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}

    assert by_name(made) == by_name(wanted)


@needs_helm
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_allows_what_the_chart_makes(version: str, tmp_path: Path) -> None:
    values = values_of(plan()) | {
        "ingress": {
            "enabled": True,
            "host": "api.example",
            "className": "nginx",
            "tlsSecret": "tls",
            "annotations": {"a": "b"},
        },
        "service": {"type": "LoadBalancer", "port": 80, "annotations": {"c": "d"}},
        "coordinator": {"storage": {"size": "20Gi", "className": "fast"}, "nodeSelector": {"pool": "cpu"}},
    }
    found = rendered(values, tmp_path, "--kube-version", version)
    assert {one["kind"] for one in found} == {"ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget", "Ingress"}
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)
    done = helm("lint", values, tmp_path, "--strict")
    assert "0 chart(s) failed" in done.stdout, done.stdout


@needs_helm
def test_a_configuration_that_is_there_is_used(tmp_path: Path) -> None:
    values = values_of(plan()) | {"plan": "", "existingConfigMap": "mine", "keysSecret": "secret"}
    found = rendered(values, tmp_path)
    assert "ConfigMap" not in {one["kind"] for one in found}
    for one in found:
        if one["kind"] == "StatefulSet":
            volumes = {volume["name"]: volume for volume in one["spec"]["template"]["spec"]["volumes"]}
            assert volumes["job"]["configMap"]["name"] == "mine"
            assert volumes["keys"]["secret"]["secretName"] == "secret"


@needs_helm
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plan": ""}, "helix-df export JOB --to helm"),
        ({"existingConfigMap": "mine"}, "not both"),
        ({"groups": []}, "/groups"),
        ({"groups": [{"name": "L4", "nodes": ["a"]}]}, "/groups/0/name"),
        ({"job": "a b; c"}, "/job"),
        ({"imgae": "x"}, "imgae"),
        ({"ingress": {"enabled": True}}, "/ingress/host"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: Json, words: str, tmp_path: Path) -> None:
    done = helm("template", values_of(plan()) | change, tmp_path)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == release()


def test_values_have_the_plan_and_its_nodes_in_order() -> None:
    values = values_of(plan())
    assert [(group["name"], group["nodes"]) for group in values["groups"]] == [
        ("2xl4", ["rack-1", "rack-2"]),
        ("toy-gpu", ["desk"]),
    ]
    (configuration,) = [one for one in export_plan(plan(), "kubernetes").facts["objects"] if one["kind"] == "ConfigMap"]  # type: ignore[attr-defined]
    assert values["plan"] == configuration["data"]["plan.json"]
