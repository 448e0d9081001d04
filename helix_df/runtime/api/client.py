"""A running job as a Python object: stream, complete, chat, status.

Owns the options that a library user gives, and talks to a daemon over HTTP or to a token service in this process. Both
look the same. Doesn't start anything.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import httpx

from helix_df.errors import DeploymentError, RequestError
from helix_df.runtime.access import CONTROL, SECRET_HEADER, Access
from helix_df.runtime.api.answer_reading import AnswerEnd
from helix_df.runtime.api.generation import TextRequest, TextService
from helix_df.runtime.api.prompts import Chat, Prompt
from helix_df.runtime.api.shaping import Wishes
from helix_df.runtime.api.text_pieces import TextPiece
from helix_df.runtime.requests import HopStatus, JobStatus, NodeStatus, StageSpeed

COMPLETION_TOKENS = 16
"""``max_tokens`` of a text completion that names none, as in OpenAI's API."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer and the tokens it took; ``cached_tokens`` of the prompt's were in KV cache already."""

    text: str
    finish_reason: AnswerEnd | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def __str__(self) -> str:
        return self.text


class GenerationOptions(TypedDict, total=False):
    """How to continue a prompt. Left out: temperature 1, top_p 1, all tokens (``top_k`` 0), a random seed, no stops.

    ``max_tokens`` left out is 16 after a text, and all that the context has left in a chat.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: Sequence[str]
    ignore_eos: bool


class RunningJob(ABC):
    """A job that answers. A prompt is text, token ids, or a chat: messages with ``role`` and ``content``."""

    def stream(
        self, prompt: str | Sequence[int] | Sequence[Mapping[str, str]], **options: Unpack[GenerationOptions]
    ) -> AsyncGenerator[TextPiece, None]:
        """The answer piece by piece; closing the generator early cancels the request.

        Raises:
            RequestError: when it can't be served as asked.
            DeploymentError: when the job is gone.
        """
        return self._pieces(text_request(prompt, options))

    async def complete(self, prompt: str | Sequence[int], **options: Unpack[GenerationOptions]) -> Answer:
        """The continuation of a text.

        Raises:
            RequestError, DeploymentError: as ``stream``.
        """
        return await self._answer(text_request(prompt, options))

    async def chat(self, messages: str | Sequence[Mapping[str, str]], **options: Unpack[GenerationOptions]) -> Answer:
        """The assistant's next message; a string is a chat of one message by the user.

        Raises:
            RequestError, DeploymentError: as ``stream``.
        """
        chat = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return await self._answer(text_request(chat, options))

    @abstractmethod
    async def status(self) -> JobStatus:
        """The job at this moment."""

    @abstractmethod
    def _pieces(self, request: TextRequest) -> AsyncGenerator[TextPiece, None]: ...

    @abstractmethod
    async def _answer(self, request: TextRequest) -> Answer: ...


class LocalJob(RunningJob):
    """A job whose coordinator lives in this process."""

    def __init__(self, text: TextService) -> None:
        self._text = text

    async def status(self) -> JobStatus:
        """See ``RunningJob``."""
        return self._text.snapshot()

    def _pieces(self, request: TextRequest) -> AsyncGenerator[TextPiece, None]:
        return self._text.stream(self._text.prepare(request, self._text.limits()), f"local-{uuid.uuid4().hex}")

    async def _answer(self, request: TextRequest) -> Answer:
        prepared = self._text.prepare(request, self._text.limits())
        text, tokens, cached, finish = "", 0, 0, None
        async with aclosing(self._text.stream(prepared, f"local-{uuid.uuid4().hex}")) as pieces:
            async for piece in pieces:
                text += piece.text
                tokens += len(piece.token_ids)
                cached += piece.cached_tokens
                finish = piece.finish_reason
        return Answer(text, finish, len(prepared.prompt), tokens, cached)


class RemoteJob(RunningJob):
    """A job behind an HTTP API.

    Args:
        http: a client whose base URL is the API's root. Whoever made it closes it.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._model: str | None = None

    async def status(self) -> JobStatus:
        """See ``RunningJob``."""
        return status_from_json(await self._request("GET", "/helix/status"))

    async def _pieces(self, request: TextRequest) -> AsyncGenerator[TextPiece, None]:
        path, body = await self._body(request)
        # Token ids, since a token doesn't always end a character and would else go unseen.
        body |= {"stream": True, "return_token_ids": True}
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _error_of(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield _piece(json.loads(line[len("data: ") :]))
        except httpx.TransportError as error:
            raise self._gone(error) from error

    async def _answer(self, request: TextRequest) -> Answer:
        path, body = await self._body(request)
        document = await self._request("POST", path, body)
        choice, used = document["choices"][0], document["usage"]
        text = choice["message"]["content"] or "" if "message" in choice else choice["text"]
        cached = used["prompt_tokens_details"]["cached_tokens"]
        return Answer(text, choice["finish_reason"], used["prompt_tokens"], used["completion_tokens"], cached)

    async def _body(self, request: TextRequest) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {
            "model": await self._model_name(),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "seed": request.seed,
            "stop": list(request.wishes.stop.texts),
            "ignore_eos": request.ignore_eos,
        }
        if isinstance(request.prompt, Chat):
            return "/v1/chat/completions", body | {"messages": [dict(message) for message in request.prompt.messages]}
        return "/v1/completions", body | {"prompt": request.prompt}

    async def _model_name(self) -> str:
        if self._model is None:
            self._model = str((await self._request("GET", "/v1/models"))["data"][0]["id"])
        return self._model

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise self._gone(error) from error
        if response.status_code != 200:
            raise _error_of(response)
        document: dict[str, Any] = response.json()
        return document

    def _gone(self, error: httpx.TransportError) -> DeploymentError:
        return DeploymentError(
            "the job doesn't answer",
            where=str(self._http.base_url),
            found=str(error) or type(error).__name__,
            hint="`helix-df status` says what is running",
        )


def http_client(api: str | Access) -> httpx.AsyncClient:
    """A client for an API, by its URL or with what it takes to come in; answers may take as long as they like, and any
    number may be under way."""
    access = Access(api) if isinstance(api, str) else api
    return httpx.AsyncClient(
        base_url=access.url.removesuffix("/").removesuffix("/v1"),
        headers=access.headers,
        verify=True if access.certificate is None else access.verify,
        timeout=httpx.Timeout(None, connect=10),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    )


def fetch_status(api: str | Access, timeout_s: float = 10.0) -> JobStatus:
    """The status of the job whose API this is, as for ``http_client``.

    Raises:
        DeploymentError: when it doesn't answer in time.
    """
    access = Access(api) if isinstance(api, str) else api
    try:
        # No proxy stands before a job on this machine, and loading certificates takes longer than the answer.
        response = httpx.get(
            f"{access.url}/helix/status",
            headers=access.headers,
            timeout=timeout_s,
            trust_env=False,
            verify=access.verify,
        )
        return status_from_json(response.raise_for_status().json())
    except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise DeploymentError("the job doesn't answer", where=access.url, found=str(error)) from error


def tell(access: Access, secret: str, what: str, document: Mapping[str, Any], timeout_s: float = 60.0) -> None:
    """Have something done to the job of an API: ``what`` is the last part of a control's path.

    Raises:
        DeploymentError: when it is refused, or the job doesn't answer in time.
    """
    try:
        response = httpx.post(
            f"{access.url}{CONTROL}/{what}",
            json=document,
            headers={**access.headers, SECRET_HEADER: secret},
            timeout=timeout_s,
            trust_env=False,
            verify=access.verify,
        )
        if response.is_success:
            return
        words = response.json()["error"]["message"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise DeploymentError("the job doesn't answer", where=access.url, found=str(error)) from error
    raise DeploymentError(words)


def text_request(prompt: str | Sequence[int] | Sequence[Mapping[str, str]], options: GenerationOptions) -> TextRequest:
    """The request for a prompt and options as a library user gives them.

    Raises:
        RequestError: when the prompt is none of the three kinds.
    """
    kind = _prompt(prompt)
    default = None if isinstance(kind, Chat) else COMPLETION_TOKENS
    stop = options.get("stop", ())
    return TextRequest(
        prompt=kind,
        max_tokens=options.get("max_tokens", default),
        temperature=options.get("temperature", 1.0),
        top_p=options.get("top_p", 1.0),
        top_k=options.get("top_k", 0),
        seed=options.get("seed"),
        ignore_eos=options.get("ignore_eos", False),
        wishes=Wishes.ended_by((stop,) if isinstance(stop, str) else stop),
    )


def status_from_json(document: dict[str, Any]) -> JobStatus:
    """The status that ``/helix/status`` sent."""
    nodes = tuple(_node_from_json(node) for node in document["nodes"])
    gaps = tuple((start, stop) for start, stop in document.get("missing_layers", ()))
    cut = tuple((tail, head) for tail, head in document.get("cut_hops", ()))
    hops = tuple(HopStatus(**hop) for hop in document.get("hops", ()))
    return JobStatus(**{**document, "nodes": nodes, "missing_layers": gaps, "cut_hops": cut, "hops": hops})


def _node_from_json(document: dict[str, Any]) -> NodeStatus:
    speed = document.get("speed")
    return NodeStatus(
        **{**document, "layers": tuple(document["layers"]), "speed": None if speed is None else StageSpeed(**speed)}
    )


def _prompt(prompt: str | Sequence[int] | Sequence[Mapping[str, str]]) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if all(isinstance(item, int) for item in prompt):
        return tuple(item for item in prompt if isinstance(item, int))
    if all(isinstance(item, Mapping) for item in prompt):
        return Chat(tuple(item for item in prompt if isinstance(item, Mapping)))
    raise RequestError("this is not a prompt", param="prompt", expected="text, token ids or chat messages")


def _piece(document: dict[str, Any]) -> TextPiece:
    if "error" in document:
        error = document["error"]
        raise RequestError(error["message"], param=error["param"], code=error["code"], status=503)
    choice = document["choices"][0]
    text = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
    return TextPiece(text, tuple(choice.get("token_ids", ())), choice["finish_reason"])


def _error_of(response: httpx.Response) -> RequestError:
    try:
        error = response.json()["error"]
        return RequestError(error["message"], param=error["param"], code=error["code"], status=response.status_code)
    except (ValueError, KeyError, TypeError):
        return RequestError(
            f"the server answered {response.status_code}", found=response.text[:200], status=response.status_code
        )
