"""A real browser that looks at the page of an API: Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from helix_df.runtime.requests import HopStatus, NodeStatus
from tests.api.conftest import on_a_port
from tests.api.fakes import FakeService

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODES = (
    NodeStatus("a100<b>large</b>", "ready", (0, 13), None, 1.0, "", 3000, 4000, 3),
    NodeStatus("l4", "ready", (13, 30), None, 1.0, "", 200, 3000, 1),
)
WAY = ("coordinator", "a100<b>large</b>", "l4", "coordinator")
HOPS = tuple(HopStatus(*hop, planned_tokens_per_s=400.0, tokens=1000, running=1) for hop in pairwise(WAY))


@dataclass
class Looked:
    """A page, and what its console said that it shouldn't have."""

    page: Any
    said: list[str] = field(default_factory=list)


Look = Callable[..., AbstractAsyncContextManager[Looked]]


@pytest.fixture
def service() -> FakeService:
    fake = FakeService()
    fake.status = replace(fake.status, nodes=NODES, num_layers=30, planned_tokens_per_s=400.0, hops=HOPS)
    return fake


@pytest.fixture
async def url(service: FakeService) -> AsyncIterator[str]:
    async with on_a_port(service) as address:
        yield address


@pytest.fixture
def look() -> Look:
    """Opens a page; options are those of Playwright's contexts."""
    from playwright.async_api import async_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")

    @asynccontextmanager
    async def opened(url: str, **options: Any) -> AsyncIterator[Looked]:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            context = await browser.new_context(**options)
            seen = Looked(await context.new_page())
            seen.page.on("console", lambda said: seen.said.append(said.text) if said.type == "error" else None)
            seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
            await seen.page.goto(url)
            yield seen
            await browser.close()

    return opened
