"""What traces cost a token: processor time of a coordinator and two workers in one process, which compute nothing.

    python -m benchmarks.traces_table

Messages are encoded and decoded as between processes. A job without traces is to cost what it did before there were
any; one whose requests aren't sampled pays for the thread that notes when messages come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from benchmarks import overhead_table
from benchmarks.halves import halves_plan
from benchmarks.serving import answer_all, prompts
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.wire.messages import Welcome
from helix_df.runtime.worker.shell import Report, StepEngine
from helix_df.spec.job import Job

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REQUESTS, TOKENS, ROUNDS = 16, 100, 6


def _build(welcome: Welcome, _report: Report) -> StepEngine:
    overhead_table.HIDDEN = read_geometry(Job.model_validate(welcome.job).model.parsed_source).hidden_size
    return overhead_table.IdleEngine(welcome.num_layers)


async def _microseconds(traces: bool, sampled: bool) -> float:
    """A token, in the quickest round."""
    plan = halves_plan(
        "random:tiny",
        context=512,
        kv_tokens=1_000_000,
        max_batch=64,
        prefix_cache=False,
        traces={} if traces else None,
    )
    coordinator = new_coordinator(plan, embedded=True, build_engine=_build)
    if traces:
        coordinator.trace_to(lambda _parent, _span: None)

    class Service:
        """Asks for traced answers."""

        def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
            return coordinator.submit(replace(request, traceparent=TRACEPARENT if sampled else None))

    await coordinator.start()
    await coordinator.wait_ready(60)
    found = []
    for _ in range(ROUNDS):
        began_s = time.process_time()
        answers = await answer_all(Service(), prompts(REQUESTS, 4, 300), TOKENS)  # type: ignore[arg-type]
        found.append((time.process_time() - began_s) / sum(len(one.times_s) for one in answers))
    await coordinator.close()
    return 1e6 * min(found)


async def _measure() -> None:
    print("| traces | processor time a token, µs |")
    print("|---|---|")
    for name, traces, sampled in (("none", False, False), ("not sampled", True, False), ("every request", True, True)):
        print(f"| {name} | {await _microseconds(traces, sampled):.0f} |", flush=True)


if __name__ == "__main__":
    asyncio.run(_measure())
