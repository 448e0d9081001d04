"""``/v1/embeddings``: a text as a vector, which is made of the hidden states that the model's head gets."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helix_df.runtime.api.answer_bodies import AnswerBody
from helix_df.runtime.api.answers import Json
from helix_df.runtime.api.field_types import TextsOrIds, each_text
from helix_df.runtime.api.flow import AnswerFlow, ignored_headers
from helix_df.runtime.api.generation import TextRequest
from helix_df.runtime.api.parsing import BodyReader
from helix_df.runtime.api.refusals import invalid
from helix_df.runtime.api.request_body import RequestBody
from helix_df.runtime.api.stream import until_disconnect
from helix_df.runtime.api.timeouts import MAX_TIMEOUT_S
from helix_df.runtime.sampling import Pooling

PATH = "/v1/embeddings"

MAX_INPUTS = 2048
"""Texts of one body, as OpenAI has it."""

_MADE_OF: dict[Pooling, str] = {
    "mean": "the mean of the hidden states of all tokens behind the final norm",
    "last": "the hidden state of the last token behind the final norm",
}


class EmbeddingsBody(RequestBody):
    """``POST /v1/embeddings``. ``pooling``, ``normalize`` and ``timeout`` go beyond OpenAI's."""

    harmless = frozenset({"user", "priority", "request_id", "cache_salt"})
    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = dict.fromkeys(
        ("dimensions", "input_type", "truncate_prompt_tokens"), ()
    )

    model: str = Field(description="the name of a model that /v1/models lists")
    input: TextsOrIds = Field(description="a string, a list of strings, a list of token ids or a list of such lists")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="float, or base64 of little-endian numbers of 32 bits"
    )
    pooling: Pooling = Field("mean", description="mean, or last: which tokens' hidden states it is made of")
    normalize: bool = Field(True, description="true or false: whether vectors have length 1")
    timeout: float | None = Field(
        None, gt=0, le=MAX_TIMEOUT_S, description=f"a number over 0, up to {MAX_TIMEOUT_S}: seconds for all of it"
    )

    def check(self) -> None:
        """See ``RequestBody``."""
        inputs = each_text(self.input)
        if not inputs or not all(inputs):
            raise invalid("input", "it is empty")
        if len(inputs) > MAX_INPUTS:
            raise invalid("input", f"{MAX_INPUTS} at most")

    def requests(self) -> tuple[TextRequest, ...]:
        """One for each text."""
        asked = TextRequest("", max_tokens=0, seed=0, pooling=self.pooling, field="input")
        return tuple(replace(asked, prompt=one) for one in each_text(self.input))


class EmbeddingBody(AnswerBody):
    """The vector of the input of this number: numbers, or those in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(AnswerBody):
    """Tokens that were computed."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(AnswerBody):
    """Vectors in the order of the inputs; ``made_of`` says what each is of a model that was made to write."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingBody]
    usage: EmbeddingUsage
    made_of: str


class Embeddings:
    """The endpoint of a job's ``flow``, whose bodies are read by ``bodies``."""

    def __init__(self, flow: AnswerFlow, bodies: BodyReader) -> None:
        self._flow = flow
        self._bodies = bodies

    def routes(self) -> list[Route]:
        """Its route."""
        return [Route(PATH, self._create, methods=["POST"])]

    async def _create(self, request: Request) -> Response:
        self._flow.require_room(request)
        body = await self._bodies.read(EmbeddingsBody, request)
        _, prompts = await self._flow.prepared(request, body)
        pooled = self._flow.pooled(prompts, f"embd-{uuid.uuid4().hex}")
        vectors = await until_disconnect(request.receive, pooled)
        answer = _answer(body, self._flow.text.model_name, vectors, sum(len(one.prompt) for one in prompts))
        return JSONResponse(answer, headers=ignored_headers(body.ignored))


def _answer(body: EmbeddingsBody, model: str, vectors: list[np.ndarray], tokens: int) -> Json:
    if body.normalize:
        vectors = [one / max(float(np.linalg.norm(one)), np.finfo(np.float32).tiny) for one in vectors]
    as_text = body.encoding_format == "base64"
    said = [base64.b64encode(one.astype("<f4").tobytes()).decode() if as_text else one.tolist() for one in vectors]
    return {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(said)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "made_of": _MADE_OF[body.pooling],
    }
