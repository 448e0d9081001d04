"""From the text of a chat's answer to its parts, as it comes: what is said, thought and called.

What is needed for that outlives the process with the answer (``answering.Form``). Doesn't know how parts are phrased.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from helix_df.models.answer_formats.api import AnswerContext, Content, Part
from helix_df.models.answer_formats.chain import AnswerFormats
from helix_df.models.answer_formats.registry import JSON_FORMAT, reasoning_format_of, tool_format_of
from helix_df.runtime.requests import FinishReason

AnswerEnd = FinishReason | Literal["tool_calls"]
"""Why an answer ended, as its client is told."""


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """How an answer is read: the names of the tools that it may call, whether its prompt has begun a thought, whether
    it ends with its first call, whether a constraint has it write calls as JSON, and which parameters are ``texts``
    (``AnswerContext``)."""

    tools: tuple[str, ...] = ()
    opens_thinking: bool = False
    one_call: bool = False
    forced: bool = False
    texts: tuple[str, ...] = ()

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> AnswerReading:
        """From what ``asdict`` made, by way of JSON."""
        return cls(**{**fields, "tools": tuple(fields["tools"]), "texts": tuple(fields["texts"])})


def formats_of(template: str, tools: str | None = None, reasoning: str | None = None) -> AnswerFormats:
    """The formats of a model's answers, by its chat template where they aren't named.

    Raises:
        ModelError: for a name that nobody knows.
    """
    return AnswerFormats(tool_format_of(template, tools), reasoning_format_of(template, reasoning))


def formats_for(formats: AnswerFormats, reading: AnswerReading) -> AnswerFormats:
    """The formats that an answer is read with: those of its model, unless it is forced."""
    return AnswerFormats(JSON_FORMAT) if reading.forced else formats


class PartsReader:
    """Reads one answer.

    Args:
        formats: of the model.
        reading: of this answer.
    """

    def __init__(self, formats: AnswerFormats, reading: AnswerReading) -> None:
        context = AnswerContext(reading.tools, reading.opens_thinking, reading.texts)
        self._reader = formats_for(formats, reading).parser(context, reading.one_call)

    def read(self, text: str, finish: FinishReason | None) -> tuple[tuple[Part, ...], AnswerEnd | None]:
        """The parts that more text makes, and whether the answer ends here."""
        reader = self._reader
        if reader is None:
            return ((Content(text),) if text else ()), finish
        parts = reader.push(text)
        if finish is not None:
            parts += reader.finish()
        if reader.is_over or (finish == "stop" and reader.calls):
            return parts, "tool_calls"
        return parts, finish


def content_of(parts: tuple[Part, ...]) -> str:
    """The words for the user among these parts."""
    return "".join(part.text for part in parts if isinstance(part, Content))


def with_ids(message: Mapping[str, Any], id_of: Callable[[str], str]) -> Mapping[str, Any]:
    """A message whose calls, or the call that it is the result of, have the ids that templates take."""
    if message.get("tool_calls"):
        return {**message, "tool_calls": [{**call, "id": id_of(call["id"])} for call in message["tool_calls"]]}
    if "tool_call_id" in message:
        return {**message, "tool_call_id": id_of(message["tool_call_id"])}
    return message
