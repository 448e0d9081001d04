"""What encryption costs: generated tokens/s and time to first token of a job with and without, on one machine.

    python -m benchmarks.encryption_table [--rounds 5] [--source random:tiny] [--transport]

Two worker processes with half the layers each of a random Llama (``benchmarks.halves``) serve eight greedy requests
with prompts of 192 tokens. Jobs with and without encryption run at once, each round of one right before the same round
of the other, so that other work on the machine falls on both; ratios are medians over rounds. Then the transport alone:
a round trip of 64 bytes, megabytes a second of frames of 1 MiB, and what a message costs both sides in CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.halves import halves_plan, small_llama
from benchmarks.serving import answer_all, serving
from helix_df.measuring.prober import Prober, answer_probes
from helix_df.plan.plan import Plan
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.wire.transport import Endpoint, endpoint_keys, listen

PROMPT = tuple(range(10, 202))
REQUESTS, TOKENS = 8, 32
TOKEN = "secret"
WAYS = ("never", "always")


def plan_with(source: str, encryption: str) -> Plan:
    """Half of the model on each of two workers."""
    return halves_plan(source, context=256, kv_tokens=8192, prefix_cache=False, max_batch=8, encryption=encryption)


async def one_round(coordinator: Coordinator) -> tuple[float, float]:
    """Tokens/s once all requests have their first token, and the median time to first token (s)."""
    found = await answer_all(coordinator, [PROMPT] * REQUESTS, TOKENS)
    steady = sorted(time_s for one in found for time_s in one.times_s)[REQUESTS:]
    first_s = statistics.median(one.times_s[0] - one.sent_s for one in found)
    return (len(steady) - 1) / (steady[-1] - steady[0]), first_s


async def serve(source: str, rounds: int) -> None:
    seen: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    async with serving(plan_with(source, "never")) as clear, serving(plan_with(source, "always")) as encrypted:
        assert encrypted.address.startswith("curve://")
        for turn in range(rounds + 1):
            for way, job in zip(WAYS, (clear, encrypted), strict=True):
                outcome = await one_round(job)
                if turn:
                    seen[way].append(outcome)
    print("| encryption | tokens/s | TTFT p50, ms |\n|---|---|---|")
    for way, outcomes in seen.items():
        rate, first_s = (statistics.median(column) for column in zip(*outcomes, strict=True))
        print(f"| {way} | {rate:.1f} | {1e3 * first_s:.0f} |")
    ratios = [(b[0] / a[0], b[1] / a[1]) for a, b in zip(seen["never"], seen["always"], strict=True)]
    rate, first = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"| ratio, median of {rounds} | {rate:.3f} | {first:.3f} |\n")


def transport() -> None:
    print("| transport | round trip of 64 bytes, us | MB/s | CPU us of a message of 4 KiB | of 1 MiB |")
    print("|---|---|---|---|---|")
    for name, scheme in (("in the clear", "tcp"), ("encrypted", "curve")):
        here, there = _open(scheme), _open(scheme)
        costs = [_cpu_us(here, there, size, count) for size, count in ((4096, 4000), (2**20, 200))]
        done = threading.Event()
        far = threading.Thread(target=answer_probes, args=(there, TOKEN, lambda over=done: not over.is_set(), 0.05))
        far.start()
        prober = Prober("here", here, TOKEN, time.perf_counter, sizes=(64, 2**20), repeat=50)
        link = prober.from_here("there", there.address)
        done.set()
        far.join()
        here.close()
        there.close()
        trip = f"{2e6 * link.latency_s:.0f} | {link.bytes_per_s / 1e6:.0f}"
        print(f"| {name} | {trip} | {costs[0]:.1f} | {costs[1]:.0f} |")


def _cpu_us(here: Endpoint, there: Endpoint, size: int, count: int) -> float:
    """Microseconds of this process, which is both sides, that a message costs: other work on the machine adds none."""
    frame, lot = bytes(size), 50
    start = time.process_time()
    for _ in range(count // lot):
        for _ in range(lot):
            here.send(there.address, [frame])
        left = lot
        while left:
            left -= len(there.receive(10.0))
    return 1e6 * (time.process_time() - start) / count


def _open(scheme: str) -> Endpoint:
    return listen(f"{scheme}://127.0.0.1:*", keys=endpoint_keys(None, TOKEN) if scheme == "curve" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", help="another model, such as random:tiny, of which messages are most of the work")
    parser.add_argument("--transport", action="store_true", help="the transport alone")
    options = parser.parse_args()
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    if options.transport:
        transport()
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(options.source or small_llama(Path(folder)), options.rounds))
    transport()


if __name__ == "__main__":
    main()
