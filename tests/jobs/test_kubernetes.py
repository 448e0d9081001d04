"""Workers as pods of a cluster on this machine, with a strict stand-in of an API server, and with a real one where that
is built; the commands of pods really run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes")

from helix_df import deployment
from helix_df.check import check_job
from helix_df.errors import DeploymentError, HelixError
from helix_df.exporters.registry import export_plan
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.paths import cache_root
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.attended import job_mark
from helix_df.runtime.jobs.job_keys import make_keys
from helix_df.runtime.jobs.launchers.kubernetes import NEEDED, NEEDED_FOR_BUDGETS
from helix_df.runtime.jobs.processes import command_line
from tests.exporters.test_helm import needs_helm, rendered
from tests.exporters.test_kubernetes import plan as exported
from tests.jobs.test_coordinator_dies import HALVES, answer, daemon, kill_the_coordinator, until
from tests.kubernetes.cluster import IMAGE, Cluster, StandIn, a_cluster, why_not
from tests.kubernetes.real import MISSING, RealCluster
from tests.kubernetes.real import NEEDED as SERVERS
from tests.runtime.tiny import tiny_plan

needs_pods = pytest.mark.skipif(why_not() is not None, reason=f"no pods can run here: {why_not()}")


needs_servers = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(SERVERS)}; no {', '.join(MISSING)}")
"""`scripts/kube-apiserver FOLDER` builds them, and HELIX_DF_KUBERNETES=FOLDER names them."""


@pytest.fixture(params=[StandIn, pytest.param(RealCluster, marks=needs_servers)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with a_cluster(request.param) as one:
        yield one


GPUS = {"a": "large", "b": "small", "c": "small"}
LATER = {"a": LayerRange(0, 1), "b": LayerRange(2, 4), "c": LayerRange(1, 2)}


def on_kubernetes(cluster: Cluster, placement: dict[str, LayerRange] = HALVES, **options: Any) -> Plan:
    gpus = {name: GPUS[name] for name in placement}
    profile = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [4096] * 4}
    said = {
        "kubeconfig": str(cluster.kubeconfig),
        "image": IMAGE,
        "command": "python -m helix_df",
        "env": {"HELIX_DF_CACHE": str(cache_root())},
        "wait": "60s",
        "max_unavailable": cluster.max_unavailable,
        **options,
    }
    return tiny_plan(
        placement,
        gpus={gpu: {"memory": "1GiB", "profile": profile} for gpu in gpus.values()},
        nodes={name: {"gpu": gpu, "launcher": "kubernetes", "address": "auto"} for name, gpu in gpus.items()},
        coordinator={"address": "127.0.0.1"},
        launchers={"kubernetes": said},
    )


def uids(cluster: Cluster) -> dict[str, str]:
    """The uid of each pod, by its set's GPU type and its number."""
    found = cluster.all("Pod")
    return {"-".join(pod["metadata"]["name"].rsplit("-", 2)[1:]): pod["metadata"]["uid"] for pod in found}


def orders(cluster: Cluster) -> dict[str, str]:
    """Which worker each pod is to run, by the same."""
    (files,) = [one.get("data") or {} for one in cluster.all("ConfigMap")]
    return {"-".join(pod.rsplit("-", 2)[1:]): text.split("--node ")[1].split()[0] for pod, text in files.items()}


def pods(cluster: Cluster) -> dict[str, str]:
    """The uid of each pod that is there, by the GPU type of its host."""
    found = cluster.all("Pod")
    return {pod["metadata"]["labels"]["helix-df/gpu"]: pod["metadata"]["uid"] for pod in found}


def pod_name(cluster: Cluster, gpu: str) -> str:
    found = cluster.all("Pod")
    (name,) = [pod["metadata"]["name"] for pod in found if pod["metadata"]["labels"]["helix-df/gpu"] == gpu]
    return str(name)


@needs_pods
def test_workers_serve_heal_are_found_again_and_leave_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon(on_kubernetes(cluster), monkeypatch) as (job, record):
        expected = answer(record.url, 1)
        kinds = [one.partition("/")[0] for one in cluster.objects()]
        budgets = [] if cluster.max_unavailable is None else ["PodDisruptionBudget"] * 2
        assert sorted(kinds) == sorted(["ConfigMap", "Secret", "Service", *["StatefulSet", "Pod"] * 2, *budgets])
        before = {gpu: cluster.pod_pid(pod_name(cluster, gpu)) for gpu in ("large", "small")}
        for pid in before.values():
            assert pid is not None
            assert record.token not in " ".join(command_line(pid))
            assert record.token not in Path(f"/proc/{pid}/environ").read_text()
        assert "loading" in (job.path / "logs" / "a.log").read_text()
        found = [{it["type"]: it["status"] for it in pod["status"]["conditions"]} for pod in cluster.all("Pod")]
        assert [conditions["Ready"] for conditions in found] == ["True", "True"]

        # A worker that dies is started again in its pod.
        assert before["large"] is not None
        os.kill(before["large"], signal.SIGKILL)
        until(lambda: fetch_status(record.url).nodes[0].restarts == 1)
        until(lambda: fetch_status(record.url).state == "ready")
        assert answer(record.url, 1) == expected
        assert "exit code 137" in job.log_path().read_text()

        # A pod that somebody removes is made again by its set.
        lost = pods(cluster)["small"]
        name = pod_name(cluster, "small")
        cluster.remove_pod(name)
        until(lambda: pods(cluster).get("small") not in (None, lost))
        until(lambda: fetch_status(record.url).nodes[1].restarts == 1)
        until(lambda: fetch_status(record.url).state == "ready")
        assert answer(record.url, 1) == expected

        # The API server is away, and has forgotten what happened before: nobody cares.
        with cluster.interrupt():
            assert answer(record.url, 1) == expected

        healed = pods(cluster)
        record = kill_the_coordinator(job)
        assert answer(record.url, 1) == expected
        assert pods(cluster) == healed, "the next coordinator found the pods"
        deployment.down("tiny")
        assert cluster.objects() == []


@needs_pods
def test_another_plan_takes_over_with_pods_of_its_own(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(on_kubernetes(cluster), monkeypatch) as (job, record):
        expected = answer(record.url, 1)
        before = uids(cluster)
        assert orders(cluster) == {"large-0": "a", "small-0": "b"}
        deployment.change(on_kubernetes(cluster, LATER))
        assert answer(record.url, 1) == expected
        until(lambda: orders(cluster) == {"large-1": "a.2", "small-0": "b", "small-1": "c"})
        after = uids(cluster)
        assert {pod: after[pod] for pod in before} == before, "who stays, stays where it is"
        record = kill_the_coordinator(job)
        assert answer(record.url, 1) == expected
        assert uids(cluster) == after
        deployment.change(on_kubernetes(cluster))
        assert answer(record.url, 1) == expected
        until(lambda: sorted(orders(cluster).values()) == ["a", "b"])
        until(lambda: "small-1" not in uids(cluster))
        deployment.down("tiny")
        assert cluster.objects() == []


@needs_pods
def test_what_is_wrong_in_the_cluster_is_said_in_its_words(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"selector": {"zone": "nowhere"}}
    wrong: dict[str, dict[str, Any]] = {
        "ImagePullBackOff": {"image": "nobody/has:this"},
        "didn't match": {"place": {"large": nowhere}, "wait": "2s"},
        "exit code 127": {"command": "no-such-command"},
        "401": {"context": "strange"},
    }
    for words, options in wrong.items():
        with pytest.raises(DeploymentError) as error, daemon(on_kubernetes(cluster, **options), monkeypatch):
            pass
        assert words in str(error.value), words
        until(lambda: cluster.objects() == [])


@pytest.mark.parametrize("target", ["kubernetes", pytest.param("helm", marks=needs_helm)])
def test_the_api_server_takes_what_is_exported(target: str, cluster: Cluster, tmp_path: Path) -> None:
    of = exported(options={"max_unavailable": cluster.max_unavailable})
    (command,) = export_plan(of, target).commands
    text = command.text
    found = rendered(yaml.safe_load(text), tmp_path) if target == "helm" else list(yaml.safe_load_all(text))
    for one in found:
        cluster.add(one["kind"], one)
    assert sorted(one for one in cluster.objects() if not one.startswith("Pod/")) == sorted(
        f"{one['kind']}/{one['metadata']['name']}" for one in found
    )


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with a_cluster(StandIn) as one:
        assert isinstance(one, StandIn)
        yield one


def refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """What `apply` says, which leaves nothing."""
    there = cluster.objects()
    with pytest.raises(DeploymentError) as error, daemon(on_kubernetes(cluster, **options), monkeypatch):
        pass
    assert cluster.objects() == there
    return str(error.value)


def test_what_a_user_may_not_do_is_said_before_anything_starts(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.do(lambda: stand_in.server.forbidden.update({("create", "secrets"), ("get", "pods/log")}))
    words = refused(stand_in, monkeypatch)
    assert "no right to create secrets, get pods/log in the namespace default" in words
    stand_in.do(lambda: stand_in.server.forbidden.clear())
    stand_in.do(lambda: stand_in.server.groups.discard("policy/v1"))
    assert "launchers.kubernetes.max_unavailable" in refused(stand_in, monkeypatch)
    assert "create namespace elsewhere" in refused(stand_in, monkeypatch, namespace="elsewhere", max_unavailable=None)


def test_objects_of_others_are_left_alone(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"helix-df-{job_mark(make_keys('tiny').keys)}-job"
    stand_in.add("ConfigMap", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
    words = refused(stand_in, monkeypatch)
    assert f"ConfigMap {name} in the namespace default" in words


def test_what_the_cluster_refuses_is_said_in_its_words(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"large": {"limits": {"nvidia.com/gpu": "1"}, "selector": {"zone": "here"}}}
    long = {"env": {"LONG": "x" * 40}, "pull_secrets": ["registry"], "place": place}
    stand_in.do(lambda: setattr(stand_in.server, "quota", 1))
    words = refused(stand_in, monkeypatch, wait="2s", **long)
    assert "exceeded quota" in words


def test_a_cluster_that_is_not_there_is_said(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    text = stand_in.kubeconfig.read_text().replace(stand_in.url, "https://127.0.0.1:1")
    stand_in.kubeconfig.write_text(text)
    assert "the cluster can't be reached" in refused(stand_in, monkeypatch)


def test_the_role_that_is_written_down_is_what_the_launcher_asks_for() -> None:
    role = yaml.safe_load((Path(__file__).parents[2] / "packaging/kubernetes/role.yaml").read_text())
    given = {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    asked = set()
    for access in (*NEEDED, *NEEDED_FOR_BUDGETS):
        said = access.attributes
        asked.add((said["verb"], said["group"], "/".join(filter(None, (said["resource"], said["subresource"])))))
    assert given == asked | {("list", "", "events")}


JOB = """\
model: {{source: "random:tiny"}}
nodes:
  a: {{gpu: L4, launcher: kubernetes, {node}}}
links: {{default: {{bandwidth: 1Gbps}}}}
launchers: {{kubernetes: {{{options}}}}}
"""


@pytest.mark.parametrize(
    ("node", "options", "where"),
    [
        ("address: 10.0.0.1", "", "nodes.a.address"),
        ("address: auto", "place: {T4: {}}", "launchers.kubernetes.place.T4"),
        ("address: auto", "image: [a]", "launchers.kubernetes.image"),
        ("address: auto", "namespace: Not_One", "launchers.kubernetes.namespace"),
        ("address: auto", "place: {L4: {selector: {a b: c}}}", "launchers.kubernetes.place.L4.selector"),
        ("address: auto", "place: {L4: {limits: {memory: lots}}}", "launchers.kubernetes.place.L4.limits.memory"),
        (
            "address: auto",
            "place: {L4: {tolerations: [{operator: Equal}]}}",
            "launchers.kubernetes.place.L4.tolerations[0]",
        ),
        ("address: auto", "max_unavailable: -1", "launchers.kubernetes.max_unavailable"),
        ("address: auto", "wiat: 5s", "launchers.kubernetes.wiat"),
        ("address: auto", "kubeconfig: /nowhere/config", "launchers.kubernetes.kubeconfig"),
        ("address: auto", "context: other", "launchers.kubernetes.context"),
        ("address: auto", "kubeconfig: BROKEN", "launchers.kubernetes.kubeconfig"),
    ],
)
def test_mistakes_are_found_at_validate(
    node: str, options: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("contexts: [{name: mine, context: {namespace: ours}}]\ncurrent-context: mine\n")
    (tmp_path / "broken").write_text("contexts: [: {")
    options = options.replace("BROKEN", f"{tmp_path}/broken")
    said = options if "kubeconfig" in options else ", ".join(filter(None, (options, f"kubeconfig: {tmp_path}/config")))
    with pytest.raises(HelixError) as error:
        check_job(parse_job(JOB.format(node=node, options=said)))
    assert error.value.where is not None
    line, _, path = error.value.where.rpartition(": ")
    assert path.startswith(where)
    assert line.startswith("job.yaml:") or " " in path, "what has a space is not taken for a path"
