"""What a coordinator's thread does for a fleet: milliseconds of processor time, of the fastest of three.

    python -m benchmarks.fleet_coordinator_table [--workers 1000]

The machines alone, without sockets: a plan of ``tests.chaos.fleet``, all of whose workers are up. While any of this
goes on no token does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from helix_df.load import load_job
from helix_df.planning import make_plan
from helix_df.runtime.api.answers import public_status
from helix_df.runtime.api.metrics import Metrics
from helix_df.runtime.coordinator.state import CoordinatorState
from helix_df.runtime.overview import overview
from helix_df.runtime.requests import GenerationRequest
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.messages import Heartbeat, Hello, Ready
from tests.chaos.fleet import job_text

STREAMS = 64
TIMES = 3
LATER_S = 1000.0


def spent_ms(what: Callable[[], object]) -> float:
    """Milliseconds of processor time of a call."""
    began = time.process_time()
    what()
    return 1000 * (time.process_time() - began)


def fastest_ms(what: Callable[[], object]) -> float:
    """The same of the fastest of a few."""
    return min(spent_ms(what) for _ in range(TIMES))


def join_all(state: CoordinatorState) -> None:
    """Let every worker greet and be ready."""
    for number, name in enumerate(state.nodes):
        state.on_message(Hello(name, f"tcp://127.0.0.1:{number + 1}", 1), 0.0)
        state.on_message(Ready(name, state.nodes_state.cache_of(name), None, 1), 0.0)


def beat(state: CoordinatorState, names: Sequence[str], now: float) -> None:
    """Let workers say that they live."""
    for name in names:
        state.on_message(Heartbeat(name, life=1), now)


def lose(state: CoordinatorState, every: int) -> Callable[[], object]:
    """What a tick does that finds one worker in so many silent, while streams run."""
    names = state.nodes
    for number in range(STREAMS):
        state.submit(GenerationRequest(f"r{number}", (1, 2, 3), 20, SamplingParams()), 1.0)
    beat(state, [name for at, name in enumerate(names) if at % every], LATER_S)
    return lambda: state.tick(LATER_S)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    workers = parser.parse_args(arguments).workers
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.yaml"
        path.write_text(job_text(workers), encoding="utf-8")
        plan = make_plan(load_job(path))
    state = CoordinatorState(plan, 512)
    rows = [("all workers greet and are ready", spent_ms(lambda: join_all(state)))]
    rows += [("a status", fastest_ms(state.snapshot))]
    status = state.snapshot()
    rows += [
        ("the same as JSON", fastest_ms(lambda: json.dumps(public_status(status)))),
        ("an overview as JSON", fastest_ms(lambda: json.dumps(asdict(overview(status))))),
        ("`/metrics`", fastest_ms(Metrics(lambda: status).text)),
        ("a heartbeat of each worker", fastest_ms(lambda: beat(state, state.nodes, 1.0))),
        (f"a tenth is lost while {STREAMS} streams run", spent_ms(lose(state, 10))),
    ]
    print(f"| {workers:,} workers, {len(status.hops):,} links | ms |")
    print("|---|---|")
    for what, ms in rows:
        print(f"| {what} | {ms:,.1f} |")


if __name__ == "__main__":
    main()
