"""Plans by what people name, and what can be checked without solving."""

from pathlib import Path

import pytest

import helix_df
from helix_df.errors import Infeasible, PlanError, SolverError, SpecError
from helix_df.plans import job_and_plan

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"


@pytest.fixture
def job(tmp_path):
    text = (EXAMPLES / "quickstart.yaml").read_text("utf-8")
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


def fast(path):
    return helix_df.load_job(path).with_solver(name="even", backend=None, options={})


def test_a_plan_is_found_by_its_file_and_made_from_a_job_file(job, tmp_path):
    made = helix_df.find_plan(job, lambda found: helix_df.make_plan(fast(job)))
    helix_df.write_plan(made, tmp_path / "p.json")
    assert helix_df.find_plan(tmp_path / "p.json").placement == made.placement


def test_what_names_no_plan_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HELIX_DF_STATE", str(tmp_path))
    with pytest.raises(PlanError, match="no plan or job called 'nobody'"):
        helix_df.find_plan("nobody")


def test_a_plan_runs_under_another_name_but_only_its_own_job(job, tmp_path):
    plan_file = tmp_path / "p.json"
    helix_df.write_plan(helix_df.make_plan(fast(job)), plan_file)
    named, plan = job_and_plan(job, plan_file, solver="even", name="other")
    assert plan is not None
    assert (named.name, plan.job.name) == ("other", "other")
    assert job_and_plan(job, solver="even")[1] is None
    job.write_text(job.read_text().replace("input_length: 200", "input_length: 100"))
    with pytest.raises(PlanError, match="another job"):
        job_and_plan(job, plan_file)
    with pytest.raises(PlanError, match="run as it is"):
        job_and_plan(plan_file, solver="even")
    with pytest.raises(SpecError, match="can't be a job's name"):
        job_and_plan(plan_file, name="../up")


def test_a_job_is_checked_without_solving(job):
    declared = helix_df.load_job(job)
    assert helix_df.check_job(declared).num_layers == 30
    with pytest.raises(SolverError):
        helix_df.check_job(declared.with_solver(name="nobody"))
    one = declared.model_copy(update={"nodes": {"small": declared.nodes["small"]}})
    with pytest.raises(Infeasible):
        helix_df.check_job(one)
