"""Clients of an API over a fake service: in process, and over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from helix_df.runtime.api.app import create_app
from helix_df.runtime.jobs.daemon import api_server, bound_socket, url_of
from tests.api.fakes import FakeService, text_service


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def http(service: FakeService) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(text_service(service), created=1_700_000_000, max_body_bytes=20_000)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def client(http: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    speaker: Any = http  # newer clients are typed for a fork of httpx, and take either
    async with openai.AsyncOpenAI(
        api_key="none", base_url="http://test/v1", http_client=speaker, max_retries=0
    ) as client:
        yield client


@asynccontextmanager
async def on_a_port(service: FakeService) -> AsyncIterator[str]:
    """The URL of the API on a real port."""
    with bound_socket("127.0.0.1", 0) as listener:
        running = api_server(text_service(service))
        task = asyncio.create_task(running.serve(sockets=[listener]))
        yield url_of(listener)
        running.should_exit = True
        service.go_on.set()
        await task


@pytest.fixture
async def server(service: FakeService) -> AsyncIterator[str]:
    """The URL of the API on a real port."""
    async with on_a_port(service) as url:
        yield url
