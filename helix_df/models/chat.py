"""Turn chat messages into a prompt with the model's own Jinja template.

Owns the sandbox that templates run in, and what they are given. Doesn't know tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from helix_df.errors import ModelError, RequestError
from helix_df.models.told_tools import told_in_words

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""For models that bring no template."""


class ChatTemplate:
    """A compiled template.

    Args:
        text: Jinja source, in the dialect of Hugging Face's ``apply_chat_template``.
        bos_token: text of the beginning-of-sequence token, for the template.
        eos_token: text of the end-of-sequence token, for the template.
        specials: texts of further special tokens by name (``pad_token``, ``unk_token``), for the template.

    Raises:
        ModelError: when the template has a syntax error.
    """

    def __init__(
        self, text: str, *, bos_token: str = "", eos_token: str = "", specials: Mapping[str, str] | None = None
    ) -> None:
        extensions = [loopcontrols, _GenerationBlocks]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        environment.globals.update({**(specials or {}), "bos_token": bos_token, "eos_token": eos_token})
        try:
            self._template = environment.from_string(text)
            self._variables = frozenset(meta.find_undeclared_variables(environment.parse(text)))
        except jinja2.TemplateSyntaxError as error:
            raise ModelError("the model's chat template is malformed", found=str(error)) from error
        self.source = text

    @property
    def takes_tools(self) -> bool:
        """Whether it writes tools down itself; otherwise they are told in words."""
        return self.takes("tools")

    def takes(self, variable: str) -> bool:
        """Whether it looks at a variable of this name."""
        return variable in self._variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for a chat.

        Args:
            messages: each with ``role`` and ``content``, and as OpenAI's may have ``tool_calls``, whose arguments are
                objects.
            add_generation_prompt: whether it ends where the assistant's words begin.
            tools: that may be called, as OpenAI's.
            options: further variables for the template.

        Raises:
            RequestError: when the template refuses the messages or fails on them.
        """
        given: dict[str, Any] = {
            **(options or {}),
            "add_generation_prompt": add_generation_prompt,
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
        }
        if self.takes_tools:
            return self._rendered(messages, given)
        given["tools"] = None
        try:
            return self._rendered(told_in_words(messages, tools), given)
        except RequestError:
            if not tools or messages[0]["role"] == "system":
                raise
            # Some templates refuse every system message.
            return self._rendered(told_in_words(messages, tools, by="user"), given)

    def _rendered(self, messages: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> str:
        try:
            return self._template.render({**given, "messages": [dict(message) for message in messages]})
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise RequestError(
                "the model's chat template doesn't accept these messages", param="messages", found=str(error)
            ) from error


class _GenerationBlocks(Extension):
    """``{% generation %} … {% endgeneration %}`` marks the assistant's words for training; here it is its contents."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The block in place of its marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as models were trained on: Jinja's own filter writes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
