"""The figures of a run, measured or simulated, by the same definitions, and how far they are apart.

A token counts where it came home within the window, a prompt where its first token did, an end-to-end time where the
last one did. Doesn't know how times came about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from helix_df.benchmarking.replay import Replayed
from helix_df.simulator.outcome import Outcome

PERCENTILES = (50, 90, 95, 99)
Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figures:
    """What users got in a window of ``seconds``. Latencies in seconds by ``PERCENTILES``, NaN where there are none.

    ``arrived`` counts requests of the whole run, ``finished`` those that ended in the window; ``unfinished`` were in
    flight or waited at its end.
    """

    seconds: float
    arrived: int
    finished: int
    failed: int
    unfinished: int
    decode_tokens_per_s: float
    prompt_tokens_per_s: float
    ttft_s: tuple[float, ...]
    itl_s: tuple[float, ...]
    end_to_end_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """Prompt and generated tokens, which is what a plan's flow bounds."""
        return self.decode_tokens_per_s + self.prompt_tokens_per_s

    @property
    def requests_per_s(self) -> float:
        """Requests that ended, a second."""
        return self.finished / self.seconds if self.seconds > 0 else 0.0


def measured_figures(replayed: Replayed) -> Figures:
    """The figures of a replay."""
    start, end = replayed.start_s, replayed.end_s
    seconds = end - start
    requests = replayed.requests
    tokens = [np.array(one.token_s) for one in requests]
    first = np.array([times[0] if len(times) else np.nan for times in tokens])
    ended = np.array([one.ended_s if one.ended_s is not None and one.failure is None else np.nan for one in requests])
    due = np.array([one.due_s for one in requests])
    prompts = np.array([one.wanted.input_tokens for one in requests])
    gaps = [np.diff(times)[_inside(times[1:], start, end)] for times in tokens if len(times) > 1]
    begun, done = _inside(first, start, end), _inside(ended, start, end)
    failed = sum(one.failure is not None for one in requests)
    return Figures(
        seconds=seconds,
        arrived=len(requests),
        finished=int(done.sum()),
        failed=failed,
        unfinished=sum(one.ended_s is None and one.failure is None for one in requests),
        decode_tokens_per_s=_rate(sum(int(_inside(times, start, end).sum()) for times in tokens), seconds),
        prompt_tokens_per_s=_rate(int(prompts[begun].sum()) if len(requests) else 0, seconds),
        ttft_s=_percentiles(first[begun] - due[begun]),
        itl_s=_percentiles(np.concatenate(gaps) if gaps else np.zeros(0)),
        end_to_end_s=_percentiles(ended[done] - due[done]),
    )


def simulated_figures(outcome: Outcome, *, until_empty: bool = False) -> Figures:
    """The figures of a simulation; ``until_empty`` ends the window with the last request, if that was within it."""
    seconds = outcome.seconds
    if until_empty and outcome.in_flight + outcome.waiting == 0 and outcome.finished:
        seconds = min(seconds, float(np.nanmax(outcome.requests.finished_s)) - outcome.start_s)
    return Figures(
        seconds=seconds,
        arrived=len(outcome.requests),
        finished=outcome.finished,
        failed=outcome.rejected,
        unfinished=outcome.in_flight + outcome.waiting,
        decode_tokens_per_s=_rate(outcome.decode_tokens, seconds),
        prompt_tokens_per_s=_rate(outcome.prompt_tokens, seconds),
        ttft_s=_percentiles(outcome.ttft_s),
        itl_s=_percentiles(outcome.gaps_s.astype(np.float64)),
        end_to_end_s=_percentiles(outcome.end_to_end_s),
    )


def difference(measured: float, simulated: float) -> float:
    """``measured / simulated − 1``; NaN where either is unknown or nothing was expected."""
    return measured / simulated - 1 if simulated else float("nan")


def _inside(times: Times, start: float, end: float) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = (times >= start) & (times <= end)
    return inside


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _percentiles(values: Times) -> tuple[float, ...]:
    if not len(values):
        return (float("nan"),) * len(PERCENTILES)
    return tuple(float(value) for value in np.percentile(values, PERCENTILES))
