"""A benchmark's report as a person reads it. Every number comes from the report."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from helix_df.benchmarking.measured_drafts import MeasuredDrafts
from helix_df.benchmarking.report import BenchReport
from helix_df.cli.console import print_trimmed
from helix_df.cli.words import labelled, number, plain_table, plural

_NAMES = {
    "decode_tokens_per_s": "decode, tokens/s",
    "prompt_tokens_per_s": "prompt, tokens/s",
    "tokens_per_s": "total, tokens/s",
    "requests_per_s": "requests finished, 1/s",
    "ttft_s": "time to first token, s",
    "itl_s": "inter-token latency, s",
    "end_to_end_s": "end-to-end latency, s",
}


def render_report(report: BenchReport, console: Console) -> None:
    """Print the load, the outcome of the requests, and each figure beside its prediction."""
    heads = ("measured", "simulated", "difference") if report.simulated is not None else ("measured",)
    table = plain_table("", *heads, numbers=heads)
    for name, measured, simulated, apart in report.rows():
        figure, _, percent = name.rpartition("_p")
        label = f"{_NAMES[figure]}, p{percent}" if figure in _NAMES else _NAMES[name]
        shown = (_value(name, measured), _value(name, simulated), "–" if apart != apart else f"{apart:+.1%}")
        table.add_row(label, *shown[: len(heads)])
    print_trimmed(console, labelled(_summary(report)), "", table)


def _summary(report: BenchReport) -> Iterator[tuple[str, str]]:
    measured, replayed = report.measured, report.replayed
    scale = "" if report.scale == 1 else f"; lengths × {report.scale:.3g}"
    yield "job", report.job
    yield "trace", f"{report.trace}{scale}; seed {report.load.seed}"
    if report.saturating:
        yield "load", f"{plural(report.load.in_flight, 'request')} in flight at all times"
    until = ", the job stopped" if replayed.gone is not None else ", stopped by you" if replayed.stopped else ""
    until = until or (", when every request was answered" if replayed.run_out else "")
    yield "window", f"{replayed.start_s:.3g} s to {replayed.end_s:.3g} s{until}"
    yield (
        "requests",
        f"{measured.arrived:,} arrived, {measured.finished:,} finished in the window, "
        f"{measured.unfinished:,} were unfinished, {measured.failed:,} failed",
    )
    for reason, count in report.failures.items():
        yield "failed", f"{count:,} × {reason}"
    if report.drafts is not None and report.drafts.drafted:
        yield "drafts", _drafts(report.drafts)
    if report.flow:
        share = measured.tokens_per_s / report.flow
        yield "flow", f"{share:.0%} of the plan's {number(report.flow)} tokens/s, prompt and output"
    for remark in report.remarks:
        yield "note", remark


def _drafts(drafts: MeasuredDrafts) -> str:
    return (
        f"{drafts.accepted / drafts.drafted:.0%} of {drafts.drafted:,} drafted tokens were drawn, of {drafts.sent:,} "
        f"steps among {drafts.steps:,}; acceptance {drafts.acceptance:.2f}, coverage {drafts.coverage:.2f}"
    )


def _value(name: str, value: float) -> str:
    if value != value:
        return "–"
    if name == "requests_per_s" or not name.endswith("per_s"):
        return f"{value:.3f}" if value < 10 else f"{value:.1f}"
    return number(value)
