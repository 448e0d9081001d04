"""The bodies of OpenAI's generation requests: which fields are taken, and a clear refusal of all others.

Owns names, defaults and ranges of the HTTP fields. A parameter that would change the answer and isn't supported is
refused, never ignored. Doesn't know bytes (``parsing``) or tokens, and doesn't serve anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from helix_df.runtime.api.chat_messages import checked_messages
from helix_df.runtime.api.field_types import FIRST_ERROR_ONLY, Messages, TextsOrIds, each_text
from helix_df.runtime.api.forced_calls import calls_constraint
from helix_df.runtime.api.generation import TextRequest
from helix_df.runtime.api.prompts import Chat, Prompt, ReasoningEffort
from helix_df.runtime.api.refusals import invalid
from helix_df.runtime.api.shaping import ShapingBody
from helix_df.runtime.api.structured import FieldConstraint, ResponseFormat, StructuredOutputs, constraint_of
from helix_df.runtime.api.timeouts import MAX_TIMEOUT_S
from helix_df.runtime.api.tools import NamedChoice, ToolBody, ToolChoice
from helix_df.runtime.sampling import MAX_LOGPROBS

MAX_CHOICES = 128

HARMLESS = frozenset(
    {
        "cache_salt",
        "kv_transfer_params",
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Parameters that can't change an answer here; accepted whatever they say."""

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters that aren't supported, and the values by which they ask for nothing."""


Tools = Annotated[list[ToolBody], FIRST_ERROR_ONLY]


class StreamOptions(BaseModel):
    """``stream_options``; whatever else it says changes no answer. ``continuous_usage_stats`` goes beyond OpenAI's."""

    model_config = ConfigDict(extra="allow", strict=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class Body(ShapingBody):
    """What both endpoints take. ``top_k``, ``ignore_eos`` and ``return_token_ids`` go beyond OpenAI's, as in vLLM;
    ``timeout`` does, too."""

    harmless = HARMLESS
    unsupported = UNSUPPORTED
    nested = frozenset({"tools", "response_format", "structured_outputs"})

    model: str = Field(description="the name of a model that /v1/models lists")
    max_tokens: int | None = Field(None, ge=1, description="a whole number, 1 or more")
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a number over 0, up to 1")
    top_k: int = Field(0, ge=-1, description="a whole number, 0 or -1 for all tokens")
    n: int = Field(1, ge=1, le=MAX_CHOICES, description=f"a whole number from 1 to {MAX_CHOICES}")
    seed: int | None = Field(None, description="a whole number")
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions | None = Field(None, description="an object with include_usage")
    ignore_eos: bool = Field(False, description="true or false")
    response_format: ResponseFormat | None = Field(
        None, description="an object of type text, json_object, or json_schema with a json_schema that has a schema"
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="an object with one of json, regex, choice, grammar and json_object"
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description=f"a whole number from 0 to {MAX_LOGPROBS}"
    )
    return_token_ids: bool = Field(False, description="true or false")
    timeout: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT_S,
        description=f"a number over 0, up to {MAX_TIMEOUT_S}: seconds for all of the answer",
    )

    @property
    def counts_on(self) -> bool:
        """Whether every chunk of a stream has the usage so far."""
        return self.includes_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def drawn(self) -> int:
        """Answers to generate to each prompt; as many as are asked for, or more, the best of which are told."""
        return self.n

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer has log-probabilities."""
        raise NotImplementedError

    def check(self) -> None:
        """Check what spans several fields.

        Raises:
            RequestError: with the field at fault.
        """
        if self.stream and self.prompt_logprobs is not None:
            raise invalid("prompt_logprobs", "they can't be streamed")
        if self.stream_options is None:
            return
        if not self.stream:
            raise invalid("stream_options", "it is only allowed when stream is true")
        self.ignore(tuple(f"stream_options.{name}" for name in self.stream_options.model_extra or ()))

    def requests(self) -> tuple[TextRequest, ...]:
        """One request for each prompt of the body."""
        raise NotImplementedError

    def _request(self, prompt: Prompt, max_tokens: int | None, logprobs: int | None) -> TextRequest:
        return TextRequest(
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            seed=self.seed,
            logprobs=logprobs,
            ignore_eos=self.ignore_eos,
            prompt_logprobs=self.prompt_logprobs,
            constraint=self.constraint(),
            wishes=self.wishes(),
        )

    def constraint(self) -> FieldConstraint | None:
        """What the answer has to look like, and the field that says so.

        Raises:
            RequestError: when two fields say it, or it contradicts another.
        """
        found = constraint_of(self.response_format, self.structured_outputs)
        if found is not None and self.ignore_eos:
            raise invalid("ignore_eos", f"an answer with {found.field} ends where that says")
        return found


class CompletionBody(Body):
    """``POST /v1/completions``."""

    prompt: TextsOrIds = Field(description="a string, a list of strings, a list of token ids or a list of such lists")
    max_tokens: int = Field(16, ge=0, description="a whole number, 0 or more")
    echo: bool = Field(False, description="true or false")
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description=f"a whole number from 0 to {MAX_LOGPROBS}")
    best_of: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description=f"a whole number from n to {MAX_CHOICES}: how many the best are of"
    )

    def check(self) -> None:
        """See ``Body``."""
        super().check()
        if self.best_of is not None and self.best_of < self.n:
            raise invalid("best_of", "expected n or more")
        if self.stream and self.drawn > self.n:
            raise invalid("best_of", "which answers are the best is known at their end, so that they can't be streamed")
        if self.echo and self.logprobs is not None:
            if self.stream:
                raise invalid("stream", "log-probabilities of an echo can't be streamed")
            if self.prompt_logprobs is not None:
                raise invalid("prompt_logprobs", "the log-probabilities of an echo say the same")
        if len(self.prompts()) * self.drawn > MAX_CHOICES:
            raise invalid("prompt", f"prompts times n, or best_of, may be {MAX_CHOICES} at most")

    @property
    def drawn(self) -> int:
        """See ``Body``."""
        return self.n if self.best_of is None else self.best_of

    @property
    def wants_logprobs(self) -> bool:
        """See ``Body``."""
        return self.logprobs is not None

    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """The prompts, one or several."""
        return each_text(self.prompt)

    def requests(self) -> tuple[TextRequest, ...]:
        """See ``Body``."""
        prompts = self.prompts()
        if not prompts:
            raise invalid("prompt", "it is empty")
        # The best are found by their log-probabilities, asked for or not.
        logprobs = 0 if self.drawn > self.n and self.logprobs is None else self.logprobs
        found = (self._request(prompt, self.max_tokens, logprobs) for prompt in prompts)
        if not self.echo or self.logprobs is None:
            return tuple(found)
        return tuple(replace(one, prompt_logprobs=self.logprobs) for one in found)


class ChatBody(Body):
    """``POST /v1/chat/completions``."""

    messages: Messages = Field(min_length=1, description="a list of at least one message")
    max_completion_tokens: int | None = Field(None, ge=1, description="a whole number, 1 or more")
    logprobs: bool = Field(False, description="true or false")
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS, description=f"a whole number from 0 to {MAX_LOGPROBS}")
    tools: Tools = Field([], description="a list of functions, each with a name")
    tool_choice: ToolChoice = Field("auto", description="none, auto, required or an object that names a function")
    parallel_tool_calls: bool = Field(True, description="true or false")
    reasoning_effort: ReasoningEffort | None = Field(None, description=f"one of {', '.join(get_args(ReasoningEffort))}")
    chat_template_kwargs: dict[str, Any] = Field({}, description="an object: further variables of the model's template")

    @property
    def wants_logprobs(self) -> bool:
        """See ``Body``."""
        return self.logprobs

    def check(self) -> None:
        """See ``Body``."""
        super().check()
        if self.must_call and not self.callable_tools():
            raise invalid("tool_choice", "it has to be a tool that tools has")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "it needs logprobs to be true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise invalid("max_tokens", "it contradicts max_completion_tokens; send only the latter")

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedChoice)

    def callable_tools(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that the model may call, as templates take them; it isn't told of any others."""
        choice = self.tool_choice
        named = choice.function.name if isinstance(choice, NamedChoice) else None
        tools = [] if choice == "none" else self.tools
        return tuple(tool.for_template() for tool in tools if named is None or tool.function.name == named)

    def constraint(self) -> FieldConstraint | None:
        """See ``Body``. What has to be a call is one; an answer that may be a call or keep to a schema is either."""
        found, tools = super().constraint(), self.callable_tools()
        if found is not None and self.must_call:
            raise invalid("tool_choice", f"the answer can't keep to {found.field} as well")
        several = self.parallel_tool_calls and not isinstance(self.tool_choice, NamedChoice)
        if self.must_call:
            return calls_constraint(tools, "tools", several=several)
        schema = None if self.response_format is None else self.response_format.json_schema
        if found is not None and tools and schema is not None:
            return calls_constraint(tools, found.field, several=several, other=schema.schema_)
        return found

    def requests(self) -> tuple[TextRequest, ...]:
        """See ``Body``."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        constraint = self.constraint()
        chat = Chat(
            checked_messages(self.messages),
            self.callable_tools(),
            one_call=not self.parallel_tool_calls or isinstance(self.tool_choice, NamedChoice),
            forced=constraint is not None and constraint.has_calls,
            effort=self.reasoning_effort,
            options=self.chat_template_kwargs,
        )
        return (self._request(chat, limit, self.top_logprobs if self.logprobs else None),)
