"""``helix-df bench`` against a fake daemon, and the library's call against the real engine."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from helix_df.benchmarking import Load, bench_job, report_document
from helix_df.cli import bench as command
from helix_df.cli.main import main
from helix_df.deployment import deploy
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from helix_df.simulator.trace import Trace, TraceRequest
from helix_df.spec.speculation import Speculation
from tests.jobs.conftest import tiny_plan
from tests.jobs.test_daemon import ready


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.csv").write_text("arrival_s,input_tokens,output_tokens\n" + "0,5,4\n0.01,6,1\n0.02,7,9\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["bench", *arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


OWN = ("--trace", "own.csv", "--warmup", "0")


def test_no_job_and_one_that_is_not_ready(cli, start):
    code, _, err = cli(*OWN)
    assert (code, "no job is running" in err) == (7, True)
    code, _, err = cli("nobody", *OWN)
    assert (code, "there is no job nobody" in err) == (7, True)


def test_a_report_beside_the_prediction(cli, start):
    ready(*start("ok"))
    code, out, err = cli(*OWN)
    assert (code, err) == (0, "")
    assert "3 arrived, 3 finished in the window, 0 were unfinished, 0 failed" in out
    assert "when every request was answered" in out
    for words in (
        "measured",
        "simulated",
        "difference",
        "decode, tokens/s",
        "end-to-end latency, s, p99",
        "of the plan's",
    ):
        assert words in out
    assert all(len(line) <= 120 and line == line.rstrip() for line in out.splitlines())


def test_the_json_has_every_request(cli, start):
    ready(*start("ok"))
    code, out, _ = cli("tiny", *OWN, "--json", "-")
    assert code == 0
    document: dict[str, Any] = json.loads(out)
    assert [len(request["token_s"]) for request in document["requests"]] == [4, 1, 9]
    assert document["requests_finished"] == 3
    assert document["measured"].keys() == document["simulated"].keys() == document["difference"].keys()
    assert document["measured"]["decode_tokens_per_s"] > 0
    assert json.loads(cli(*OWN, "--no-predict", "--json", "-")[1])["simulated"] is None


def test_mistakes(cli, start):
    ready(*start("ok"))
    assert "doesn't fit" in cli(*OWN, "--scale", "100")[2]
    assert "has no rate" in cli("--rate", "1", "--offline")[2]
    assert "has no rate" in cli("--rate", "1", "--in-flight", "4")[2]
    code, _, err = cli(*OWN, "--seconds", "0")
    assert code == 9
    assert "above zero" in err


def test_ctrl_c_reports_what_is_done(cli, start, monkeypatch):
    """The daemon stops in the middle of its answers for ever; the signal comes with the third token."""
    ready(*start("pauses"))
    show = command._ReplayProgress.__call__

    def interrupted(bar, now_s, tokens):
        show(bar, now_s, tokens)
        if tokens == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(command._ReplayProgress, "__call__", interrupted)
    before = signal.getsignal(signal.SIGINT)
    Path("long.csv").write_text("arrival_s,input_tokens,output_tokens\n0,5,9\n")
    code, out, err = cli("--trace", "long.csv", "--warmup", "0", "--seconds", "100000")
    assert code == 0
    assert "stopped by you" in out
    assert "1 arrived, 0 finished in the window, 1 were unfinished" in out
    assert "stopping here" in err
    assert signal.getsignal(signal.SIGINT) is before


def speculating(plan: Plan) -> Plan:
    """A plan of the same job, which looks for drafts in every text."""
    said = Speculation(options={"shortest": 1}, acceptance=1.0)
    runtime = plan.job.runtime.model_copy(update={"speculation": said})
    return make_plan(plan.job.model_copy(update={"runtime": runtime}))


async def test_the_real_engine_gives_what_the_trace_asks():
    plan = speculating(tiny_plan())
    asked = Trace("own", tuple(TraceRequest(0.0, 10 + 20 * index, 5 + index, 64) for index in range(5)))
    async with deploy(plan) as job:
        report = await bench_job(job, plan, asked, Load(300, 0, seed=3, repeat=4))
    assert [len(one.token_s) for one in report.replayed.requests] == [5, 6, 7, 8, 9]
    assert report.measured.failed == 0
    assert report.simulated is not None
    assert report.simulated.finished == report.measured.finished == 5
    assert report.drafts is not None
    assert 0 < report.drafts.steps <= 5 + 6 + 7 + 8 + 9
    assert 0 < report.drafts.coverage <= 1
    document = report_document(report)
    assert document["drafts"]["found"] == report.drafts.found
    assert document["difference"]["decode_tokens_per_s"] == pytest.approx(
        document["measured"]["decode_tokens_per_s"] / document["simulated"]["decode_tokens_per_s"] - 1
    )
