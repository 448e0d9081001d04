"""What is found once a job has been read is told with the line of its field, too."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from helix_df.check import check_job
from helix_df.errors import HelixError, SpecErrors
from helix_df.load import parse_job
from helix_df.planning import make_plan
from helix_df.plans import job_and_plan

HEAD = """\
model: {source: "random:llama-30b"}
links: {default: {bandwidth: 10Gbps}}
nodes:
  a: {gpu: L4}
"""


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("  b: {gpu: L4, count: 9}\nsolver:\n  name: mpi\n", ["job.yaml:7: solver.name"]),
        ("  b: {gpu: L4, count: 9}\nsolver: mpi\n", ["job.yaml:6: solver.name"]),
        ("solver:\n  name: swarm\n  options:\n    stages: 5\n", ["job.yaml:8: solver.options.stages"]),
        ("solver:\n  name: goodput\n  options:\n    workers: 0\n", ["job.yaml:8: solver.options.workers"]),
        ("limits:\n  itl_p95: 5ms\nworkload: {rate: 1.0}\n", ["job.yaml:6: limits.itl_p95"]),
        ("launchers:\n  nobody: {}\n", ["job.yaml:6: launchers.nobody"]),
        (
            "launchers:\n  slurm:\n    wiat: 5s\n    place: 5\n",
            ["job.yaml:8: launchers.slurm.place", "job.yaml:7: launchers.slurm.wiat"],
        ),
        ("  b: {gpu: L4, count: 9, launcher: nobody}\n", ["job.yaml:5: nodes.b.launcher"]),
        ("  b: {gpu: L4, count: 2}\n", ["job.yaml:3: nodes"]),
        ("  b: {gpu: L4, count: 9}\nlimits: {max_hops: 2}\n", ["job.yaml:6: limits.max_hops"]),
    ],
)
def test_what_validate_finds_has_a_line(text: str, places: list[str]) -> None:
    with pytest.raises(HelixError) as caught:
        check_job(parse_job(HEAD + text))
    errors = caught.value.errors if isinstance(caught.value, SpecErrors) else (caught.value,)
    assert [error.where for error in errors] == places


def test_planning_says_the_line_and_not_of_what_it_was_told_otherwise() -> None:
    job = parse_job(HEAD + "  b: {gpu: L4, count: 9}\nsolver: swarm\n")
    with pytest.raises(HelixError) as caught:
        make_plan(job.with_solver(options={"stages": 5}))
    assert caught.value.where == "solver.options.stages"
    with pytest.raises(HelixError) as caught:
        make_plan(parse_job(HEAD + "solver: swarm\n"))
    assert caught.value.where == "job.yaml:3: nodes"


def test_a_job_is_the_same_wherever_it_is_written_down() -> None:
    job = parse_job(HEAD)
    assert job == parse_job("\n" + HEAD, name="other.yaml")
    sent = pickle.loads(pickle.dumps(job))
    assert sent == job
    assert sent.places.where(("nodes", "a")) == "nodes.a"
    assert job.places.where(("nodes", "a", "gpu")) == "job.yaml:4: nodes.a.gpu"


def test_what_is_to_run_is_checked_before_it_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(HEAD + "  b: {gpu: L4, count: 9}\nlaunchers:\n  local: {cores: 5}\n")
    with pytest.raises(HelixError) as caught:
        job_and_plan(path)
    assert caught.value.where == f"{path}:7: launchers.local.cores"
