"""Names that Kubernetes takes, what a pod's status says, and times of log lines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from helix_df.pods.objects import MOST_SET_NAME, label, set_name
from helix_df.pods.options import KubernetesOptions, PodPlace, Toleration
from helix_df.pods.views import PodView, view
from helix_df.runtime.jobs.launchers.kubernetes_api import ApiRefusal, ApiSilence, ClusterApi
from helix_df.runtime.jobs.launchers.kubernetes_log import follow

Json = dict[str, Any]


def test_names_of_sets_are_short_and_their_own() -> None:
    long = [set_name(label("j" * 40), label(gpu * 20)) for gpu in ("ab", "ac")] + [set_name("job", "l4")]
    assert long[2] == "job-l4"
    assert len(set(long)) == 3
    for name in long:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= MOST_SET_NAME


def pod(status: Json, **metadata: Any) -> Json:
    return {"metadata": {"uid": "u", **metadata}, "status": status}


RUNNING: Json = {"containerID": "cri://2", "state": {"running": {}}, "lastState": {}}
ENDED = {"terminated": {"containerID": "cri://1", "exitCode": 3}}
UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (pod({}), PodView("u")),
        (pod({"phase": "Pending", "conditions": [UNPLACED]}), PodView("u", waits="Unschedulable", words="no room")),
        (pod({"containerStatuses": [RUNNING]}), PodView("u", running="cri://2")),
        (
            pod({"containerStatuses": [RUNNING | {"lastState": ENDED}]}, deletionTimestamp="now"),
            PodView("u", running="cri://2", ended={"cri://1": 3}, leaving=True),
        ),
        (
            pod({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "none"}}}]}),
            PodView("u", waits="ImagePullBackOff", words="none"),
        ),
        (
            pod({"phase": "Failed", "reason": "Evicted", "message": "no disk"}),
            PodView("u", waits="Evicted", words="no disk"),
        ),
    ],
)
def test_what_a_pod_says(document: Json, expected: PodView) -> None:
    assert view(document) == expected


def test_the_newest_container_is_the_one_that_runs_else_the_last_that_did() -> None:
    assert PodView("u", running="c", ended={"a": 1, "b": 0}).newest == "c"
    assert PodView("u", ended={"a": 1, "b": 0}).newest == "b"
    assert PodView("u").newest is None


def test_only_what_nobody_mends_is_hopeless() -> None:
    assert PodView("u", waits="ImagePullBackOff").is_hopeless
    assert not PodView("u", waits="ContainerCreating").is_hopeless


def test_places_are_the_types_own_else_the_default_one() -> None:
    own, default = PodPlace(selector={"a": "b"}), PodPlace(limits={"cpu": "1"})
    options = KubernetesOptions(place={"2xL4": own, "default": default})
    assert (options.of("2xL4"), options.of("T4")) == (own, default)
    assert own.limits_of("2xL4") == {"nvidia.com/gpu": "2"}
    assert default.limits_of("2xL4") == {"cpu": "1"}
    with pytest.raises(ValidationError, match="NoExecute"):
        Toleration(key="a", seconds=3)
    with pytest.raises(ValidationError, match="namespace"):
        KubernetesOptions(namespace="a.b")


class _Breaking:
    """A log that is heard in parts, some of them twice, between refusals."""

    def __init__(self, parts: list[list[bytes] | Exception]) -> None:
        self.parts = parts
        self.since: list[int | None] = []

    async def log(self, _pod: str, _container: str, since_s: int | None) -> AsyncIterator[bytes]:
        self.since.append(since_s)
        part = self.parts.pop(0)
        if isinstance(part, Exception):
            raise part
        for line in part:
            yield line


def test_lines_of_a_log_come_once_whatever_breaks(tmp_path: Path) -> None:
    def at(stamp: str, text: str) -> bytes:
        return f"2026-01-01T00:00:{stamp} {text}\n".encode()

    parts: list[list[bytes] | Exception] = [
        ApiRefusal(400, "BadRequest", "waiting to start"),
        [at("01.5Z", "one"), at("01.52Z", "two")],
        ApiSilence("cut"),
        [at("01.5Z", "one"), at("01.52Z", "two"), at("01.600000001Z", "three"), at("02Z", "four")],
    ]
    log = _Breaking(parts)
    path = tmp_path / "worker.log"
    asyncio.run(follow(cast(ClusterApi, log), "pod", path, lambda: bool(parts)))
    assert path.read_text() == "one\ntwo\nthree\nfour\n"
    assert log.since[:2] == [None, None], "an empty file has no age"
    assert all(since is not None for since in log.since[2:])
