"""A benchmark's report as people read it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from helix_df.benchmarking import Load
from helix_df.benchmarking.figures import Figures
from helix_df.benchmarking.measured_drafts import MeasuredDrafts
from helix_df.benchmarking.replay import Replayed, ReplayedRequest
from helix_df.benchmarking.report import BenchReport
from helix_df.cli.bench_table import render_report
from helix_df.errors import DeploymentError
from helix_df.simulator import TraceRequest

NAN = float("nan")
FIGURES = Figures(60.0, 40, 30, 2, 8, 12_345.6, 20.5, (0.1, 12.0, NAN, NAN), (0.01, 0.02, 0.03, 0.04), (1.0,) * 4)
FAILED = tuple(ReplayedRequest(TraceRequest(0.0, 4, 2, 2), 0.0, failure="the queue is full") for _ in range(2))
REPORT = BenchReport(
    "lab", "azure", True, 0.25, Load(in_flight=48), 20_000.0, Replayed(FAILED, 10.0, 70.0), FIGURES, None, ("slow",)
)


def shown(report: BenchReport) -> str:
    out = io.StringIO()
    render_report(report, Console(file=out, width=160))
    return out.getvalue()


def test_a_report_has_its_load_its_requests_and_its_figures() -> None:
    text = shown(REPORT)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "trace azure; lengths × 0.25; seed 0",
        "load 48 requests in flight at all times",
        "window 10 s to 70 s",
        "requests 40 arrived, 30 finished in the window, 8 were unfinished, 2 failed",
        "failed 2 × the queue is full",
        "flow 62% of the plan's 20,000 tokens/s, prompt and output",
        "note slow",
        "decode, tokens/s 12,346",
        "time to first token, s, p90 12.0",
        "time to first token, s, p95 –",
        "requests finished, 1/s 0.500",
    ):
        assert line in lines
    assert "simulated" not in text


def test_a_prediction_stands_beside_with_how_far_it_is() -> None:
    lines = [" ".join(line.split()) for line in shown(replace(REPORT, simulated=FIGURES)).splitlines()]
    assert "prompt, tokens/s 20.5 20.5 +0.0%" in lines
    assert "time to first token, s, p95 – – –" in lines


@pytest.mark.parametrize(
    ("replayed", "words"),
    [
        (Replayed((), 1.0, 5.0, run_out=True), "1 s to 5 s, when every request was answered"),
        (Replayed((), 1.0, 5.0, stopped=True), "1 s to 5 s, stopped by you"),
        (Replayed((), 1.0, 5.0, gone=DeploymentError("gone")), "1 s to 5 s, the job stopped"),
    ],
)
def test_how_it_ended_is_said(replayed: Replayed, words: str) -> None:
    assert words in shown(replace(REPORT, replayed=replayed, flow=None, saturating=False, scale=1.0))


def test_drafts_are_told_where_there_were_any() -> None:
    assert "drafts" not in shown(REPORT)
    assert "75% of 1,200 drafted tokens were drawn" in shown(
        replace(REPORT, drafts=MeasuredDrafts(steps=500, found=300, sent=200, drafted=1200, accepted=900))
    )
