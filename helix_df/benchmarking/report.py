"""What a benchmark found, as data and as a JSON document: measured beside simulated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from helix_df.benchmarking.figures import PERCENTILES, Figures, difference
from helix_df.benchmarking.measured_drafts import MeasuredDrafts
from helix_df.benchmarking.replay import Load, Replayed


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A trace on a running job, and the simulator's prediction for the same plan and trace, if there is one.

    ``scale`` is what the trace's lengths were multiplied by. ``flow`` is the plan's bound in tokens/s. ``drafts`` says
    what became of drafted tokens, which the prediction took over; ``None`` where the job drafts none.
    """

    job: str
    trace: str
    saturating: bool
    scale: float
    load: Load
    flow: float | None
    replayed: Replayed
    measured: Figures
    simulated: Figures | None
    remarks: tuple[str, ...] = ()
    drafts: MeasuredDrafts | None = None

    @property
    def failures(self) -> Mapping[str, int]:
        """How often requests failed, by reason, the most frequent first."""
        reasons = Counter(request.failure for request in self.replayed.requests if request.failure is not None)
        return dict(reasons.most_common())

    def rows(self) -> Iterator[tuple[str, float, float, float]]:
        """Every figure: its name, measured, simulated and the relative difference; NaN for what is unknown."""
        expected = _named(self.simulated) if self.simulated is not None else {}
        for name, value in _named(self.measured).items():
            simulated = expected.get(name, float("nan"))
            yield name, value, simulated, difference(value, simulated)


def _named(figures: Figures) -> dict[str, float]:
    named = {
        "decode_tokens_per_s": figures.decode_tokens_per_s,
        "prompt_tokens_per_s": figures.prompt_tokens_per_s,
        "tokens_per_s": figures.tokens_per_s,
        "requests_per_s": figures.requests_per_s,
    }
    for name in ("ttft_s", "itl_s", "end_to_end_s"):
        for percent, value in zip(PERCENTILES, getattr(figures, name), strict=True):
            named[f"{name}_p{percent}"] = value
    return named


def report_document(report: BenchReport) -> dict[str, Any]:
    """The report as a JSON document: figures first, every request last. Unknown figures are null."""
    rows = list(report.rows())
    measured = report.measured
    requests = report.replayed.requests
    return {
        "format": "helix-df-bench",
        "version": 1,
        "job": report.job,
        "trace": report.trace,
        "saturating": report.saturating,
        "scale": report.scale,
        "in_flight": report.load.in_flight if report.saturating else None,
        "seed": report.load.seed,
        "flow": report.flow,
        "start_s": report.replayed.start_s,
        "end_s": report.replayed.end_s,
        "stopped": report.replayed.stopped,
        "requests_came": measured.arrived,
        "requests_finished": measured.finished,
        "requests_failed": measured.failed,
        "requests_left": measured.unfinished,
        "failures": dict(report.failures),
        "remarks": list(report.remarks),
        "drafts": None if report.drafts is None else _drafts(report.drafts),
        "measured": {name: _plain(value) for name, value, _, _ in rows},
        "simulated": None if report.simulated is None else {name: _plain(value) for name, _, value, _ in rows},
        "difference": None if report.simulated is None else {name: _plain(value) for name, _, _, value in rows},
        "requests": [
            {
                "arrived_s": request.due_s,
                "input_tokens": request.wanted.input_tokens,
                "output_tokens": request.wanted.output_tokens,
                "token_s": request.token_s,
                "ended_s": request.ended_s,
                "failure": request.failure,
            }
            for request in requests
        ],
    }


def _drafts(drafts: MeasuredDrafts) -> dict[str, Any]:
    return {**asdict(drafts), "acceptance": drafts.acceptance, "coverage": drafts.coverage}


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value
