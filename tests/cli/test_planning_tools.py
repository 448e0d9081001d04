"""The commands that look at plans: what they print, and how they find a plan."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helix_df.cli.main import main
from helix_df.load import load_job
from helix_df.plan.plan import read_plan, write_plan
from helix_df.planning import make_plan
from helix_df.runtime.jobs.directory import job_directory

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"


def run(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """A folder with a plan of every example that needs no search, and one more of single24."""
    folder = tmp_path_factory.mktemp("plans")
    for path in EXAMPLES.glob("*.yaml"):
        job = load_job(path).with_solver(name="petals", options={})
        if job.nodes:
            write_plan(make_plan(job), folder / f"{path.stem}.json")
    write_plan(make_plan(load_job(EXAMPLES / "single24.yaml").with_solver(name="even")), folder / "even.json")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HELIX_DF_STATE", str(tmp_path / "state"))


def test_explain_says_what_binds_and_what_helps(plans, capsys):
    code, out, err = run(capsys, "explain", plans / "single24.json", "--budget", "0s")
    assert (code, err) == (0, "")
    assert "every token passes" in out
    for gpu in ("A100-40GB", "L4", "T4"):
        assert any(line.startswith(gpu) for line in out.splitlines())
    assert "no placement with the new node has more" in out
    assert "re-planned:" not in out
    assert all(len(line) <= 120 and line == line.rstrip() for line in out.splitlines())


def test_explain_plans_a_job_and_plans_anew_with_the_solver_that_is_named(capsys):
    job = EXAMPLES / "single24.yaml"
    text = job.read_text().replace("name: auto", "name: even")
    Path("job.yaml").write_text(text)
    code, out, _ = run(capsys, "explain", "job.yaml", "--solver", "petals", "--budget", "4s")
    assert code == 0
    assert "what petals finds in 1.0 s with the new node" in out


def test_explain_as_json(plans, capsys):
    document = json.loads(run(capsys, "explain", plans / "quickstart.json", "--budget", "0s", "--json")[1])
    assert document["flow"] == pytest.approx(read_plan(plans / "quickstart.json").flow)
    assert {worth["gpu"] for worth in document["gpus"]} == {"cpu-large", "cpu-medium", "cpu-small"}
    assert all(worth["gain"] == pytest.approx(worth["beside"]["flow"] - document["flow"]) for worth in document["gpus"])


def test_a_budget_that_is_no_time_is_refused(plans, capsys):
    code, _, err = run(capsys, "explain", plans / "quickstart.json", "--budget", "soon")
    assert code == 2
    assert "--budget" in err


def test_diff_of_two_plans_and_of_one_with_itself(plans, capsys):
    code, out, err = run(capsys, "diff", plans / "even.json", plans / "single24.json")
    assert (code, err) == (0, "")
    assert "of the traffic" in out
    assert "to load" in out
    assert "→ [" in out
    code, out, _ = run(capsys, "diff", plans / "even.json", plans / "even.json")
    assert code == 0
    assert "no layer moves: all 24 nodes keep theirs" in out
    assert "the same" in out


def test_diff_as_json(plans, capsys):
    document = json.loads(run(capsys, "diff", plans / "even.json", plans / "single24.json", "--json")[1])
    assert document["load_bytes"] > 0
    assert 0 <= document["rerouted_share"] <= 1


def test_diff_with_a_job_that_ran_here(plans, capsys):
    directory = job_directory("live")
    directory.path.mkdir(parents=True)
    write_plan(read_plan(plans / "even.json"), directory.plan_path)
    code, out, _ = run(capsys, "diff", "live", plans / "single24.json")
    assert code == 0
    assert "of the traffic" in out


def test_planning_near_a_plan_moves_nothing_that_does_not_pay(plans, capsys):
    job = EXAMPLES / "single24.yaml"
    args = ("--solver", "cover", "--time-limit", "3s", "--near", plans / "even.json", "--move-price", "1000")
    code, out, _ = run(capsys, "plan", job, *args)
    assert code == 0
    assert read_plan(Path("single24.plan.json")).placement == read_plan(plans / "even.json").placement
    assert "no layer moves" in out


def test_a_solver_that_does_not_weigh_moves_refuses_to(plans, capsys):
    code, out, err = run(capsys, "plan", EXAMPLES / "single24.yaml", "--solver", "even", "--near", plans / "even.json")
    assert (code, out) == (5, "")
    assert "even doesn't weigh moves" in err


def test_the_table_shows_depth_and_limits(capsys):
    text = (EXAMPLES / "single24.yaml").read_text()
    job = text.replace("\ngpus:", "\nlimits: {max_hops: 12, avoid: [n5]}\ngpus:")
    Path("job.yaml").write_text(job)
    code, out, _ = run(capsys, "plan", "job.yaml", "--solver", "cover", "--time-limit", "2s")
    assert code == 0
    assert "12 allowed" in out
    assert "limits.avoid leaves out n5" in out
    plan = read_plan(Path("single24.plan.json"))
    assert max(len(path.hops) for path in plan.paths()) <= 12
    assert "n5" not in plan.placement
    code, out, _ = run(capsys, "explain", "single24.plan.json", "--budget", "0s")
    assert code == 0
    assert "left out by limits.avoid" in out


def test_no_such_plan_or_job_is_one_message(plans, capsys):
    code, _, err = run(capsys, "diff", "nobody", plans / "even.json")
    assert code == 4
    assert "no plan or job called 'nobody'" in err
    code, _, err = run(capsys, "explain", "missing.json")
    assert code == 4
    assert "missing.json" in err


def test_a_plan_that_lies_is_refused(plans, capsys):
    document = json.loads((plans / "even.json").read_text())
    document["flow"] *= 2
    Path("lie.json").write_text(json.dumps(document))
    for command in (["explain", "lie.json"], ["diff", "lie.json", "lie.json"]):
        code, _, err = run(capsys, *command)
        assert code == 4
        assert "doesn't fit its job" in err


def test_plans_of_other_models_are_not_compared(plans, capsys):
    code, _, err = run(capsys, "diff", plans / "quickstart.json", plans / "even.json")
    assert code == 4
    assert "different models" in err


def test_export_prints_a_script_or_json_or_says_why_not(plans, capsys):
    code, out, _ = run(capsys, "export", plans / "even.json", "--to", "vllm")
    assert code == 0
    assert "VLLM_PP_LAYER_PARTITION=4,4," in out
    document = json.loads(run(capsys, "export", plans / "even.json", "--to", "vllm", "--json")[1])
    assert document["facts"]["pipeline_parallel_size"] == 24
    code, _, err = run(capsys, "export", plans / "single24.json", "--to", "llama.cpp")
    assert code == 4
    assert "found:" in err


def test_draw_prints_or_writes_a_picture(plans, capsys):
    code, out, _ = run(capsys, "draw", plans / "single24.json")
    assert code == 0
    assert "█" in out
    assert all(len(line) <= 120 and line == line.rstrip() for line in out.splitlines())
    code, out, err = run(capsys, "draw", plans / "single24.json", "--out", "plan.svg")
    assert (code, out) == (0, "")
    assert "written to plan.svg" in err
    assert Path("plan.svg").read_text("utf-8").startswith("<?xml")
    code, _, err = run(capsys, "draw", plans / "single24.json", "--out", "nowhere/plan.svg")
    assert code == 4
    assert "can't be written" in err


def test_looking_at_plans_needs_no_jax(plans):
    commands = [
        ["explain", plans / "single24.json", "--budget", "0s"],
        ["diff", plans / "even.json", plans / "single24.json"],
        ["export", plans / "even.json", "--to", "vllm"],
        ["draw", plans / "even.json", "--out", "plan.svg"],
    ]
    code = (
        "import sys\n"
        "from helix_df.cli.main import main\n"
        f"for command in {[[str(word) for word in command] for command in commands]}:\n"
        "    try: main(command)\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "print([m for m in ('jax', 'flax', 'zmq', 'torch') if m in sys.modules])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.splitlines()[-1] == "[]"
