"""A job of a tiny random model that answers over HTTP, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from helix_df.layers import LayerRange
from helix_df.models.tokenizer import load_tokenizer
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.coordinator.shell import Coordinator, context_of
from helix_df.runtime.jobs.coordinators import new_coordinator
from tests.runtime.tiny import tiny_plan

CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Served:
    """A client of the job, and its coordinator."""

    http: httpx.AsyncClient
    coordinator: Coordinator

    async def complete(self, **body: Any) -> dict[str, Any]:
        """The only choice of a completion."""
        return (await self._asked("/v1/completions", {"prompt": "p"} | body))["choices"][0]

    async def chat(self, **body: Any) -> dict[str, Any]:
        """The only choice of a chat."""
        asked = {"messages": [{"role": "user", "content": "p"}]} | body
        return (await self._asked("/v1/chat/completions", asked))["choices"][0]

    async def _asked(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self.http.post(path, json={"model": "tiny"} | body)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def served(placement: dict[str, LayerRange] | None = None, **changes: Any) -> AsyncIterator[Served]:
    """The job, once it is ready; arguments as for ``tiny_plan``."""
    model = {"source": "random:tiny", "context": CONTEXT}
    runtime = {"max_batch": 16, "max_prefill_tokens": 64, "port": 0}
    plan = tiny_plan(placement, kv_tokens=65_536, **({"model": model, "runtime": runtime} | changes))
    coordinator = new_coordinator(plan, embedded=True)
    await coordinator.start()
    try:
        await coordinator.wait_ready(120)
        tokenizer = load_tokenizer(plan.job.model.parsed_source)
        text = TextService(coordinator, tokenizer, model_name="tiny", context=context_of(plan))
        transport = httpx.ASGITransport(app=create_app(text))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=None) as http:
            yield Served(http, coordinator)
    finally:
        await coordinator.close()
