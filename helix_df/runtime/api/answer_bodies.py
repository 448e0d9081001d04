"""The bodies of the API's answers as models: what ``/openapi.json`` says of them.

Answers are made as plain documents (``answers``), since a token shouldn't cost the building and checking of a model;
tests hold both together. Owns no words and no flow.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from helix_df.runtime.api.answer_reading import AnswerEnd
from helix_df.runtime.requests import FinishReason


class AnswerBody(BaseModel):
    """Any part of an answer: it has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetails(AnswerBody):
    """What is wrong: the field at fault, if there is one, and a stable code, if it has one."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(AnswerBody):
    """An error in OpenAI's shape."""

    error: ErrorDetails


class DoneBody(AnswerBody):
    """What a job was told is done, or on its way: ``/helix/status`` says how far it is."""

    done: Literal[True]


class LimitsBody(AnswerBody):
    """What a request may have at most: answers (prompts times ``n``), likely tokens in each place, stop strings, bytes;
    and how many requests may wait."""

    choices: int
    logprobs: int
    stops: int
    body_bytes: int
    queue: int | None


class ModelBody(AnswerBody):
    """A model that is served; ``created`` in Unix seconds, ``max_model_len`` in tokens of prompt and answer."""

    id: str
    object: str
    created: int
    owned_by: str
    max_model_len: int
    limits: LimitsBody


class ModelsBody(AnswerBody):
    """All models that are served."""

    object: str
    data: list[ModelBody]


class VersionBody(AnswerBody):
    """The version of helix-df."""

    version: str


class PingBody(AnswerBody):
    """Nothing: that it comes is the answer."""


class HealthBody(AnswerBody):
    """Whether a full path through the layers is up, and if not what is waited for."""

    status: str
    ready: bool
    detail: str


class PromptTokensDetails(AnswerBody):
    """Of the prompt's tokens, those that were in KV cache already."""

    cached_tokens: int


class UsageBody(AnswerBody):
    """Tokens that an answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class LikelyToken(AnswerBody):
    """A token that was likely in its place; ``bytes`` are its own."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(AnswerBody):
    """Log-probabilities of a chat's tokens."""

    content: list[ChosenToken]
    refusal: None


class CompletionLogprobs(AnswerBody):
    """Log-probabilities of a completion's tokens, of an echo's first one none; offsets in characters."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionCall(AnswerBody):
    """Which function, and the JSON of its arguments as the model wrote it."""

    name: str
    arguments: str


class ToolCall(AnswerBody):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class PromptLogprob(AnswerBody):
    """What the model thought of a token in some place of the prompt; ``rank`` 1 is the likeliest."""

    logprob: float
    rank: int
    decoded_token: str


_PROMPT_LOGPROBS: Any = Field(
    [], description="only with prompt_logprobs: for each token of the prompt by id; null for the first"
)


class ChatMessage(AnswerBody):
    """What the assistant says, and with it what it thought before, and what it calls, if anything."""

    role: str
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []


class ChatChoice(AnswerBody):
    """One answer of a chat. ``token_ids`` only where ``return_token_ids`` asks for them, as everywhere."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: AnswerEnd
    token_ids: list[int] = []


class CompletionChoice(AnswerBody):
    """One continuation, whole or a part of it; only the last part has a ``finish_reason``."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] = []
    prompt_logprobs: list[dict[str, PromptLogprob] | None] = _PROMPT_LOGPROBS


class FunctionDelta(AnswerBody):
    """What a chunk adds to the call of a function; its name comes first and whole."""

    name: str = ""
    arguments: str


class ToolCallDelta(AnswerBody):
    """What a chunk adds to the call of this index; the first has its id."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionDelta


class ChatDelta(AnswerBody):
    """What a chunk adds."""

    role: str = ""
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCallDelta] = []


class ChatChunkChoice(AnswerBody):
    """A part of one answer of a chat; only the last has a ``finish_reason``."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: AnswerEnd | None
    token_ids: list[int] = []


class WholeAnswer(AnswerBody):
    """What all answers have; ``created`` in Unix seconds."""

    id: str
    object: str
    created: int
    model: str


class ChatAnswer(WholeAnswer):
    """The answer to ``/v1/chat/completions``."""

    choices: list[ChatChoice]
    usage: UsageBody
    prompt_logprobs: list[dict[str, PromptLogprob] | None] = _PROMPT_LOGPROBS


class CompletionAnswer(WholeAnswer):
    """The answer to ``/v1/completions``."""

    choices: list[CompletionChoice]
    usage: UsageBody


_CHUNK_USAGE = Field(None, description="only with stream_options.include_usage: null but for the last chunk")


class ChatChunk(WholeAnswer):
    """An event of a streamed chat."""

    choices: list[ChatChunkChoice]
    usage: UsageBody | None = _CHUNK_USAGE


class CompletionChunk(WholeAnswer):
    """An event of a streamed completion."""

    choices: list[CompletionChoice]
    usage: UsageBody | None = _CHUNK_USAGE
