"""No thread but the event loop's asks for the job's state, which changes while another would read it."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import context_of
from helix_df.runtime.jobs.coordinators import new_coordinator
from tests.api.fakes import FakeService, byte_tokenizer, user
from tests.runtime.tiny import tiny_plan

CHAT = {"model": "tiny", "messages": user("p")}
REQUESTS = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", CHAT | {"stream": True}),
    ("POST", "/v1/completions", {"model": "tiny", "prompt": "p", "n": 2}),
    ("GET", "/v1/models", None),
    ("GET", "/health", None),
    ("GET", "/helix/status", None),
    ("GET", "/helix/overview", None),
    ("GET", "/metrics", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_every_endpoint_asks_on_the_event_loop(http: httpx.AsyncClient, service: FakeService, method, path, body):
    response = await http.request(method, path, json=body)
    assert response.status_code == 200
    assert service.asking_threads <= {threading.get_ident()}


async def test_the_real_coordinator_refuses_other_threads_and_serves_chats_without_max_tokens():
    plan = tiny_plan()
    coordinator = new_coordinator(plan, embedded=True)
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        with pytest.raises(AssertionError, match="event loop's alone"):
            await asyncio.to_thread(coordinator.snapshot)
        text = TextService(coordinator, byte_tokenizer(256), model_name="tiny", context=context_of(plan))
        transport = httpx.ASGITransport(app=create_app(text))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=CHAT) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
    finally:
        await coordinator.close()
