"""One plan has one predicted throughput, whichever command is asked."""

import json
from pathlib import Path

import pytest

from helix_df.benchmarking.replay import Load, Replayed
from helix_df.benchmarking.run import predicted
from helix_df.cli.main import main
from helix_df.cli.words import number
from helix_df.plan.plan import read_plan
from helix_df.simulator import options_of, predict, setup_of, simulate
from helix_df.simulator.azure import azure_offline
from helix_df.simulator.trace_names import find_trace
from helix_df.what_if import Variant, compare

TABLE = [round(2000 / layers) for layers in range(1, 11)]
CACHE = [150_000 // layers for layers in range(1, 11)]
NODES = "".join(f"  n{index}: {{gpu: L4}}\n" for index in range(6))
JOB = f"""\
name: one
model: {{source: random:llama-30b, dtype: float16}}
gpus:
  L4: {{profile: {{tokens_per_s: {TABLE}, kv_tokens: {CACHE}}}}}
nodes:
{NODES}links: {{default: {{bandwidth: 10Gbps}}}}
solver: {{name: even}}
"""
"""Six nodes of a type with measured curves, and a table that contradicts them."""


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with the job; gives its standard output."""
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        assert not end.value.code
        return capsys.readouterr().out

    return run


def test_plan_simulate_page_and_library_give_one_number(cli):
    said = cli("plan", "job.yaml", "--predict")
    plan = read_plan(Path("one.plan.json"))
    document = json.loads(cli("simulate", "one.plan.json", "--json", "-", "--html", "page.html"))
    outcome = predict(plan)
    assert document["decode_tokens_per_s"] == outcome.decode_tokens_per_s > 0
    shown = number(outcome.decode_tokens_per_s)
    assert f"predicted  {shown} generated tokens/s" in said
    assert f"decode     {shown} tokens/s" in cli("simulate", "one.plan.json")
    assert shown in Path("page.html").read_text()
    (compared,) = compare([Variant("one", plan, azure_offline(), options_of(plan.served))])
    assert compared.outcome.decode_tokens_per_s == outcome.decode_tokens_per_s
    by_the_table = simulate(setup_of(plan, timing="planned"), azure_offline(), options_of(plan.served))
    assert by_the_table.decode_tokens_per_s < outcome.decode_tokens_per_s / 1.5


def test_bench_predicts_what_simulate_says_of_the_same_load(cli):
    cli("plan", "job.yaml")
    plan = read_plan(Path("one.plan.json"))
    lengths = [(100 + 37 * index % 300, 20 + 11 * index % 60) for index in range(40)]
    rows = "".join(json.dumps({"input_tokens": tokens, "output_tokens": out}) + "\n" for tokens, out in lengths)
    Path("load.jsonl").write_text(rows)
    window = ("--seconds", "60", "--warmup", "10", "--in-flight", "8")
    simulated = json.loads(cli("simulate", "one.plan.json", "--trace", "load.jsonl", *window, "--json", "-"))
    sent = find_trace("load.jsonl", seconds=70, rate=None, offline=True, seed=0)
    figures = predicted(plan, sent, Load(60.0, 10.0, 8), Replayed((), 10.0, 70.0))
    assert figures.decode_tokens_per_s == simulated["decode_tokens_per_s"] > 0
