"""A token service that says what it is told to, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from helix_df.errors import HelixError, RequestError
from helix_df.models.chat import PLAIN_TEMPLATE, ChatTemplate
from helix_df.models.tokenizer import ByteCodec, Tokenizer
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.requests import GenerationRequest, JobStatus, NodeStatus, TokenEvent, TopLogprobs

EOS = 257
NODES = (
    NodeStatus("left", "ready", (0, 2), "tcp://127.0.0.1:1", 1.0, "", 10, 400, 1),
    NodeStatus("right", "ready", (2, 4), None, 1.0, "", 20, 300, 1, join_command="HELIX_DF_TOKEN=secret join"),
)
READY = JobStatus("job", "tiny", "ready", True, "", NODES, 2, 1, 5, 1, 111, 222, 3, 48)


def byte_tokenizer(vocab_size: int = 258, template: str = PLAIN_TEMPLATE) -> Tokenizer:
    return Tokenizer(
        ByteCodec(frozenset({256, EOS})),
        vocab_size=vocab_size,
        bos_id=None,
        eos_ids=frozenset({EOS}),
        chat=ChatTemplate(template),
    )


class FakeService:
    """Answers with the bytes of ``answer`` and an end of text.

    ``pause_after`` tokens it waits for ``go_on`` (forever if nobody sets it); ``error_after`` tokens it fails.
    """

    def __init__(self, answer: str | Callable[[GenerationRequest], str] = "Hello, world!") -> None:
        self.cached: Callable[[GenerationRequest], int] = lambda request: 0
        self.answer = answer
        self.status = READY
        self.refusal: HelixError | None = None
        self.pause_after: int | None = None
        self.error_after: tuple[int, Exception] | None = None
        self.requests: list[GenerationRequest] = []
        self.paused = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()
        self.open = 0
        self.asking_threads: set[int] = set()
        self.waiting_of: Counter[str] = Counter()

    def waiting(self, owner: str | None = None) -> int:
        return self.status.waiting if owner is None else self.waiting_of[owner]

    def snapshot(self) -> JobStatus:
        self.asking_threads.add(threading.get_ident())
        return self.status

    async def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        self.open += 1
        try:
            answer = self.answer if isinstance(self.answer, str) else self.answer(request)
            if request.sampling.pooling is not None:
                yield TokenEvent(None, "length", pooled=(STATES.tobytes(),))
                return
            tokens = (*answer.encode(), EOS)
            for count, token in enumerate(tokens):
                await self._act(count)
                cached = 0 if count else self.cached(request)
                if token in request.stop_ids:
                    yield TokenEvent(None, "stop", cached_tokens=cached)
                    return
                last = count + 1 in (request.max_tokens, len(tokens))
                wants = request.sampling.logprobs is not None
                yield TokenEvent(token, "length" if last else None, _logprobs(token) if wants else None, cached)
                if last:
                    return
        finally:
            self.open -= 1
            self.ended.set()

    async def _act(self, count: int) -> None:
        if self.pause_after == count:
            self.paused.set()
            await self.go_on.wait()
        if self.error_after is not None and self.error_after[0] == count:
            raise self.error_after[1]


STATES = np.array([3.0, -4.0, 0.0], "<f4")
"""What hidden states come to, of any prompt."""


def _logprobs(token: int) -> TopLogprobs:
    return TopLogprobs(-0.5, ((token, -0.5), (ord("z"), -2.0)))


def text_service(service: FakeService, context: int = 200, template: str = PLAIN_TEMPLATE) -> TextService:
    seeds = itertools.count(1000)
    tokenizer = byte_tokenizer(template=template)
    return TextService(service, tokenizer, model_name="tiny", context=context, draw_seed=lambda: next(seeds))


def not_ready(detail: str = "node left is loading") -> JobStatus:
    return replace(READY, state="starting", ready=False, detail=detail)


def queue_full() -> RequestError:
    return RequestError("too many requests wait", code="queue_full", status=429)


def prompt_text(request: GenerationRequest) -> str:
    return bytes(request.prompt).decode()


def user(text: str) -> Sequence[Mapping[str, Any]]:
    return [{"role": "user", "content": text}]
