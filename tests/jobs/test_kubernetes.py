"""Workers as pods of a cluster on this machine: a strict stand-in of an API server, and pods whose commands really run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes")

from helix_df import deployment
from helix_df.check import check_job
from helix_df.errors import DeploymentError, HelixError
from helix_df.load import parse_job
from helix_df.paths import cache_root
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.processes import command_line
from tests.jobs.test_coordinator_dies import HALVES, answer, daemon, kill_the_coordinator, until
from tests.kubernetes.cluster import IMAGE, Cluster, a_cluster, why_not
from tests.runtime.tiny import tiny_plan

needs_pods = pytest.mark.skipif(why_not() is not None, reason=f"no pods can run here: {why_not()}")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with a_cluster() as one:
        yield one


def on_kubernetes(cluster: Cluster, **options: Any) -> Plan:
    gpus = dict(zip(HALVES, ("large", "small"), strict=True))
    profile = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [4096] * 4}
    said = {
        "kubeconfig": str(cluster.kubeconfig),
        "image": IMAGE,
        "command": "python -m helix_df",
        "env": {"HELIX_DF_CACHE": str(cache_root())},
        "wait": "60s",
        **options,
    }
    return tiny_plan(
        HALVES,
        gpus={gpu: {"memory": "1GiB", "profile": profile} for gpu in gpus.values()},
        nodes={name: {"gpu": gpu, "launcher": "kubernetes", "address": "auto"} for name, gpu in gpus.items()},
        coordinator={"address": "127.0.0.1"},
        launchers={"kubernetes": said},
    )


def pods(cluster: Cluster) -> dict[str, str]:
    """The uid of each pod that is there, by the GPU type of its host."""
    found = cluster.do(lambda: cluster.server.all("Pod"))
    return {pod["metadata"]["labels"]["helix-df/gpu"]: pod["metadata"]["uid"] for pod in found}


def pod_name(cluster: Cluster, gpu: str) -> str:
    found = cluster.do(lambda: cluster.server.all("Pod"))
    (name,) = [pod["metadata"]["name"] for pod in found if pod["metadata"]["labels"]["helix-df/gpu"] == gpu]
    return str(name)


@needs_pods
def test_workers_serve_heal_are_found_again_and_leave_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon(on_kubernetes(cluster), monkeypatch) as (job, record):
        expected = answer(record.url, 1)
        kinds = [one.partition("/")[0] for one in cluster.objects()]
        assert sorted(kinds) == sorted(
            ["ConfigMap", "Secret", "Service", *["StatefulSet", "PodDisruptionBudget", "Pod"] * 2]
        )
        before = {gpu: cluster.pod_pid(pod_name(cluster, gpu)) for gpu in ("large", "small")}
        for pid in before.values():
            assert pid is not None
            assert record.token not in " ".join(command_line(pid))
            assert record.token not in Path(f"/proc/{pid}/environ").read_text()
        assert "loading" in (job.path / "logs" / "a.log").read_text()
        ready = [pod["status"]["conditions"][1] for pod in cluster.do(lambda: cluster.server.all("Pod"))]
        assert ready == [{"type": "Ready", "status": "True"}] * 2

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
        cluster.do(lambda: cluster.server.delete("Pod", "default", name, {"gracePeriodSeconds": 0}))
        until(lambda: pods(cluster).get("small") not in (None, lost))
        until(lambda: fetch_status(record.url).nodes[1].restarts == 1)
        until(lambda: fetch_status(record.url).state == "ready")
        assert answer(record.url, 1) == expected

        # The API server is away, and has forgotten what happened before: nobody cares.
        cluster.do(lambda: setattr(cluster.server, "is_away", True))
        assert answer(record.url, 1) == expected
        cluster.do(cluster.server.forget_history)
        cluster.do(lambda: setattr(cluster.server, "is_away", False))

        healed = pods(cluster)
        record = kill_the_coordinator(job)
        assert answer(record.url, 1) == expected
        assert pods(cluster) == healed, "the next coordinator found the pods"
        deployment.down("tiny")
        assert cluster.objects() == []
        assert not [call for call in cluster.do(lambda: cluster.server.calls) if "/namespaces/default/" not in call[1]][
            99:
        ]


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
    ],
)
def test_mistakes_are_found_at_validate(
    node: str, options: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("contexts: [{name: mine, context: {namespace: ours}}]\ncurrent-context: mine\n")
    said = options if "kubeconfig" in options else ", ".join(filter(None, (options, f"kubeconfig: {tmp_path}/config")))
    with pytest.raises(HelixError) as error:
        check_job(parse_job(JOB.format(node=node, options=said)))
    assert error.value.where is not None
    assert error.value.where.startswith(where)
