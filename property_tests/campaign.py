"""Many more examples of the stateful tests than a run of the suite makes, each batch from a seed of its own.

    python -m property_tests.campaign FILE [--examples 100000] [--machine NAME…] [--seed N]

FILE gets a line of JSON a batch: machine, seed, how many examples ran, and what failed, if anything did. What is
in it already counts, so a campaign that was stopped goes on where it was. Nothing is shrunk; ``--seed`` and
``--machine`` run one batch again.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from property_tests.test_runtime_requests import (
    LossyMachine,
    LossyPrefixMachine,
    OneRouteMachine,
    PrefixMachine,
    RestartMachine,
    RestartPrefixMachine,
    RuntimeMachine,
)

MACHINES = {
    machine.__name__: machine
    for machine in (
        RuntimeMachine,
        LossyMachine,
        RestartMachine,
        PrefixMachine,
        LossyPrefixMachine,
        RestartPrefixMachine,
        OneRouteMachine,
    )
}
BATCH = 100
"""Examples from one seed."""

STEPS = 40


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of the examples of a seed; ``failure`` ends with the steps that led to it."""

    machine: str
    seed: int
    examples: int
    seconds: float
    failure: str | None


def run_batch(name: str, number: int) -> Batch:
    """Run the examples of a seed, up to the first that fails."""
    made = 0

    class Counted(MACHINES[name]):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            nonlocal made
            made += 1
            super().__init__()

    failure, began_s = None, time.monotonic()
    try:
        run_state_machine_as_test(
            seed(number)(Counted),
            settings=settings(
                max_examples=BATCH,
                stateful_step_count=STEPS,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception as error:
        failure = "".join(traceback.format_exception(error))
    return Batch(name, number, made, round(time.monotonic() - began_s, 1), failure)


def done(file: Path) -> list[Batch]:
    """The batches that a file has."""
    if not file.exists():
        return []
    return [Batch(**json.loads(line)) for line in file.read_text().splitlines()]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--machine", nargs="+", choices=list(MACHINES), default=list(MACHINES))
    parser.add_argument("--seed", type=int, help="of one batch of the first machine alone")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        again = run_batch(options.machine[0], options.seed)
        print(again.failure or f"nothing fails in {again.examples} examples")
        return int(again.failure is not None)
    batches = done(options.file)
    for name in cycle(options.machine):
        if sum(batch.examples for batch in batches) >= options.examples:
            break
        batches.append(run_batch(name, secrets.randbits(32)))
        with options.file.open("a") as file:
            file.write(json.dumps(asdict(batches[-1])) + "\n")
    failed = [batch for batch in batches if batch.failure is not None]
    examples, seconds = sum(batch.examples for batch in batches), sum(batch.seconds for batch in batches)
    print(f"{examples:,} examples in {seconds:,.0f} s, {len(failed)} of {len(batches)} batches failed")
    for batch in failed:
        print(f"\n{batch.machine}, seed {batch.seed}:\n{batch.failure}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
