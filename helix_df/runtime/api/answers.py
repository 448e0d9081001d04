"""The bodies of OpenAI's generation answers, whole and in chunks, and of its errors.

Owns field names and shapes as the official client parses them. One flow, two dialects: chat and plain completions.
Knows neither HTTP nor where the text comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from helix_df.errors import HelixError, RequestError
from helix_df.models.answer_formats.api import Reasoning
from helix_df.runtime.api.answer_reading import AnswerEnd
from helix_df.runtime.api.called_tools import CalledTool, add_calls, call_deltas, whole_calls
from helix_df.runtime.api.text_pieces import PromptToken, TextPiece, TokenLogprob, TopToken
from helix_df.runtime.requests import HopStatus, JobStatus, NodeStatus, what_is_missing

Json = dict[str, Any]


@dataclass(slots=True)
class Choice:
    """One answer as it grows. The tokens of its ``prompt``, if they were scored, may be ``echoed`` with its own."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    finish_reason: AnswerEnd | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reasoning: str = ""
    calls: list[CalledTool] = field(default_factory=list)
    prompt: tuple[PromptToken, ...] = ()
    echoed: tuple[PromptToken, ...] = ()

    @property
    def mean_logprob(self) -> float:
        """Of its tokens, where they have log-probabilities; of none 0."""
        return sum(token.logprob for token in self.logprobs) / max(1, len(self.logprobs))

    def add(self, piece: TextPiece) -> None:
        """Take in the next piece."""
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.cached_tokens += piece.cached_tokens
        self.finish_reason = piece.finish_reason
        self.logprobs += piece.logprobs
        self.reasoning += reasoning_of(piece)
        add_calls(self.calls, piece.told)
        self.prompt = self.prompt or piece.prompt


def reasoning_of(piece: TextPiece) -> str:
    """What a piece adds to the model's thoughts."""
    return "".join(part.text for part in piece.told if isinstance(part, Reasoning))


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every body of one answer repeats; ``created`` is in Unix seconds."""

    id: str
    created: int
    model: str

    def wrap(self, kind: str, choices: list[Json]) -> Json:
        """A body of this answer."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class Dialect(Protocol):
    """How one endpoint phrases its answers. ``echo`` is the prompt if it is to be repeated before the answer."""

    prefix: str

    def whole(self, envelope: Envelope, choices: list[Choice], echoes: list[str], wants_logprobs: bool) -> Json:
        """The body of a finished answer, without usage."""
        ...

    def opening(self, envelope: Envelope, index: int, echo: str) -> Json | None:
        """The chunk that opens a streamed choice, if any."""
        ...

    def chunk(self, envelope: Envelope, index: int, piece: TextPiece) -> Json:
        """A chunk of a streamed choice."""
        ...

    def closing(self, envelope: Envelope) -> Json:
        """The chunk that carries the usage."""
        ...


class ChatDialect:
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"

    def whole(self, envelope: Envelope, choices: list[Choice], echoes: list[str], wants_logprobs: bool) -> Json:
        """See ``Dialect``."""
        return envelope.wrap(
            "chat.completion",
            [
                {
                    "index": index,
                    "message": _message(envelope.id, index, choice),
                    "logprobs": _chat_logprobs(choice.logprobs) if wants_logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
        )

    def opening(self, envelope: Envelope, index: int, echo: str) -> Json | None:
        """See ``Dialect``."""
        return self._chunk(envelope, index, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, envelope: Envelope, index: int, piece: TextPiece) -> Json:
        """See ``Dialect``."""
        delta: Json = {}
        if piece.text or (piece.logprobs and not piece.told):
            delta["content"] = piece.text
        if reasoning := reasoning_of(piece):
            delta["reasoning_content"] = reasoning
        if calls := call_deltas(envelope.id, index, piece.told):
            delta["tool_calls"] = calls
        logprobs = _chat_logprobs(list(piece.logprobs)) if piece.logprobs else None
        return self._chunk(envelope, index, delta, logprobs, piece.finish_reason)

    def closing(self, envelope: Envelope) -> Json:
        """See ``Dialect``."""
        return envelope.wrap("chat.completion.chunk", [])

    def _chunk(
        self, envelope: Envelope, index: int, delta: Json, logprobs: Json | None, finish: AnswerEnd | None
    ) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return envelope.wrap("chat.completion.chunk", [choice])


class CompletionDialect:
    """``/v1/completions``."""

    prefix = "cmpl"

    def whole(self, envelope: Envelope, choices: list[Choice], echoes: list[str], wants_logprobs: bool) -> Json:
        """See ``Dialect``."""
        return envelope.wrap(
            "text_completion",
            [
                self._choice(
                    index,
                    echo + choice.text,
                    _completion_logprobs(choice.logprobs, choice.echoed, len(echo)) if wants_logprobs else None,
                    choice.finish_reason,
                )
                for index, (choice, echo) in enumerate(zip(choices, echoes, strict=True))
            ],
        )

    def opening(self, envelope: Envelope, index: int, echo: str) -> Json | None:
        """See ``Dialect``."""
        return envelope.wrap("text_completion", [self._choice(index, echo, None, None)]) if echo else None

    def chunk(self, envelope: Envelope, index: int, piece: TextPiece) -> Json:
        """See ``Dialect``."""
        logprobs = _completion_logprobs(list(piece.logprobs)) if piece.logprobs else None
        return envelope.wrap("text_completion", [self._choice(index, piece.text, logprobs, piece.finish_reason)])

    def closing(self, envelope: Envelope) -> Json:
        """See ``Dialect``."""
        return envelope.wrap("text_completion", [])

    def _choice(self, index: int, text: str, logprobs: Json | None, finish: AnswerEnd | None) -> Json:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def with_token_ids(document: Json, ids: Sequence[Sequence[int]]) -> Json:
    """The body with the token ids of each of its choices, as vLLM gives them."""
    for choice, own in zip(document["choices"], ids, strict=True):
        choice["token_ids"] = list(own)
    return document


def with_prompt_logprobs(document: Json, scores: Sequence[list[Json | None]]) -> Json:
    """The body with the log-probabilities of its prompts, as vLLM gives them: of a chat once, else by choice."""
    if document["object"] == "chat.completion":
        return document | {"prompt_logprobs": scores[0]}
    for choice, own in zip(document["choices"], scores, strict=True):
        choice["prompt_logprobs"] = own
    return document


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Json:
    """The ``usage`` object; ``cached_tokens`` of the prompt's didn't have to be computed."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


_OF_STATUS, _OF_HOP = (tuple(field.name for field in fields(kind)) for kind in (JobStatus, HopStatus))
_OF_NODE = tuple(field.name for field in fields(NodeStatus) if field.name != "join_command")


def public_status(status: JobStatus) -> Json:
    """The status for everybody: without the commands that join, since they hold the job's secret."""
    # Not by ``asdict`` alone, which takes ten times as long over a thousand nodes.
    document = {name: getattr(status, name) for name in _OF_STATUS}
    nodes = [{name: getattr(node, name) for name in _OF_NODE} for node in status.nodes]
    for node in nodes:
        node["speed"] = None if node["speed"] is None else asdict(node["speed"])
    hops = [{name: getattr(hop, name) for name in _OF_HOP} for hop in status.hops]
    return {**document, "nodes": nodes, "hops": hops}


def why_not_ready(status: JobStatus) -> str:
    """What a job that has no full path waits for."""
    if status.detail:
        return status.detail.partition("\n")[0]
    states = {node.name: node.state for node in status.nodes if node.role == "serving"}
    return what_is_missing(states, status.missing_layers, status.cut_hops)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> Json:
    """An error in OpenAI's shape; the type follows from the HTTP status."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe(error: HelixError) -> tuple[int, Json]:
    """The HTTP status and body that say an error best. Inner errors keep their details to themselves (and the log)."""
    if not isinstance(error, RequestError):
        return 500, error_body(500, error.problem, code=type(error).__name__)
    details = [
        f"{label} {value}"
        for label, value in (("found", error.found), ("expected", error.expected), ("try:", error.hint))
        if value is not None
    ]
    message = f"{error.problem} ({', '.join(details)})" if details else error.problem
    return error.status, error_body(error.status, message, error.param, error.code)


def _message(answer: str, index: int, choice: Choice) -> Json:
    message: Json = {"role": "assistant", "content": choice.text or (None if choice.calls else ""), "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["tool_calls"] = whole_calls(answer, index, choice.calls)
    return message


def _chat_logprobs(tokens: list[TokenLogprob]) -> Json:
    def entry(text: str, raw: bytes, logprob: float) -> Json:
        return {"token": text, "logprob": logprob, "bytes": list(raw)}

    content = [
        {
            **entry(token.text, token.raw, token.logprob),
            "top_logprobs": [entry(other.text, other.raw, other.logprob) for other in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _completion_logprobs(tokens: list[TokenLogprob], echoed: Sequence[PromptToken] = (), begins: int = 0) -> Json:
    """Those of an answer's tokens, behind those of its prompt if it is echoed; it ``begins`` at that character."""
    found: list[PromptToken | TokenLogprob] = [*echoed, *tokens]
    return {
        "tokens": [token.text for token in found],
        "token_logprobs": [token.logprob for token in found],
        "top_logprobs": [None if token.logprob is None else _by_text(token.top) for token in found],
        "text_offset": [*(token.offset for token in echoed), *(begins + token.offset for token in tokens)],
    }


def _by_text(top: Sequence[TopToken]) -> dict[str, float]:
    """Log-probability by text; of tokens that read alike, the less likely by their ids."""
    found: dict[str, float] = {}
    for token in top:
        found[token.text if token.text not in found else f"token_id:{token.id}"] = token.logprob
    return found
