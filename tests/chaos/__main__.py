"""What befalls a job on several hosts, and what its clients notice of it.

    python -m tests.chaos [ROW…] [--json] [--encryption auto|never] [--streams 32]

Six workers on hosts of their own, which are network namespaces, hold each layer of the tiny model twice and serve 32
streams, two thirds greedy and one third seeded. For each row: answers, those that were lost, those of which a token
changed, and how long streams waited for their next token once the blow had fallen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos.hosts import enter, inside, why_not
from tests.chaos.rows import AFTER_S, ROWS, Row
from tests.chaos.scene import REPLICATED, STREAMS, Scene, Seen, scene
from tests.chaos.supervised import kill_the_coordinator


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a row; ``p50_s`` and ``most_s`` are over streams, of each the longest wait for a token."""

    row: str
    streams: int
    answers: int
    lost: int
    changed: int
    p50_s: float
    most_s: float
    why: str = ""


async def measure(row: Row, streams: int, **runtime: Any) -> Outcome:
    """Run one row, in a sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        if row.act is None:
            seen, since = await kill_the_coordinator(Path(folder), REPLICATED, streams, **runtime)
        else:
            seen, since = await _disturbed(row, row.act, Path(folder) / "logs", streams, **runtime)
    waits = seen.resumed_s(since)
    why = seen.lost[0].partition("\n")[0] if seen.lost else ""
    return Outcome(
        row.name, streams, seen.answers, len(seen.lost), seen.changed, waits[len(waits) // 2], waits[-1], why
    )


async def _disturbed(
    row: Row, act: Callable[[Scene], Awaitable[float]], logs: Path, streams: int, **runtime: Any
) -> tuple[Seen, float]:
    said = {**row.runtime, **runtime}
    async with scene(logs, REPLICATED, tells=row.tells, faults=row.faults, **said) as stage:
        await stage.rehearse(streams)
        await stage.begin()
        since = await act(stage)
        await asyncio.sleep(AFTER_S)
        await stage.end()
        return stage.seen, since


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="all of them by default")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    parser.add_argument("--encryption", choices=["auto", "never"], default="auto")
    parser.add_argument("--streams", type=int, default=STREAMS)
    options = parser.parse_args(arguments)
    if inside():
        (name,) = options.rows
        trust = options.encryption == "never"
        done = asyncio.run(measure(ROWS[name], options.streams, encryption=options.encryption, trust_network=trust))
        print(json.dumps(asdict(done)), flush=True)
        return 0
    reason = why_not()
    if reason is not None:
        print(f"no hosts can be made here: {reason}", file=sys.stderr)
        return 1
    if not options.json:
        print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print("| what | answers | lost | changed | to resume p50, s | most, s |\n|---|---|---|---|---|---|")
    code = 0
    for name in options.rows or ROWS:
        line = _in_sandbox([name, "--encryption", options.encryption, "--streams", str(options.streams)])
        code = code or (line is None)
        if options.json or line is None:
            print(line or json.dumps({"row": name, "failed": True}), flush=True)
            continue
        done = Outcome(**json.loads(line))
        counts = f"{done.answers} | {done.lost} | {done.changed}"
        print(f"| {ROWS[name].words} | {counts} | {done.p50_s:.2f} | {done.most_s:.2f} |", flush=True)
    return int(code)


def _in_sandbox(arguments: list[str]) -> str | None:
    with enter("tests.chaos", arguments) as process:
        printed, _ = process.communicate()
    return printed.strip().splitlines()[-1] if process.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
