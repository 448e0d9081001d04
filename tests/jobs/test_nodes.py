"""Nodes join a running job and leave it: real processes, and what can't be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_df import deployment
from helix_df.cli.main import main
from helix_df.errors import SpecError
from helix_df.layers import LayerRange
from helix_df.load import parse_part
from helix_df.plan.plan import Plan
from helix_df.runtime.api.client import fetch_status
from tests.jobs.test_coordinator_dies import answer, daemon, until
from tests.jobs.test_rolling_change import under_load
from tests.runtime.tiny import tiny_plan

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}


def halves() -> Plan:
    return tiny_plan(HALVES, solver={"name": "auto", "time_limit": "2s"})


def names(url: str) -> set[str]:
    return {node.name.partition(".")[0] for node in fetch_status(url).nodes}


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["nodes", *words, "--job", "tiny"])
    return int(end.value.code or 0)


def test_nodes_join_a_job_that_serves_and_leave_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part.yaml"
    part.write_text("nodes: {c: {gpu: toy}, d: {gpu: toy}}\nlinks: {nodes: [{between: [c, d], bandwidth: 1Gbps}]}\n")
    with daemon(halves(), monkeypatch) as (_, record):
        alone = answer(record.url, 0)
        with under_load(record) as wrong:
            assert command("add", str(part)) == 0
            assert names(record.url) >= {"c", "d"}
            assert deployment.running_plan("tiny").job.links.nodes[0].between == ("c", "d")
            assert command("drain", "a") == 7
            assert "without a.2 no full path" in capsys.readouterr().err
            assert command("remove", "a", "c") == 0
            until(lambda: names(record.url) == {"b", "d"})
        assert not wrong
        assert answer(record.url, 0) == alone
        assert deployment.asked_plan("tiny").job.links.nodes == ()


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("nodes: {c: {gpu: toy}, a: {gpu: toy}}", "part.yaml:1: nodes.a", "the job has this already"),
        ("runtime: {port: 1}", "part.yaml:1: runtime", "this can't be added to a job that there is"),
        ("nodes:\n  c: {gpu: tyo}", "part.yaml:2: nodes.c.gpu", "unknown GPU"),
        ("nodes:\n  c: {gpus: toy}", "part.yaml:2: nodes.c.gpus", "unknown key"),
        ("links: {nodes: [{between: [a, z], bandwidth: 1Gbps}]}", "links.nodes[0].between[1]", "no node of this name"),
        ("", "part.yaml", "there is nothing to add"),
    ],
)
def test_what_can_not_be_added_is_refused_where_it_stands(text: str, where: str, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_part(halves().job, text)
    first = getattr(error.value, "errors", [error.value])[0]
    assert where in first.where
    assert problem in first.problem


def test_a_part_adds_what_it_says_and_nothing_else() -> None:
    job = halves().job
    fast = "{memory: 1GiB, profile: {tokens_per_s: [9], kv_tokens: [64]}}"
    found = parse_part(job, f"nodes: {{spot: {{gpu: fast, count: 2}}}}\ngpus: {{fast: {fast}}}")
    assert list(found.nodes) == ["a", "b", "spot-1", "spot-2"]
    assert found.gpus.keys() == {"toy", "fast"}
    assert found.model_copy(update={"nodes": job.nodes, "gpus": job.gpus}) == job
