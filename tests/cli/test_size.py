"""``helix-df size`` as people use it: what it prints, what it writes, and how mistakes are answered."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helix_df.cli.main import main
from helix_df.load import load_job
from helix_df.sizing.prediction import BEGUN

JOB = """
name: fleet
model: {source: "random:tiny"}
gpus:
  small: {memory: 1GB, price: 0.5, profile: {tokens_per_s: [40.0, 20.0], kv_tokens: [4000, 2000]}}
  large: {memory: 1GB, price: 3.0, profile: {tokens_per_s: [90, 80, 70, 60], kv_tokens: [4000, 2000, 1000, 900]}}
offers:
  small: {gpu: small, most: 6}
  large: {gpu: large, most: 2}
links: {default: {bandwidth: 1Gbps}}
workload: {input_length: 60, output_length: 40, rate: 0.2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)


def run(capsys, *arguments):
    code = 0
    try:
        main(list(arguments))
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_fleet_is_a_job_that_plans(capsys):
    code, out, _ = run(capsys, "size", "job.yaml", "--out", "fleet.yaml", "--plan", "fleet.plan.json")
    assert code == 0
    assert "2 small" in out
    assert "no fleet of these offers that serves this costs less" in out
    job = load_job("fleet.yaml")
    assert (len(job.nodes), job.offers) == (2, {})
    assert run(capsys, "plan", "fleet.yaml")[0] == 0
    assert run(capsys, "show", "fleet.plan.json")[0] == 0


def test_the_answer_is_data_too(capsys):
    document = json.loads(run(capsys, "size", "job.yaml", "--json")[1])
    assert document["cheapest"]["fleet"]["counts"] == {"small": 2, "large": 0}
    assert document["cheapest"]["lower_bound"] == document["cheapest"]["fleet"]["cost"] == 1.0
    assert [one["offers"] for one in document["alternatives"]] == [["small"], ["large"]]
    assert {one["kept_flow"] for one in document["losses"]} == {0.0}


def test_another_rate(capsys):
    document = json.loads(run(capsys, "size", "job.yaml", "--json", "--rate", "0.5")[1])
    assert document["cheapest"]["fleet"]["counts"] == {"small": 6, "large": 0}


def test_nodes_that_there_are_cost_nothing(capsys):
    Path("job.yaml").write_text(JOB.replace("offers:", "nodes: {mine: {gpu: small}}\noffers:"))
    _, out, _ = run(capsys, "size", "job.yaml", "--out", "fleet.yaml")
    assert "1 small beside 1 node of the job's own" in out
    assert set(load_job("fleet.yaml").nodes) == {"mine", "small-1"}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("rate: 0.2", "rate: 9.0"), 3, "no fleet of these offers serves 9 requests/s"),
        ((", rate: 0.2", ""), 2, "workload.rate"),
        (("price: 0.5, ", ""), 2, "offers.small: nobody says what a node of this offer costs"),
        (("price: 0.5", "price: 0"), 2, "gpus.small.price"),
        (("most: 6", "most: 0"), 2, "offers.small.most"),
        (("gpu: small, most", "gpu: smal, most"), 2, "did you mean 'small'"),
        (("gpu: small, most", "gpu: small, must"), 2, "did you mean 'most'"),
    ],
)
def test_mistakes(capsys, change, code, words):
    Path("job.yaml").write_text(JOB.replace(*change))
    found, _, err = run(capsys, "size", "job.yaml")
    assert (found, err.count("error:")) == (code, 1)
    assert words in err


def test_what_to_judge_by_is_one_of_two(capsys):
    code, _, err = run(capsys, "size", "job.yaml", "--by", "guess")
    assert (code, "flow or simulation" in err) == (2, True)


def test_a_job_without_nodes_is_valid_but_not_planned(capsys):
    code, out, _ = run(capsys, "validate", "job.yaml")
    assert (code, "no nodes yet but 2 offers" in out) == (0, True)
    code, _, err = run(capsys, "plan", "job.yaml")
    assert (code, "helix-df size" in err) == (2, True)


def test_a_job_without_offers(capsys):
    text = JOB.replace("offers:", "nodes:").replace(", most: 6", "").replace(", most: 2", "")
    Path("job.yaml").write_text(text)
    code, _, err = run(capsys, "size", "job.yaml")
    assert (code, "the job offers nothing to choose from" in err) == (2, True)


def test_the_picture_has_every_series_and_its_bound(capsys):
    code, _, _ = run(capsys, "size", "job.yaml", "--plot", "cost.svg")
    assert code == 0
    picture = ElementTree.parse("cost.svg").getroot()
    words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"all offers", "small", "large", "lower bound"} <= set(words)
    assert len([1 for path in picture.iter("{http://www.w3.org/2000/svg}path") if path.get("class") == "bound"]) == 1


def test_in_simulation_requests_are_begun_and_no_fleet_is_called_cheaper_than_its_bound(capsys):
    Path("job.yaml").write_text(JOB + "solver: goodput\nlimits: {ttft_p95: 20s}\n")
    document = json.loads(run(capsys, "size", "job.yaml", "--json")[1])
    found = document["cheapest"]
    assert document["judged_by"] == "simulation"
    assert found["fleet"]["prediction"]["begun"] >= BEGUN
    assert found["fleet"]["prediction"]["ttft_p95_s"] <= 20
    assert found["lower_bound"] <= found["fleet"]["cost"]
    alone = [one["fleet"]["cost"] for one in document["alternatives"] if one["fleet"] is not None]
    assert found["fleet"]["cost"] <= min(alone)


def test_the_jobs_solver_must_be_able_to_plan_the_fleet(capsys):
    Path("job.yaml").write_text(JOB + "limits: {ttft_p95: 20s}\n")
    code, _, err = run(capsys, "size", "job.yaml")
    assert (code, "the solver goodput" in err) == (5, True)


def test_limits_that_nothing_keeps(capsys):
    Path("job.yaml").write_text(JOB + "solver: goodput\nlimits: {itl_p95: 1us}\n")
    code, _, err = run(capsys, "size", "job.yaml")
    assert (code, err.count("error:")) == (3, 1)
    assert "p95 ITL" in err
