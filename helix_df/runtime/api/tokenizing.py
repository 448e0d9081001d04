"""``/tokenize`` and ``/detokenize``: a prompt's tokens, and what tokens say."""

from __future__ import annotations

import asyncio

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helix_df.runtime.api.answer_bodies import AnswerBody
from helix_df.runtime.api.answers import Json
from helix_df.runtime.api.bodies import Tools
from helix_df.runtime.api.chat_messages import checked_messages
from helix_df.runtime.api.field_types import Messages, TokenIds
from helix_df.runtime.api.flow import AnswerFlow
from helix_df.runtime.api.parsing import BodyReader
from helix_df.runtime.api.prompts import Chat, Prompt
from helix_df.runtime.api.refusals import invalid
from helix_df.runtime.api.request_body import RequestBody


class TokenizeBody(RequestBody):
    """``POST /tokenize``: a text, or a chat as the model's template writes it."""

    nested = frozenset({"tools"})

    model: str | None = Field(None, description="the name of a model that /v1/models lists")
    prompt: str | None = Field(None, description="a string")
    messages: Messages | None = Field(None, min_length=1, description="a list of at least one message")
    tools: Tools = Field([], description="a list of functions, each with a name")
    add_special_tokens: bool = Field(True, description="true or false: whether a text begins as prompts do")
    add_generation_prompt: bool = Field(True, description="true or false: whether a chat ends where an answer begins")
    return_token_strs: bool = Field(False, description="true or false")

    def check(self) -> None:
        """See ``RequestBody``."""
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt", "a body has either prompt or messages")

    def asked(self) -> Prompt:
        """The prompt."""
        if self.prompt is not None:
            return self.prompt
        tools = tuple(tool.for_template() for tool in self.tools)
        return Chat(checked_messages(self.messages or []), tools, begins_answer=self.add_generation_prompt)


class TokenizeAnswer(AnswerBody):
    """The tokens of a prompt; ``max_model_len`` is how many prompt and answer may have together."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeBody(RequestBody):
    """``POST /detokenize``."""

    model: str | None = Field(None, description="the name of a model that /v1/models lists")
    tokens: TokenIds = Field(description="a list of token ids")


class DetokenizeAnswer(AnswerBody):
    """The text of tokens; special ones vanish."""

    prompt: str


class Tokenizing:
    """The endpoints of a job's ``flow``, whose bodies are read by ``bodies``."""

    def __init__(self, flow: AnswerFlow, bodies: BodyReader) -> None:
        self._flow = flow
        self._bodies = bodies

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
        ]

    async def _tokenize(self, request: Request) -> Response:
        body = await self._bodies.read(TokenizeBody, request)
        self._require_model(body.model)
        return JSONResponse(await asyncio.to_thread(self._tokens, body))

    async def _detokenize(self, request: Request) -> Response:
        body = await self._bodies.read(DetokenizeBody, request)
        self._require_model(body.model)
        decode = self._flow.text.decode_checked
        return JSONResponse({"prompt": await asyncio.to_thread(decode, tuple(body.tokens), "tokens")})

    def _tokens(self, body: TokenizeBody) -> Json:
        text = self._flow.text
        ids = text.tokenize(body.asked(), begins=body.add_special_tokens)
        answer: Json = {"count": len(ids), "max_model_len": text.context, "tokens": list(ids)}
        if body.return_token_strs:
            answer["token_strs"] = [text.decode((one,)) for one in ids]
        return answer

    def _require_model(self, name: str | None) -> None:
        if name is not None:
            self._flow.require_model(name)
