"""OpenAI's ``/v1/responses``: stateless, whole and streamed."""

from __future__ import annotations

import time
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helix_df.runtime.api.flow import AnswerFlow, ignored_headers
from helix_df.runtime.api.parsing import BodyReader
from helix_df.runtime.api.responses_answers import ResponseAnswer, ResponseEvents, whole_response
from helix_df.runtime.api.responses_body import ResponsesBody
from helix_df.runtime.api.stream import EventStream, until_disconnect


class ResponsesEndpoint:
    """The endpoint of a job's ``flow``, whose bodies are read by ``bodies``."""

    def __init__(self, flow: AnswerFlow, bodies: BodyReader) -> None:
        self._flow = flow
        self._bodies = bodies

    def routes(self) -> list[Route]:
        """Its route."""
        return [Route("/v1/responses", self._create, methods=["POST"])]

    async def _create(self, request: Request) -> Response:
        self._flow.require_room(request)
        body = await self._bodies.read(ResponsesBody, request)
        _, prompts = await self._flow.prepared(request, body)
        name = f"resp_{uuid.uuid4().hex}"
        answer = ResponseAnswer(
            name, int(time.time()), self._flow.text.model_name, len(prompts[0].prompt), body.echoed()
        )
        pieces, headers = self._flow.pieces(prompts, name), ignored_headers(body.ignored)
        if body.stream:
            events = ResponseEvents(answer)
            return EventStream(events.follow(pieces), events.describe, headers=headers, done=False)
        return JSONResponse(await until_disconnect(request.receive, whole_response(answer, pieces)), headers=headers)
