"""What a job whose nodes come and go does under a load, beside fixed fleets: through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_df.cli.main import main
from helix_df.errors import Infeasible, SpecError
from helix_df.load import parse_job
from helix_df.plan.plan import read_plan, write_plan
from helix_df.plan.sizes import size_of, sized
from helix_df.planning import make_plan
from helix_df.what_if import measured_speeds, sizes
from helix_df.what_if.measured_speeds import plan_measured
from helix_df.what_if.scaled_fleets import plan_scale

JOB = """\
model: {source: "random:tiny", context: 256}
gpus:
  toy:
    memory: 1GiB
    profile: {tokens_per_s: [400, 200, 130, 100], kv_tokens: [2048, 2048, 2048, 2048]}
nodes: {base: {gpu: toy}, spot: {gpu: toy, count: 3}}
links: {default: {bandwidth: 10Gbps, latency: 1ms}}
workload: {input_length: 40, output_length: 20}
runtime: {max_batch: 4, max_prefill_tokens: 64}
scale: {nodes: ["spot-*"], queue_time: 500ms, up_after: 1s, down_after: 5s, average_over: 4s}
solver: {name: even}
"""
TRACE = "diurnal:rate=1.5,period=50,low=0.05,input=80,output=10"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([*words])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_sizes_steps_and_fleets_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    code, out, _ = run(capsys, "scale", str(job), "--trace", TRACE, "--seconds", "50", "--start", "2s", "--json")
    assert code == 0
    found = json.loads(out)
    planned = {one["size"]: one["tokens_per_s"] for one in found["sizes"] if "tokens_per_s" in one}
    assert set(planned) == {0, 1, 2, 3}
    assert planned[0] < planned[3]
    assert found["steps"][0]["size"] < 3, "it starts with all"
    assert all(" nodes that come and go: " in step["why"] for step in found["steps"])
    fleets = {row["name"]: row for row in found["fleets"]}
    assert list(fleets) == ["0 to 3, by scale", *(f"always {size}" for size in range(4))]
    assert fleets["always 3"]["node_hours"] == pytest.approx(4 * 50 / 3600)
    assert fleets["always 0"]["node_hours"] < fleets["0 to 3, by scale"]["node_hours"] < 4 * 50 / 3600
    assert fleets["always 3"]["missed"] <= fleets["0 to 3, by scale"]["missed"] < fleets["always 0"]["missed"]
    code, out, _ = run(capsys, "scale", str(job), "--trace", TRACE, "--seconds", "50", "--start", "2s")
    assert code == 0
    assert "0 to 3, by scale" in out
    assert f"{found['steps'][0]['begun_s']:.0f} s  3 → " in out


def test_a_job_whose_nodes_stay_has_nothing_to_scale() -> None:
    job = parse_job(JOB).model_copy(update={"scale": None})
    with pytest.raises(SpecError, match="all nodes of this job stay"):
        plan_scale(job)


def test_a_process_writes_each_size_and_says_which_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = parse_job(
        JOB.replace("[400, 200, 130, 100]", "[400, 200]").replace("[2048, 2048, 2048, 2048]", "[2048, 2048]")
    )
    write_plan(make_plan(job), tmp_path / "plan.json")
    assert sizes.main([str(tmp_path / "plan.json"), str(tmp_path)]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["size"] for one in said} == {0, 1, 2, 3}
    for one in said:
        if "serves" in one:
            plan = read_plan(tmp_path / f"{one['size']}.json")
            assert (plan.flow, plan.job) == (one["serves"], sized(job, one["size"]))
            assert size_of(plan.job) == one["size"]
        else:
            assert one["why"]
    assert any("why" in one for one in said), "one node can't hold all layers"


def test_a_process_plans_by_measured_speeds_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(parse_job(JOB.replace("solver: {name: even}", "solver: {name: swarm}")))
    write_plan(plan, tmp_path / "plan.json")
    with pytest.raises(Infeasible, match="no other plan serves more"):
        plan_measured(plan, {})
    out = tmp_path / "measured.json"
    assert measured_speeds.main([str(tmp_path / "plan.json"), str(out), "--speed", "base=1"]) == 0
    assert "no other plan serves more" in json.loads(capsys.readouterr().out)["why"]
    assert not out.exists()
    given = [str(tmp_path / "plan.json"), str(out), "--speed", "base=0.05", "--most-bytes", "100000000"]
    assert measured_speeds.main(given) == 0
    said = json.loads(capsys.readouterr().out)
    if "found" in said:
        assert read_plan(out).job.nodes["base"].speed == 0.05
        assert " tokens/s instead of " in said["found"]
    else:
        assert said["why"]
