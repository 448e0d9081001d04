"""Clients that hang up, while they wait, in prefill or in decode, leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.frames_table import daemon
from benchmarks.overload_table import overload_plan
from helix_df.runtime.access import Access
from helix_df.runtime.api.client import fetch_status

CLIENTS = 48
TOKENS = 100
BODY = {"model": "tiny", "prompt": "x" * 20, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}


async def hang_up(url: str, model: str, after_events: int) -> int:
    """Ask, and leave after so many events, or at once; how many came."""
    address, events = urlsplit(url), 0
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps(BODY | {"model": model}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    while events < after_events:
        line = await reader.readline()
        assert line, "the answer ended"
        events += line.startswith(b"data:")
    writer.close()
    return events


async def all_hang_up(url: str, model: str) -> list[int]:
    return await asyncio.gather(*(hang_up(url, model, (0, 1, 3)[at % 3]) for at in range(CLIENTS)))


def test_nothing_is_left_of_requests_whose_clients_have_hung_up(tmp_path: Path) -> None:
    plan = overload_plan("random:tiny", 64)
    with daemon(plan, tmp_path) as (_, url, _, _):
        heard = asyncio.run(all_hang_up(url, plan.job.model.served_name))
        assert sum(heard) == CLIENTS // 3 * 4
        late_s = time.monotonic() + 60
        while time.monotonic() < late_s:
            status = fetch_status(Access(url))
            held = [node.kv_used_tokens + node.kv_held_tokens - node.kv_kept_tokens for node in status.nodes]
            if not status.running and not status.waiting and not any(used > 0 for used in held):
                break
        else:
            pytest.fail(f"something is left: {status}")
        assert status.finished < CLIENTS
        assert status.generated_tokens < CLIENTS * TOKENS / 2, "they were not computed to their ends"
        assert all(node.illegal_events == 0 for node in status.nodes)
