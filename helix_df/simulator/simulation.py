"""A simulation that goes on when it is told to: the one door to the kernel's loop.

Owns which form of the loop runs: plain Python at first, compiled when what is left to be simulated is worth the wait.
Both do the same, and one goes on from where the other was.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from helix_df import notices
from helix_df.errors import SimulationError
from helix_df.rules.schedulers.api import HopRouter
from helix_df.rules.schedulers.registry import get_scheduler
from helix_df.simulator.kernel import admission, asking, events, failures, loop, memory, paths
from helix_df.simulator.kernel.build import (
    IN_THE_LOOP,
    even_weights,
    fixed_of,
    in_order,
    joins_later,
    network_of,
    request_rows,
    request_table,
    rules_of,
)
from helix_df.simulator.kernel.memory import Row, column
from helix_df.simulator.kernel.routers import Routing
from helix_df.simulator.kernel.tables import BY_ASKING, NEVER
from helix_df.simulator.options import Options, Saturate
from helix_df.simulator.setup import Setup
from helix_df.simulator.trace import Trace

Form = Literal["auto", "plain", "compiled"]
"""How the loop runs."""

COMPILE_S = 15.0
"""About what compiling takes, once."""

LOAD_S = 1.5
"""About what loading the machine code takes, once a process."""

EVENTS_A_LOOK = 2048
"""Events between two looks at the watch."""


class SimulationWatch(Protocol):
    """Somebody who looks on and may end the run."""

    def looks(self, now_s: float, end_s: float) -> bool:
        """Hear how far the simulation is; ``False`` ends it there."""
        ...


class Reader(Protocol):
    """Somebody who takes readings while a simulation runs."""

    def read(self, simulation: Simulation, what: int) -> None:
        """``what`` is ``loop.OPENS``, ``CLOSES`` or ``SAMPLES``."""
        ...


@dataclass(frozen=True)
class Course:
    """A trace and the rules to run it by, for many setups."""

    trace: Trace
    options: Options

    @cached_property
    def requests(self) -> memory.Array:
        """The requests as the compiled loop wants them."""
        return request_table(self.trace, self.options)


class Simulation:
    """One setup on a course.

    Args:
        setup: what serves.
        course: what comes, and by which rules it is served.
        form: how the loop runs; the outcome is the same.
        reader: takes readings, for a report.
        record_tokens: keep every token's return to the coordinator, see ``tokens``.
        ask: leave no scheduler to the loop, ask its router.

    Raises:
        SimulationError: for options that make no sense here, such as an event of a node that isn't there.
    """

    def __init__(
        self,
        setup: Setup,
        course: Course,
        *,
        form: Form = "auto",
        reader: Reader | None = None,
        record_tokens: bool = False,
        ask: bool = False,
    ) -> None:
        self.setup, self.course, self.reader = setup, course, reader
        options = course.options
        if course.trace.saturating and options.admission == "open" and isinstance(options.feed, Saturate):
            raise SimulationError(
                "a saturating trace whose every request is admitted at once never ends",
                where="admission",
                expected="a feed that says how many there are, such as HoldInFlight, or admission kv",
            )
        self.network = network_of(setup, options)
        routing = Routing(self.network, options.seed)
        scheduler: Any = get_scheduler(options.scheduler)
        router: Any = scheduler(routing.view)
        if options.routing == "hop" and not isinstance(router, HopRouter):
            raise SimulationError(
                "this scheduler can't route hop by hop: it chooses whole pipelines",
                where="routing",
                found=options.scheduler,
                expected="routing admission, or a scheduler with `choose`, such as swarm",
            )
        routing.router, routing.scheduler = router, scheduler
        self.routing = routing
        routes = BY_ASKING if ask else IN_THE_LOOP.get(options.scheduler, BY_ASKING)
        if routes == BY_ASKING:
            weights = even_weights(self.network)
        else:
            weights = [scheduler(replace(routing.view, edges=edges)).turns() for edges in self.network.flows]
        self._form: Form = "plain" if _jit_is_off() else form
        requests: Any = course.requests if self._form == "compiled" else request_rows(course.trace, options)
        self.fixed = fixed_of(self.network, options, requests, weights)
        self.rules = rules_of(self.network, course.trace, options, self.fixed, router, routes, record_tokens)
        self.sizes = self._first_sizes()
        self.state = memory.new_state(self.fixed, self.rules, self.sizes, compiled=False)
        self.is_compiled = False
        self._worked_s = 0.0
        self._looks = 1
        self._gaps: list[npt.NDArray[np.float32]] = []
        self._tokens: list[tuple[memory.Array, ...]] = []
        self._open_up()
        if self._form == "compiled":
            self._compile()
        else:
            self._advance = self._bound()

    # ------------------------------------------------------------------ set-up

    def _first_sizes(self) -> memory.Sizes:
        first = self.rules.feed_initial + len(self.course.options.events) + 8
        around = memory.MARGIN + len(self.fixed.stages) + len(self.fixed.links)
        least = memory.NONE if self._form == "compiled" else memory.SMALL
        return replace(least, events=least.events + 2 * first + around)

    def _open_up(self) -> None:
        state, options = self.state, self.course.options
        admission.open_up(state, self.rules, float(self.course.trace.requests[0].arrival_s))
        counts = state.counts[0]
        counts.joins_left = sum(event.up for event in options.events)
        counts.largest_whole = paths.largest_up(self.fixed, state, self.rules)
        for node in sorted(joins_later(options.events)):
            failures.take_down(self.fixed, state, self.rules, self.network.stage(node))
        mends = len(self.network.flows) > 1
        for number, event in enumerate(in_order(options.events), start=1):
            kind = events.NODE_UP if event.up else events.NODE_DOWN
            stage = self.network.stage(event.node)
            events.schedule(state, float(event.time_s), kind, stage, number if mends else 0)
        counts.largest = paths.largest_up(self.fixed, state, self.rules)
        counts.path_up = counts.largest > 0
        if self.reader is not None:
            events.schedule(state, self.rules.warmup_s, events.OPENING, 0, 0)
            events.schedule(state, self.rules.end_s, events.CLOSING, 0, 0)
            events.schedule(state, self.rules.sample_s, events.SAMPLE, 0, 1)

    # ------------------------------------------------------------------ running

    def advance(self, until_s: float) -> bool:
        """Run until a simulated second; whether there is more to come."""
        return self._run(until_s, None) == loop.PAUSED

    def run(self, watch: SimulationWatch | None = None) -> bool:
        """Run to the end; ``True`` if the watch ended it early."""
        stopped = self._run(NEVER, watch) == loop.LOOK
        if not stopped:
            counts = Row(self.state.counts)
            counts.now_s = max(counts.now_s, self.rules.end_s) if self.rules.drains else self.rules.end_s
        return stopped

    def _run(self, until_s: float, watch: SimulationWatch | None) -> int:
        # Hardly anything here is part of a cycle, and looking for some takes a tenth of the time.
        collects = not self.is_compiled and gc.isenabled()
        if collects:
            gc.disable()
        try:
            return self._until(until_s, watch)
        finally:
            if collects:
                gc.enable()
            self._flush()

    def _until(self, until_s: float, watch: SimulationWatch | None) -> int:
        while True:
            began = time.perf_counter()
            why = self._advance(until_s, self._look_at(watch))
            self._worked_s += time.perf_counter() - began
            if why == asking.ASKS_HOP:
                self.routing.choose(self.state)
            elif why == asking.ASKS_PATH:
                self.routing.route(self.state, self.fixed, self.rules)
            elif why == asking.NEEDS_ROOM:
                self._grow()
            elif why == loop.FULL:
                self._flush()
            elif why == loop.LOOK:
                self._looks += 1
                now_s = Row(self.state.counts).now_s
                if watch is not None and not watch.looks(now_s, self.rules.end_s):
                    return why
                self._consider(now_s)
            elif why in (loop.DONE, loop.PAUSED):
                return why
            elif self.reader is not None:
                self.reader.read(self, why)

    def _look_at(self, watch: SimulationWatch | None) -> int:
        """After how many events in all somebody has a look."""
        considers = self._form == "auto" and not self.is_compiled
        return self._looks * EVENTS_A_LOOK if watch is not None or considers else 2**62

    def _consider(self, now_s: float) -> None:
        """Compile when that, or loading what was compiled once, takes less than what it saves."""
        if self._form != "auto" or self.is_compiled or self._worked_s < LOAD_S:
            return
        from helix_df.simulator.kernel import jit

        left_s = self._worked_s * max(self.rules.end_s - now_s, 0.0) / max(now_s, 1e-9)
        if left_s > (LOAD_S if jit.is_ready() or jit.is_kept() else COMPILE_S):
            self._compile()

    def _compile(self) -> None:
        from helix_df.simulator.kernel import jit

        if not jit.is_ready() and not jit.is_kept():
            notices.tell("compiling the simulator, once for all runs: this takes about 20 s")
        self.fixed = memory.fixed_arrays(self.fixed)
        self.sizes = memory.larger(self.sizes, memory.LARGE)
        self.state = memory.resized(self.state, self.fixed, self.rules, self.sizes, compiled=True)
        self.is_compiled = True
        self._advance = self._bound()

    def _bound(self) -> Callable[[float, int], int]:
        """The loop over the tables that there are now."""
        if not self.is_compiled:
            return partial(loop.advance, self.fixed, self.state, self.rules)
        from helix_df.simulator.kernel import jit

        return jit.bound(self.fixed, self.state, self.rules)

    # ------------------------------------------------------------------ tables

    def _grow(self) -> None:
        counts: Any = Row(self.state.counts)
        self.sizes = memory.grown(self.sizes, self.fixed, self.rules, counts)
        self.state = memory.resized(self.state, self.fixed, self.rules, self.sizes, self.is_compiled)
        self._advance = self._bound()
        Row(self.state.counts).needed = 0

    def _flush(self) -> None:
        """Take away what was noted."""
        state, counts = self.state, Row(self.state.counts)
        gaps = state.gaps[: counts.gaps]  # type: ignore[index]
        self._gaps.append(np.asarray(gaps, dtype=np.float64).astype(np.float32))
        if counts.tokens:
            names = ("request", "index", "time_s")
            self._tokens.append(tuple(column(state.tokens, name, counts.tokens).copy() for name in names))
        if counts.observed:
            self.routing.tell(state)
        counts.gaps = counts.tokens = counts.noted = 0
        if 3 * counts.afloat >= self.sizes.noted // 2:
            self._grow()

    # ------------------------------------------------------------------ what is known

    @property
    def decode_tokens(self) -> int:
        """Generated tokens that came home in the window so far."""
        return int(Row(self.state.counts).decoded)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts whose prefill ended in the window so far."""
        return int(Row(self.state.counts).prompted)

    @property
    def arrived(self) -> int:
        """Requests that came."""
        return int(Row(self.state.counts).requests)

    @property
    def rejected(self) -> int:
        """Requests turned away or given up."""
        return int(Row(self.state.counts).rejected)

    @property
    def turned_away(self) -> float:
        """Share of requests that were turned away or given up so far."""
        return self.rejected / max(self.arrived, 1)

    @property
    def gaps_s(self) -> npt.NDArray[np.float32]:
        """Times between two tokens of a request in the window."""
        return np.concatenate([*self._gaps, np.zeros(0, np.float32)])

    @property
    def ttft_s(self) -> npt.NDArray[np.float64]:
        """Times to first token of requests whose first token came in the window."""
        first = column(self.state.requests, "first_token_s", self.arrived)
        inside = (first >= self.rules.warmup_s) & (first <= self.rules.end_s)
        times: npt.NDArray[np.float64] = first[inside] - column(self.state.requests, "arrived_s", self.arrived)[inside]
        return times

    @property
    def tokens(self) -> tuple[memory.Array, memory.Array, memory.Array]:
        """Every token that came home so far, in that order: its request, its number from 0, and when, in seconds."""
        if not self._tokens:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        request, index, time_s = (np.concatenate(parts) for parts in zip(*self._tokens, strict=True))
        return request, index, time_s

    def percentile(self, figure: str, percent: float) -> float:
        """A percentile of ``ttft`` or ``itl`` in seconds, as an outcome's; NaN when there is nothing to take it of."""
        values = self.ttft_s if figure == "ttft" else self.gaps_s
        return float(np.percentile(values, percent)) if len(values) else float("nan")


def _jit_is_off() -> bool:
    """Whether somebody wants to step through the loop, or see what of it is covered."""
    return os.environ.get("HELIX_DF_JIT", "1") == "0" or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
