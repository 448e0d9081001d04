"""Clients over HTTP that come back for the rest of their answers, whoever ends meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

GIVEN_UP_S = 120.0
"""So long a client comes back without hearing anything new."""

_WAIT_S = 0.05


@dataclass
class Reply:
    """What a client has of one answer: token ids, and when each chunk with some came (s, monotonic)."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    came_s: list[float] = field(default_factory=list)
    cuts: int = 0
    lost: str = ""

    def said(self) -> tuple[object, ...]:
        """What must be the same each time."""
        return self.tokens, self.text, self.finish


def body_of(number: int, model: str, max_tokens: int) -> dict[str, Any]:
    """A request, greedy or, each third, seeded; the same for a number each time."""
    body = {
        "model": model,
        "prompt": [(7 * number + 3 * at) % 250 for at in range(1 + 5 * number % 47)],
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
        "return_token_ids": True,
        "temperature": 0.0,
    }
    return body if number % 3 else body | {"temperature": 0.8, "top_p": 0.9, "seed": number}


class Returning:
    """One request, by a name of its own, until its answer is whole or lost."""

    def __init__(self, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
        self._http = http
        self._body = body
        self._name = f"returning-{secrets.token_hex(8)}"
        self._place = ""
        self.reply = Reply()

    async def run(self) -> Reply:
        """Ask, and come back as often as it takes."""
        heard_s, known = time.monotonic(), False
        while not self.reply.finish and not self.reply.lost:
            before = len(self.reply.tokens)
            with contextlib.suppress(httpx.TransportError):
                known = await (self._come_back() if known or self.reply.cuts else self._ask())
            if self.reply.finish or self.reply.lost:
                break
            self.reply.cuts += 1
            if len(self.reply.tokens) > before:
                heard_s = time.monotonic()
            if time.monotonic() - heard_s > GIVEN_UP_S:
                self.reply.lost = f"nothing new for {GIVEN_UP_S:.0f} s"
            await asyncio.sleep(_WAIT_S)
        return self.reply

    async def _ask(self) -> bool:
        headers = {"X-Helix-Request-Id": self._name}
        async with self._http.stream("POST", "/v1/completions", json=self._body, headers=headers) as response:
            if response.status_code != 200 and response.status_code != 409:
                self.reply.lost = f"{response.status_code}: {(await response.aread())[:200]!r}"
                return False
            await self._read(response)
            return True

    async def _come_back(self) -> bool:
        """Go on where it was; ask anew if it was never accepted."""
        headers = {"Last-Event-ID": self._place} if self._place else {}
        async with self._http.stream("GET", f"/helix/requests/{self._name}", headers=headers) as response:
            if response.status_code == 200:
                await self._read(response)
            elif response.status_code != 409:  # the connection that broke may not be known to be gone yet
                words = f"{response.status_code}: {(await response.aread())[:200]!r}"
                if response.status_code != 404 or self._place:
                    self.reply.lost = words
                    return True
        if response.status_code == 404:
            return await self._ask()
        return True

    async def _read(self, response: httpx.Response) -> None:
        name = ""
        async for line in response.aiter_lines():
            kind, _, value = line.partition(": ")
            if kind == "id":
                name = value
            elif kind == "data" and value != "[DONE]":
                self._hear(json.loads(value))
                self._place = name

    def _hear(self, document: dict[str, Any]) -> None:
        if "error" in document:
            self.reply.lost = str(document["error"])[:200]
            return
        for choice in document["choices"]:
            if choice.get("token_ids"):
                self.reply.tokens += choice["token_ids"]
                self.reply.came_s.append(time.monotonic())
            self.reply.text += choice["text"]
            self.reply.finish = choice["finish_reason"] or self.reply.finish
