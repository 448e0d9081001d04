"""A fleet as several jobs: who gets which node, what they serve together, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.cli.main import main
from helix_df.errors import Infeasible, SpecError
from helix_df.graph.compile import compile_problem
from helix_df.load import load_job
from helix_df.plan.violations import violations
from helix_df.spec.job import Job
from helix_df.what_if.split import part_yaml, parted, split_fleet


def fleet(fast: int, slow: int, layers: int = 4, **more: object) -> Job:
    """Nodes of two kinds, each of which holds so many of four layers."""
    rates = {"fast": [800.0, 400.0, 260.0, 200.0], "slow": [400.0, 200.0, 130.0, 100.0]}
    return Job.model_validate(
        {
            "name": "fleet",
            "model": {"source": "random:tiny"},
            "gpus": {
                kind: {"memory": "1GiB", "profile": {"tokens_per_s": rate[:layers], "kv_tokens": [4096] * layers}}
                for kind, rate in rates.items()
            },
            "nodes": {
                **{f"fast{at}": {"gpu": "fast", "address": f"10.0.0.{at + 1}"} for at in range(fast)},
                **{f"slow{at}": {"gpu": "slow"} for at in range(slow)},
            },
            "links": {
                "default": {"bandwidth": "10Gbps", "latency": "1ms"},
                "nodes": [{"between": ["fast0", "coordinator"], "bandwidth": "1Gbps"}] if fast else [],
            },
            "coordinator": {"address": "10.0.1.1:7000"},
            "runtime": {"port": 8000},
            "solver": {"time_limit": "2s"},
            **more,
        }
    )


@settings(max_examples=25, deadline=None)
@given(fast=st.integers(0, 7), slow=st.integers(0, 7), count=st.integers(2, 5))
def test_each_node_is_of_one_part_and_parts_are_alike(fast: int, slow: int, count: int) -> None:
    if fast + slow < max(2, count):
        return
    job = fleet(fast, slow)
    parts = parted(job, count)
    assert sorted(name for part in parts for name in part.nodes) == sorted(job.nodes)
    assert all(part.nodes[name] == job.nodes[name] for part in parts for name in part.nodes)
    for kind in ("fast", "slow"):
        counts = [sum(node.gpu == kind for node in part.nodes.values()) for part in parts]
        assert max(counts) - min(counts) <= 1
    assert [part.name for part in parts] == [f"fleet-{at}" for at in range(1, count + 1)]
    assert [part.runtime.port for part in parts] == list(range(8000, 8000 + count))
    assert [part.coordinator.address for part in parts] == [f"10.0.1.1:{7000 + at}" for at in range(count)]
    ends = [{*entry.between} for part in parts for entry in part.links.nodes]
    assert ends == ([{"fast0", "coordinator"}] if fast else [])


def test_parts_serve_together_what_one_job_does() -> None:
    found = split_fleet(fleet(4, 4), 2)
    assert all(violations(part, compile_problem(part.job)) == [] for part in found.parts)
    assert found.parts[0].flow == pytest.approx(found.parts[1].flow)
    assert found.flow == pytest.approx(found.whole.flow)


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(SpecError, match="so many jobs") as refused:
        parted(fleet(2, 1), 4)
    assert refused.value.expected == "2 to 3, the nodes of the job"
    with pytest.raises(Infeasible, match="part 2 of 2 can't serve the model by itself"):
        split_fleet(fleet(2, 1, layers=2), 2)


def test_jobs_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(part_yaml(fleet(2, 2)))
    with pytest.raises(SystemExit) as ended:
        main(["split", str(path), "--parts", "2", "--out", str(tmp_path / "parts")])
    assert ended.value.code in (0, None)
    out = capsys.readouterr().out
    assert "fleet-1" in out
    assert "together" in out
    jobs = [load_job(tmp_path / "parts" / f"fleet-{number}.yaml") for number in (1, 2)]
    assert [sorted(job.nodes) for job in jobs] == [["fast0", "slow0"], ["fast1", "slow1"]]


def test_the_balancer_that_is_shipped_knows_the_ports_and_is_right() -> None:
    """In front of two parts of a job at the usual port."""
    config = Path(__file__).parents[2] / "packaging" / "haproxy.cfg"
    port = Job.model_fields["runtime"].get_default(call_default_factory=True).port
    servers = re.findall(r"server \S+ 127\.0\.0\.1:(\d+) ", config.read_text("utf-8"))
    assert servers == [str(port), str(port + 1)]
    haproxy = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if haproxy is not None:
        subprocess.run([haproxy, "-c", "-f", str(config)], check=True, capture_output=True)
