"""The body of OpenAI's ``/v1/responses``, and the chat that it stands for.

Nothing is stored: all of a conversation is in its ``input``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from helix_df.runtime.api.bodies import ChatBody
from helix_df.runtime.api.field_types import FIRST_ERROR_ONLY
from helix_df.runtime.api.generation import TextRequest
from helix_df.runtime.api.prompts import ReasoningEffort
from helix_df.runtime.api.request_body import RequestBody
from helix_df.runtime.api.structured import JsonSchemaFormat, ResponseFormat
from helix_df.runtime.api.timeouts import MAX_TIMEOUT_S
from helix_df.runtime.api.tools import ChosenFunction, FunctionBody, NamedChoice, ToolBody

Json = dict[str, Any]


class ResponsePart(BaseModel):
    """A part of what a request has; what it says besides changes no answer."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(ResponsePart):
    """Words."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class RefusalPart(ResponsePart):
    """Words by which an assistant refused."""

    type: Literal["refusal"]
    refusal: str


class SomeItem(ResponsePart):
    """What every item may have."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(SomeItem):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[TextPart | RefusalPart], FIRST_ERROR_ONLY]
    phase: Any = None


class FunctionCallItem(SomeItem):
    """A call of a function by the assistant."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    caller: Any = None


class FunctionOutputItem(SomeItem):
    """What a call came to."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[TextPart], FIRST_ERROR_ONLY]


class ThoughtPart(ResponsePart):
    """Words of a thought."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(SomeItem):
    """What the assistant thought. What another server has encrypted is left away."""

    type: Literal["reasoning"]
    summary: list[ThoughtPart] = []
    content: list[ThoughtPart] | None = None
    encrypted_content: str | None = None


def _kind(item: object) -> str:
    found = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return "message" if found is None else str(found)


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]


InputItems = Annotated[list[InputItem], Field(min_length=1), FIRST_ERROR_ONLY]


class ResponseTool(FunctionBody):
    """A function that the model may call; there are no other tools."""

    type: Literal["function"]


class ResponseToolChoice(ResponsePart):
    """The function that has to be called."""

    type: Literal["function"]
    name: str


class TextFormat(ResponsePart):
    """What the answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def as_response_format(self) -> ResponseFormat:
        """As a chat says it."""
        schema = None if self.schema_ is None else JsonSchemaFormat(schema=self.schema_)
        return ResponseFormat(type=self.type, json_schema=schema)


class TextChoice(ResponsePart):
    """``text``."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningChoice(ResponsePart):
    """``reasoning``: thoughts come whole, so that no summary is made."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Any = None


class ResponsesBody(RequestBody):
    """``POST /v1/responses``."""

    harmless = frozenset(
        {
            "include",
            "max_tool_calls",
            "metadata",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "store",
            "stream_options",
            "user",
        }
    )
    unsupported = {  # noqa: RUF012
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "moderation": (),
        "previous_response_id": (),
        "prompt": (),
        "top_logprobs": (0,),
        "truncation": ("disabled",),
    }
    nested = frozenset({"input", "reasoning", "text", "tool_choice", "tools"})

    model: str = Field(description="the name of a model that /v1/models lists")
    input: str | Annotated[list[InputItem], Field(min_length=1), FIRST_ERROR_ONLY] = Field(
        description="a string or a list of items"
    )
    instructions: str = Field("", description="a string")
    max_output_tokens: int | None = Field(None, ge=1, description="a whole number, 1 or more")
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a number over 0, up to 1")
    stream: bool = Field(False, description="true or false")
    text: TextChoice = Field(TextChoice(), description="an object with a format")
    tools: Annotated[list[ResponseTool], FIRST_ERROR_ONLY] = Field([], description="a list of functions")
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice = Field(
        "auto", description="none, auto, required or an object that names a function"
    )
    parallel_tool_calls: bool = Field(True, description="true or false")
    reasoning: ReasoningChoice = Field(ReasoningChoice(), description="an object with an effort")
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT_S, description=f"seconds, up to {MAX_TIMEOUT_S}")

    def requests(self) -> tuple[TextRequest, ...]:
        """The one request."""
        chat = ChatBody.model_validate(
            {
                "model": self.model,
                "messages": _messages(self.instructions, self.input),
                "max_completion_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "tools": [
                    ToolBody(type="function", function=FunctionBody(**tool.model_dump(exclude={"type"})))
                    for tool in self.tools
                ],
                "tool_choice": _choice(self.tool_choice),
                "parallel_tool_calls": self.parallel_tool_calls,
                "reasoning_effort": self.reasoning.effort,
                "response_format": None if self.text.format is None else self.text.format.as_response_format(),
            }
        )
        chat.check()
        return tuple(replace(one, field="input") for one in chat.requests())

    def echoed(self) -> Json:
        """What an answer repeats of its request."""
        form = self.text.format
        text = {"type": "text"} if form is None else form.model_dump(exclude_none=True, by_alias=True)
        return {
            "instructions": self.instructions or None,
            "max_output_tokens": self.max_output_tokens,
            "parallel_tool_calls": self.parallel_tool_calls,
            "reasoning": {"effort": self.reasoning.effort, "summary": None},
            "temperature": self.temperature,
            "text": {"format": text},
            "tool_choice": self.tool_choice if isinstance(self.tool_choice, str) else self.tool_choice.model_dump(),
            "tools": [tool.model_dump() for tool in self.tools],
            "top_p": self.top_p,
        }


def _choice(choice: str | ResponseToolChoice) -> Any:
    return (
        choice if isinstance(choice, str) else NamedChoice(type="function", function=ChosenFunction(name=choice.name))
    )


def _messages(instructions: str, given: str | list[Any]) -> list[Json]:
    """The messages of a chat: what the assistant thought, said and called at a time is one of them."""
    messages: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in given:
        match item:
            case MessageItem(role="assistant"):
                last = _assistant(messages, joins="content" not in (messages[-1] if messages else {}))
                last["content"] = _words(item.content)
            case MessageItem():
                messages.append({"role": item.role, "content": _words(item.content)})
            case FunctionOutputItem():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _words(item.output)})
            case FunctionCallItem():
                function = {"name": item.name, "arguments": item.arguments}
                last = _assistant(messages, joins=True)
                last.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
            case ReasoningItem():
                thought = "\n".join(part.text for part in item.content or item.summary)
                _assistant(messages, joins=False)["reasoning_content"] = thought
    return messages


def _assistant(messages: list[Json], *, joins: bool) -> Json:
    """The message that the assistant is at, or a new one."""
    if not joins or not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    return messages[-1]


def _words(content: str | list[TextPart] | list[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)
