"""What a solver is: a problem and options in, a placement and the reason it stopped out.

A solver proposes; the exact max flow judges (``planner``). So a solver can't claim a flow that its placement doesn't
have, and a bound it proves is only believed as its own claim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from helix_df.graph.problem import Placement, Problem
from helix_df.plan.goodput import Generated
from helix_df.plan.moves import Near
from helix_df.plan.serving import ServingRules
from helix_df.spec.job import Job

if TYPE_CHECKING:
    from helix_df.graph.even_flow import CostPreset

Reason = Literal["optimal", "gap", "finished", "infeasible", "limit"]
"""Why a solve ended: proven optimal, close enough to a bound, a heuristic at its end, no placement can serve the
problem, or a limit cut it off."""

Limit = Literal["time", "interrupt"]
"""Which limit cut a solve off: ``solver.time_limit``, or somebody who asked to stop."""

Ending = Reason | Limit
"""How a search ended, in one word, while it is under way."""


@dataclass(frozen=True, slots=True)
class SolveOptions:
    """What the user asks of any solver; ``extra`` holds the solver's own options, unchecked.

    ``near``: what runs and should move little; only for solvers whose ``weighs_moves`` is true. ``job``: what the
    problem was compiled from, for solvers that simulate; ``None`` where somebody asks about a problem alone.
    """

    time_limit_s: float = 30.0
    seed: int = 0
    gap: float = 0.0
    backend: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    near: Near | None = None
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Incumbent:
    """A moment of a search: the best flow and the best bound so far, in tokens/s."""

    elapsed_s: float
    flow: float | None
    bound: float | None
    solver: str


class Watch:
    """The caller's side of a running solve: hears of progress, and may ask the solver to stop.

    ``stop`` is safe to set from a signal handler or another thread; solvers look at it often and return their best.
    """

    def __init__(
        self,
        on_progress: Callable[[Incumbent], None] | None = None,
        on_word: Callable[[float, str], None] | None = None,
    ) -> None:
        self.stop = threading.Event()
        self._on_progress, self._on_word = on_progress, on_word
        self._started = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds since the solve began."""
        return time.monotonic() - self._started

    def report(self, solver: str, flow: float | None, bound: float | None) -> None:
        """Tell the caller of a better placement or bound."""
        if self._on_progress is not None:
            self._on_progress(Incumbent(self.elapsed_s(), flow, bound, solver))

    def say(self, solver: str, words: str) -> None:
        """Tell the caller what the solver is at, so that nobody takes it for hung."""
        if self._on_word is not None:
            self._on_word(self.elapsed_s(), f"{solver}: {words}")


@dataclass(frozen=True, slots=True)
class Termination:
    """Why the solve ended, the bound it claims in tokens/s (if it proves one), and a sentence for the user.

    ``limit``: which one cut it off, where the reason is ``limit``.
    """

    reason: Reason
    bound: float | None = None
    detail: str = ""
    limit: Limit | None = None

    @classmethod
    def of(cls, ending: Ending, bound: float | None = None, detail: str = "") -> Termination:
        """Reason and limit of how a search ended."""
        if ending == "time" or ending == "interrupt":
            return cls("limit", bound, detail, ending)
        return cls(ending, bound, detail)


@dataclass(frozen=True, slots=True)
class SolveResult:
    """A placement, or ``None`` with a termination that says why there is none.

    ``spread``: which of the placement's maximum flows to route by, for solvers that tell them apart; ``None`` for the
    one that other plans carry. ``rules``: to serve by, from solvers that choose them where ``options.job`` leaves them
    open. ``generated``: what the placement generates, from solvers that simulate.
    """

    placement: Placement | None
    termination: Termination
    spread: CostPreset | None = None
    rules: ServingRules | None = None
    generated: Generated | None = None


class Solver(Protocol):
    """Anything that places layers. Same problem, options and seed must give the same placement.

    What else a solver can do it says with attributes, all of them optional: ``weighs_moves`` (knows ``options.near``),
    ``keeps_latency`` (keeps ``limits.ttft_p95`` and ``itl_p95``), ``own_options`` (the dataclass of its options).
    """

    name: str

    def solve(self, problem: Problem, options: SolveOptions, watch: Watch) -> SolveResult:
        """Place the layers.

        Raises:
            SolverError: for an option or backend the solver doesn't know.
        """
        ...
