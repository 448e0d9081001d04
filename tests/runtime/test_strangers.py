"""A job of real processes that strangers flood with frames: it answers as before, and nothing grows."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import zmq

from helix_df.layers import LayerRange
from tests.runtime.test_processes import children, deployed, pytestmark
from tests.runtime.tiny import answer, tiny_plan, tiny_request

__all__ = ["pytestmark"]

MOST_GROWTH = 64 * 2**20


def flood(targets: list[str], stop: threading.Event) -> None:
    """Small frames and ones of 10 MB to each, as fast as they are taken, until ``stop``."""
    context = zmq.Context()
    peers = []
    for target in targets:
        for frame, waiting in ((b"x" * 40, 1000), (b"x" * 10_000_000, 2)):
            peer = context.socket(zmq.PUSH)
            peer.setsockopt(zmq.SNDHWM, waiting)
            peer.connect(target)
            peers.append((peer, frame))
    while not stop.is_set():
        for peer, frame in peers:
            try:
                for _ in range(200 if len(frame) < 100 else 1):
                    peer.send(frame, flags=zmq.NOBLOCK)
            except zmq.Again:
                stop.wait(0.001)
    context.destroy(linger=0)


def memory() -> dict[str, int]:
    """Bytes of each worker."""
    return {
        node: os.sysconf("SC_PAGE_SIZE") * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        for node, pid in children().items()
    }


async def test_floods_change_no_answer_and_fill_neither_memory_nor_disk(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    async with deployed(tiny_plan({"a": LayerRange(0, 2), "b": LayerRange(2, 4)}), logs) as job:
        expected = [await answer(job, tiny_request(index, id=f"warm{index}")) for index in range(6)]
        while any(node.cold_shapes for node in job.snapshot().nodes):
            await job.changed()
        targets = [job.address, *(str(node.address) for node in job.snapshot().nodes)]
        stop = threading.Event()
        stranger = threading.Thread(target=flood, args=(targets, stop))
        before = memory()
        stranger.start()
        try:
            async with asyncio.timeout(120):
                while job.snapshot().refused_frames.get("stranger", 0) < 20_000:
                    for index in range(6):
                        name = f"flooded{index}-{job.snapshot().finished}"
                        assert await answer(job, tiny_request(index, id=name)) == expected[index]
        finally:
            stop.set()
            stranger.join()
        after = memory()
        assert after.keys() == before.keys()
        assert job.snapshot().state == "ready"
        assert max(after[node] - before[node] for node in after) < MOST_GROWTH
    assert sum(file.stat().st_size for file in logs.glob("*.log")) < 100_000
