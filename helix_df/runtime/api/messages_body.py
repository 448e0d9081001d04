"""The body of Anthropic's ``/v1/messages``, and the chat that it stands for."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from helix_df.runtime.api.field_types import FirstErrorOnly, Strings
from helix_df.runtime.api.forced_calls import calls_constraint
from helix_df.runtime.api.generation import TextRequest
from helix_df.runtime.api.prompts import Chat
from helix_df.runtime.api.refusals import invalid, unsupported
from helix_df.runtime.api.request_body import RequestBody
from helix_df.runtime.api.shaping import MAX_STOPS, Wishes
from helix_df.runtime.api.structured import FieldConstraint
from helix_df.runtime.api.tools import FunctionBody, ToolBody, ToolName

Json = dict[str, Any]
_FIRST = FirstErrorOnly()


class MessagePart(BaseModel):
    """A part of a message. What is said of caches and citations changes no answer."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    cache_control: Any = None


class TextBlock(MessagePart):
    """Words."""

    type: Literal["text"]
    text: str
    citations: Any = None


class ToolUseBlock(MessagePart):
    """A call of a tool by the assistant."""

    type: Literal["tool_use"]
    id: str
    name: ToolName
    input: dict[str, Any]
    caller: Any = None


class ToolResultBlock(MessagePart):
    """What a call came to."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Annotated[list[TextBlock], _FIRST] | None = None
    is_error: bool | None = None


class ThinkingBlock(MessagePart):
    """What the assistant thought; a signature means nothing here."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(MessagePart):
    """A thought that another server has made unreadable; it is left away."""

    type: Literal["redacted_thinking"]
    data: str


MessageBlock = Annotated[
    TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")
]
MessageBlocks = Annotated[list[MessageBlock], _FIRST]


class TurnBody(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["user", "assistant", "system"]
    content: str | MessageBlocks


class MessageTool(BaseModel):
    """A tool that the model may call."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: Any = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[dict[str, Any]] | None = None


class MessageToolChoice(BaseModel):
    """Whether tools may or have to be called: ``any`` of them, or the ``tool`` of this name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["auto", "none", "any", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingChoice(BaseModel):
    """Whether the model thinks before it answers, where its template lets one say that. A budget isn't kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["enabled", "disabled", "adaptive"]


class CountTokensBody(RequestBody):
    """``POST /v1/messages/count_tokens``."""

    harmless = frozenset({"cache_control", "metadata", "service_tier", "betas", "context_management"})
    unsupported = {"container": (), "mcp_servers": ([],), "output_config": (), "output_format": ()}  # noqa: RUF012
    nested = frozenset({"messages", "system", "tools", "tool_choice", "thinking"})

    model: str = Field(description="the name of a model that /v1/models lists")
    messages: Annotated[list[TurnBody], _FIRST] = Field(min_length=1, description="a list of at least one message")
    system: str | Annotated[list[TextBlock], _FIRST] = Field("", description="a string or a list of text blocks")
    tools: Annotated[list[MessageTool], _FIRST] = Field([], description="a list of tools")
    tool_choice: MessageToolChoice = Field(MessageToolChoice(type="auto"), description="an object with a type")
    thinking: ThinkingChoice | None = Field(None, description="an object with a type")

    def check(self) -> None:
        """See ``RequestBody``."""
        if self.messages[-1].role != "user":
            raise unsupported("messages", "that end with words of the assistant, to be continued")
        if self.tool_choice.type in ("any", "tool") and not self.callable_tools():
            raise invalid("tool_choice", "it has to be a tool that tools has")
        if self.thinking is not None:
            self.ignore(tuple(f"thinking.{name}" for name in self.thinking.model_extra or ()))

    def callable_tools(self) -> tuple[Json, ...]:
        """The tools that the model may call, as templates take them; it isn't told of any others."""
        choice = self.tool_choice
        tools = [] if choice.type == "none" else self.tools
        return tuple(_tool(tool) for tool in tools if choice.type != "tool" or tool.name == choice.name)

    def constraint(self) -> FieldConstraint | None:
        """That the answer is a call, where it has to be one."""
        choice = self.tool_choice
        if choice.type not in ("any", "tool"):
            return None
        several = choice.type == "any" and not choice.disable_parallel_tool_use
        return calls_constraint(self.callable_tools(), "tools", several=several)

    def chat(self) -> Chat:
        """The conversation as templates take it.

        Raises:
            RequestError: for a block that its role can't have.
        """
        system = _words(self.system)
        messages: list[Json] = [{"role": "system", "content": system}] if system else []
        names: dict[str, str] = {}
        for index, turn in enumerate(self.messages):
            messages += _turn(turn, f"messages[{index}]", names)
        options = {} if self.thinking is None else {"enable_thinking": self.thinking.type != "disabled"}
        choice = self.tool_choice
        return Chat(
            tuple(messages),
            self.callable_tools(),
            one_call=choice.disable_parallel_tool_use or choice.type == "tool",
            options=options,
            forced=choice.type in ("any", "tool"),
        )


class MessagesBody(CountTokensBody):
    """``POST /v1/messages``."""

    max_tokens: int = Field(ge=1, description="a whole number, 1 or more")
    stop_sequences: Strings = Field([], max_length=MAX_STOPS, description=f"a list of up to {MAX_STOPS} strings")
    stream: bool = Field(False, description="true or false")
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a number over 0, up to 1")
    top_k: int = Field(0, ge=0, description="a whole number, 0 for all tokens")

    @property
    def timeout(self) -> float | None:
        """Only the header can say it."""
        return None

    def requests(self) -> tuple[TextRequest, ...]:
        """The one request."""
        return (
            TextRequest(
                prompt=self.chat(),
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                wishes=Wishes.ended_by(self.stop_sequences),
                constraint=self.constraint(),
            ),
        )


def _tool(tool: MessageTool) -> Json:
    function = FunctionBody(name=tool.name, description=tool.description, parameters=tool.input_schema)
    return ToolBody(type="function", function=function).for_template()


def _words(content: str | list[TextBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text for block in content)


def _turn(turn: TurnBody, where: str, names: dict[str, str]) -> list[Json]:
    """A turn as messages: results of tools are messages of their own."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    results: list[Json] = []
    message: Json = {"role": turn.role, "content": ""}
    calls: list[Json] = []
    for index, block in enumerate(turn.content):
        match block:
            case TextBlock():
                message["content"] += block.text
            case ToolResultBlock() if turn.role == "user":
                results.append(_result(block, names))
            case ToolUseBlock() if turn.role == "assistant":
                names[block.id] = block.name
                function = {"name": block.name, "arguments": block.input}
                calls.append({"id": block.id, "type": "function", "function": function})
            case ThinkingBlock() if turn.role == "assistant":
                message |= {"reasoning_content": block.thinking, "thinking": block.thinking}
            case RedactedThinkingBlock() if turn.role == "assistant":
                pass
            case _:
                raise invalid(f"{where}.content[{index}]", f"a message of the {turn.role} has no {block.type}")
    if calls:
        message["tool_calls"] = calls
    is_empty = turn.role == "user" and not message["content"] and results
    return results if is_empty else [*results, message]


def _result(block: ToolResultBlock, names: dict[str, str]) -> Json:
    text = _words(block.content)
    message: Json = {
        "role": "tool",
        "tool_call_id": block.tool_use_id,
        "content": f"Error: {text}" if block.is_error else text,
    }
    return message | ({"name": names[block.tool_use_id]} if block.tool_use_id in names else {})


def read_input(arguments: str) -> Json:
    """The arguments of a call as the object that ``tool_use`` has; what isn't one stands in it as it was written."""
    try:
        read = json.loads(arguments or "{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        read = None
    return read if isinstance(read, dict) else {"INVALID_JSON": arguments}


def _no_number(name: str) -> None:
    raise ValueError(name)
