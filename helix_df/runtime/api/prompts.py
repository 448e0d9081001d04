"""From a prompt, as text, token ids or a chat, to the token ids that a model continues.

Owns the model's template and tokenizer on the way in, and what is too long, or no text. Runs in any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from helix_df.errors import RequestError
from helix_df.models.answer_formats.chain import AnswerFormats
from helix_df.models.answer_formats.thinking import opens_thinking
from helix_df.runtime.api.answer_reading import AnswerReading, with_ids
from helix_df.runtime.api.refusals import unsupported

if TYPE_CHECKING:
    from helix_df.models.tokenizer import Tokenizer


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to continue; each message has a ``role`` and a ``content``, and what else templates take.

    The ``tools`` are told to the model and may be called; with ``one_call`` the answer ends after the first call.
    ``options`` are further variables for the model's template, ``effort`` how hard it is to think. A prompt that
    ``begins_answer`` ends where the assistant's words begin. Calls are ``forced`` where the answer's constraint has it
    write them as JSON.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    one_call: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    begins_answer: bool = True
    forced: bool = False
    effort: ReasoningEffort | None = None


Prompt = str | tuple[int, ...] | Chat
"""Text, token ids or a conversation."""


class PromptEncoder:
    """Encodes prompts.

    Args:
        tokenizer: of the model.
        formats: of the calls and thoughts in its answers.
        context: tokens that prompt and answer may have together.
    """

    def __init__(self, tokenizer: Tokenizer, formats: AnswerFormats, context: int) -> None:
        self._tokenizer = tokenizer
        self._formats = formats
        self._context = context

    def encode(
        self, prompt: Prompt, field: str, *, begins: bool = True
    ) -> tuple[tuple[int, ...], AnswerReading | None]:
        """The ids of a prompt, and how the answer is read if it is a chat.

        Args:
            prompt: what to encode.
            field: the request's field that holds it, for errors.
            begins: whether a text gets the token that prompts begin with.

        Raises:
            RequestError: when it is empty, no text, can only be too long, or has ids that the model doesn't know.
        """
        reading = None
        if isinstance(prompt, tuple):
            ids = prompt
            if len(ids) < self._context:  # longer ones are refused for that, however many are wrong
                self.check_ids(ids, field)
        elif isinstance(prompt, Chat):
            text = self._checked(self._rendered(prompt), field)
            ids = tuple(self._tokenizer.encode_rendered(text))
            names = tuple(str(tool["function"]["name"]) for tool in prompt.tools)
            texts = tuple(name for tool in prompt.tools for name in text_parameters(tool))
            reading = AnswerReading(names, opens_thinking(text), prompt.one_call, prompt.forced, texts)
        else:
            ids = tuple(self._tokenizer.encode(self._checked(prompt, field)))
            if not begins and self._tokenizer.bos_id is not None:
                ids = ids[1:]
        if not ids:
            raise RequestError("the prompt is empty", param=field, expected="at least one token")
        return ids, reading

    def check_ids(self, ids: tuple[int, ...], field: str) -> None:
        """Refuse ids that the model doesn't know."""
        vocab_size = self._tokenizer.vocab_size
        wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"{field} has a token id that the model doesn't know",
                param=field,
                found=str(wrong),
                expected=f"0 to {vocab_size - 1}",
            )

    def _rendered(self, chat: Chat) -> str:
        """The chat as the model's template writes it."""
        calls = self._formats.tools
        messages = chat.messages if calls is None else tuple(with_ids(one, calls.template_id) for one in chat.messages)
        return self._tokenizer.chat.render(
            messages, tools=chat.tools, options=self._options(chat), add_generation_prompt=chat.begins_answer
        )

    def _options(self, chat: Chat) -> Mapping[str, Any]:
        """The template's further variables: an effort by the name by which it knows it, if it knows any."""
        takes = self._tokenizer.chat.takes
        if chat.effort is None:
            return chat.options
        if takes("reasoning_effort"):
            return {"reasoning_effort": chat.effort, **chat.options}
        if takes("enable_thinking"):
            return {"enable_thinking": chat.effort != "none", **chat.options}
        if chat.effort != "none":
            raise unsupported("reasoning_effort", "by this model's chat template, and so")
        return chat.options

    def _checked(self, text: str, field: str) -> str:
        """``text`` itself, if it is text, and could be short enough: tokenizing megabytes takes seconds."""
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise _not_text(field, error) from error
        fewest = self._tokenizer.fewest_tokens(size)
        if fewest >= self._context:
            raise too_long(self._context, field, f"at least {fewest}")
        return text


def text_parameters(tool: Mapping[str, Any]) -> Iterator[str]:
    """``tool/parameter`` for each parameter that its schema says is a text."""
    properties = tool["function"]["parameters"].get("properties")
    for name, schema in properties.items() if isinstance(properties, Mapping) else ():
        if isinstance(schema, Mapping) and schema.get("type") == "string":
            yield f"{tool['function']['name']}/{name}"


def too_long(context: int, field: str, tokens: str) -> RequestError:
    """The error for a prompt that leaves no room for an answer."""
    return RequestError(
        f"This model's maximum context length is {context} tokens. However, your {field} resulted in "
        f"{tokens} tokens, which leaves no room for an answer. Please reduce the length of the {field}.",
        param=field,
        code="context_length_exceeded",
    )


def _not_text(field: str, error: UnicodeEncodeError) -> RequestError:
    return RequestError(
        f"the {field} isn't text that can be encoded",
        param=field,
        code="invalid_value",
        found=f"half of a surrogate pair at character {error.start}",
        expected="Unicode text",
    )
