"""Anthropic's ``/v1/messages`` and ``/v1/messages/count_tokens``, stateless, whole and streamed."""

from __future__ import annotations

import asyncio
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helix_df.runtime.api.flow import AnswerFlow, ignored_headers
from helix_df.runtime.api.messages_answers import MessageAnswer, describe_event, message_events, whole_message
from helix_df.runtime.api.messages_body import CountTokensBody, MessagesBody
from helix_df.runtime.api.parsing import BodyReader
from helix_df.runtime.api.stream import EventStream, until_disconnect

PATH = "/v1/messages"


class MessagesEndpoint:
    """The endpoints of a job's ``flow``, whose bodies are read by ``bodies``."""

    def __init__(self, flow: AnswerFlow, bodies: BodyReader) -> None:
        self._flow = flow
        self._bodies = bodies

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route(PATH, self._create, methods=["POST"]),
            Route(f"{PATH}/count_tokens", self._count, methods=["POST"]),
        ]

    async def _create(self, request: Request) -> Response:
        self._flow.require_room(request)
        body = await self._bodies.read(MessagesBody, request)
        _, prompts = await self._flow.prepared(request, body)
        name = f"msg_{uuid.uuid4().hex}"
        answer = MessageAnswer(name, self._flow.text.model_name, len(prompts[0].prompt))
        pieces, headers = self._flow.pieces(prompts, name), ignored_headers(body.ignored)
        if body.stream:
            return EventStream(message_events(answer, pieces), describe_event, headers=headers, done=False)
        return JSONResponse(await until_disconnect(request.receive, whole_message(answer, pieces)), headers=headers)

    async def _count(self, request: Request) -> Response:
        body = await self._bodies.read(CountTokensBody, request)
        self._flow.require_model(body.model)
        ids = await asyncio.to_thread(lambda: self._flow.text.tokenize(body.chat()))
        return JSONResponse({"input_tokens": len(ids)}, headers=ignored_headers(body.ignored))
