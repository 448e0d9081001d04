"""What one refusal of a full queue costs the server: microseconds of its CPU.

    python -m benchmarks.refusal_table [--requests 4000]

A server of the API over a job whose queue is full, in a process of its own, is asked for completions one after another
by a few clients: on connections that go on, and on a new one for each. Requests for ``/health`` on a new connection
each are beside it: what a connection costs, and a small answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from multiprocessing.connection import Connection

from helix_df.models.chat import PLAIN_TEMPLATE, ChatTemplate
from helix_df.models.tokenizer import ByteCodec, Tokenizer
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.jobs.daemon import api_server, bound_socket
from tests.api.fakes import FakeService

CLIENTS = 8
BODY = json.dumps({"model": "tiny", "prompt": "Once upon a time", "max_tokens": 64}).encode()
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
ASKED = {
    "refused, on connections that go on": POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "refused, each on its own": POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "/health, each on its own": b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


def serve(pipe: Connection) -> None:
    """Answer until told to end; tell the port, and the CPU time whenever asked."""
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    service = FakeService()
    tokenizer = Tokenizer(
        ByteCodec(frozenset({256})), vocab_size=257, bos_id=None, eos_ids=frozenset(), chat=ChatTemplate(PLAIN_TEMPLATE)
    )
    text = TextService(service, tokenizer, model_name="tiny", context=200)
    with bound_socket("127.0.0.1", 0) as listener:
        server = api_server(text, max_queue=service.status.waiting)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        pipe.send(listener.getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            pipe.send(time.process_time())
        server.should_exit = True
        await task


async def ask(port: int, request: bytes, count: int) -> None:
    """So many requests, by a few clients."""
    left = iter(range(count))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            if b"Connection: close" in request:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            size = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(size))
        writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def main() -> None:
    """Ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    count = parser.parse_args().requests
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    port = ours.recv()
    print("| what is asked | µs of the server's CPU each |\n|---|---|")
    for name, request in ASKED.items():
        asyncio.run(ask(port, request, count // 10))
        ours.send(True)
        before = ours.recv()
        asyncio.run(ask(port, request, count))
        ours.send(True)
        print(f"| {name} | {(ours.recv() - before) / count * 1e6:.0f} |", flush=True)
    ours.send(False)
    process.join(10)


if __name__ == "__main__":
    main()
