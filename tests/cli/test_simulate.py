"""``helix-df simulate``: what it prints and writes, and how it fails."""

import json
import re
import signal
from pathlib import Path

import pytest

from helix_df.cli.main import main
from helix_df.cli.simulate import _Bar
from helix_df.load import load_job
from helix_df.plan.plan import write_plan
from helix_df.planning import make_plan
from helix_df.rules.schedulers.registry import SCHEDULERS

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"


def run(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main(["simulate", *(str(arg) for arg in args)])
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "geo24.json"
    write_plan(make_plan(load_job(EXAMPLES / "geo24.yaml").with_solver(name="petals", options={})), path)
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


SHORT = ("--seconds", "60", "--warmup", "20")


def test_a_saturating_run_is_told_in_full(plan, capsys):
    code, out, err = run(capsys, plan, *SHORT)
    assert code == 0
    assert [line.split(":")[0].strip() for line in err.splitlines()] == [
        "note", "gpus.A100-40GB", "gpus.L4", "gpus.T4", "used", "try",
    ]  # fmt: skip
    assert "azure, saturating; seed 0" in out
    for words in ("decode", "tokens/s", "time to first token", "inter-token latency", "KV peak", "busiest links"):
        assert words in out
    assert all(any(line.startswith(f"n{number} ") for line in out.splitlines()) for number in range(24))
    assert all(len(line) <= 120 and line == line.rstrip() for line in out.splitlines())


def test_the_json_holds_every_request_and_the_same_run_gives_the_same_file(plan, capsys):
    for name in ("one.json", "two.json"):
        assert run(capsys, plan, "--trace", "poisson:rate=0.5,input=200,output=20", *SHORT, "--json", name)[0] == 0
    document = json.loads(Path("one.json").read_text())
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()
    assert document["requests_arrived"] == len(document["requests"]["arrived_s"]) > 0
    assert set(document["latency_s"]) == {"ttft", "itl", "e2e"}
    assert len(document["nodes"]) == 24
    assert len(document["series"]["kv"]) == 24
    code, out, _ = run(capsys, plan, "--rate", "0.5", *SHORT, "--json", "-")
    assert code == 0
    assert json.loads(out)["trace"] == "azure, 0.5 requests/s"


def test_a_file_brings_its_own_arrivals(plan, capsys):
    Path("own.csv").write_text("arrival_s,input_tokens,output_tokens\n1,50,5\n2,60,6\n")
    code, out, _ = run(capsys, plan, "--trace", "own.csv", "--warmup", "0", "--seconds", "300")
    assert code == 0
    assert "2 arrived, 2 finished in the window" in out


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_runs(plan, capsys, scheduler):
    code, out, _ = run(capsys, plan, "--scheduler", scheduler, *SHORT)
    assert code == 0
    assert f"scheduler  {scheduler}" in out


def test_the_papers_rules_and_nodes_that_come_and_go(plan, capsys):
    assert run(capsys, plan, "--rules", "artifact", *SHORT)[0] == 0
    assert run(capsys, plan, "--rules", "artifact", "--scheduler", "swarm", "--in-flight", "20", *SHORT)[0] == 0
    node = next(edge["head"] for edge in json.loads(plan.read_text())["edges"] if edge["tail"] == "coordinator")
    code, out, _ = run(capsys, plan, "--fail", f"{node}@30", "--join", f"{node}@50s", *SHORT)
    assert code == 0
    # The flow enters by other nodes as well, so whoever was on the one that failed starts over there.
    assert " 0 rejected; " in out
    assert re.search(r"[1-9]\d* retries", out)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--scheduler", "best"), "no such scheduler"),
        (("--trace", "none.csv"), "can't be read"),
        (("--trace", "weather"), "no such trace"),
        (("--offline", "--rate", "2"), "has no rate"),
        (("--rate", "0"), "above zero"),
        (("--seconds", "0"), "above zero"),
        (("--warmup", "-1"), "can't be negative"),
        (("--rules", "none"), "no such rules"),
        (("--timing", "guessed"), "no such timing"),
        (("--rules", "artifact", "--scheduler", "swarm"), "somebody must say how much"),
        (("--fail", "n0"), "can't be read"),
        (("--fail", "nobody@5"), "no such node"),
        (("--json", "no/such/folder.json", "--seconds", "1"), "can't be written"),
    ],
)
def test_mistakes_are_one_message(plan, capsys, args, words):
    code, out, err = run(capsys, plan, *args)
    assert code == 9
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert "Traceback" not in err


def test_the_artifacts_rules_take_the_curves_as_published(plan, capsys):
    def decode(*args):
        code, out, _ = run(capsys, plan, *SHORT, "--json", "-", *args)
        assert code == 0
        return json.loads(out)["decode_tokens_per_s"]

    assert decode("--rules", "artifact") == decode("--rules", "artifact", "--timing", "published")
    assert decode() == decode("--timing", "measured") != decode("--timing", "planned")


def test_ctrl_c_reports_what_is_done(plan, capsys, monkeypatch):
    """The signal comes when the run first looks up; the simulated time is far too long to wait for."""
    looks = _Bar.looks

    def interrupted(bar, now_s, end_s):
        if not bar.stopped:
            signal.raise_signal(signal.SIGINT)
        return looks(bar, now_s, end_s)

    monkeypatch.setattr(_Bar, "looks", interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = run(capsys, plan, "--seconds", "100000000", "--warmup", "0")
    assert code == 0
    assert "stopped by you" in out
    assert "stopping here" in err
    assert signal.getsignal(signal.SIGINT) is before
