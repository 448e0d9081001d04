"""Tokens a second while one plan takes over from another under load.

    python -m tests.chaos.throughput [CHANGE…] [--seconds 10] [--streams 32]

For each change: answers lost and changed; tokens/s by the old plan, during the change, in its worst five seconds, and
by the new plan; the worst as a share of the smaller of both; bytes to load as `apply` says, and those of
the layers that the workers hold which came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_df.layers import LayerRange
from helix_df.plan.moves import load_bytes
from helix_df.plan.takeover import takeover_of_plans
from tests.chaos.hosts import Hosts, enter, inside, why_not
from tests.chaos.rows import CHANGED
from tests.chaos.scene import REPLICATED, STREAMS, Seen, scene, scene_plan

WINDOW_S = 5.0
FEWER = {name: layers for name, layers in REPLICATED.items() if name != "b2"}
CHANGES: dict[str, tuple[dict[str, LayerRange], dict[str, LayerRange]]] = {
    "one-more": (FEWER, REPLICATED),
    "one-less": (REPLICATED, FEWER),
    "other-layers": (REPLICATED, CHANGED),
}


@dataclass(frozen=True, slots=True)
class Change:
    """What came of a change; rates in tokens/s."""

    name: str
    lost: int
    changed: int
    seconds: float
    before: float
    during: float
    worst: float
    after: float
    said_bytes: int
    loaded_bytes: int

    @property
    def share(self) -> float:
        """Of the smaller plan's rate that the worst window had."""
        return self.worst / min(self.before, self.after)


def rate(seen: Seen, start_s: float, stop_s: float) -> float:
    """Tokens a second between two times."""
    came = sum(start_s <= at < stop_s for times in seen.came_s.values() for at in times)
    return came / (stop_s - start_s)


def worst(seen: Seen, start_s: float, stop_s: float) -> float:
    """Tokens a second in the worst window that begins between two times, half a second apart."""
    starts = [start_s + 0.5 * step for step in range(1 + int(max(0.0, stop_s - start_s) / 0.5))]
    return min(rate(seen, start, start + WINDOW_S) for start in starts)


async def measure(name: str, streams: int, seconds: float) -> Change:
    """Make one change under load, in a sandbox."""
    old, new = CHANGES[name]
    with tempfile.TemporaryDirectory() as folder:
        hosts = Hosts(list(REPLICATED))
        async with scene(Path(folder) / "logs", old, hosts=hosts) as stage:
            await stage.rehearse(streams)
            await stage.begin()
            began_s = time.monotonic()
            await asyncio.sleep(seconds)
            running, plan = stage.coordinator.plan, scene_plan(hosts, new)
            changing_s = time.monotonic()
            there = {node.name for node in stage.coordinator.snapshot().nodes}
            stage.coordinator.begin_change(plan)
            await stage.coordinator.until_changed()
            changed_s = time.monotonic()
            came = [node for node in stage.coordinator.snapshot().nodes if node.name not in there]
            await asyncio.sleep(max(seconds, WINDOW_S))
            over_s, seen = time.monotonic(), stage.seen
            before, after = rate(seen, began_s, changing_s), rate(seen, changed_s, over_s)
            during, least = rate(seen, changing_s, changed_s), worst(seen, changing_s, changed_s)
            await stage.end()
    element_bytes = plan.job.model.element_bytes
    loaded = sum(load_bytes(None, LayerRange(*node.layers), plan.geometry, element_bytes) for node in came)
    said = takeover_of_plans(running, plan).load_bytes
    took = changed_s - changing_s
    return Change(name, len(seen.lost), seen.changed, took, before, during, least, after, said, loaded)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", choices=[[], *CHANGES], help="all of them by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="by each plan alone")
    parser.add_argument("--streams", type=int, default=STREAMS)
    options = parser.parse_args(arguments)
    if inside():
        (name,) = options.changes
        print(json.dumps(asdict(asyncio.run(measure(name, options.streams, options.seconds)))), flush=True)
        return 0
    reason = why_not()
    if reason is not None:
        print(f"no hosts can be made here: {reason}", file=sys.stderr)
        return 1
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(
        "| change | lost | changed | s | tokens/s before | during | worst 5 s | after | share | said, B | loaded, B |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    code = 0
    for name in options.changes or CHANGES:
        asked = [name, "--streams", str(options.streams), "--seconds", str(options.seconds)]
        with enter("tests.chaos.throughput", asked) as process:
            printed, _ = process.communicate()
        if process.returncode:
            code = 1
            continue
        it = Change(**json.loads(printed.strip().splitlines()[-1]))
        rates = f"{it.before:.0f} | {it.during:.0f} | {it.worst:.0f} | {it.after:.0f} | {it.share:.0%}"
        counts = f"{it.lost} | {it.changed} | {it.seconds:.1f}"
        print(f"| {it.name} | {counts} | {rates} | {it.said_bytes:,} | {it.loaded_bytes:,} |", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
