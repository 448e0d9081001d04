"""Formats by name: built in, or of other packages by the entry points ``helix_df.tool_parsers`` and
``helix_df.reasoning_parsers``. A new one of ours is one file and one line here.

Each entry point is an object that does what ``api.AnswerFormat`` says. Which one a model's answers have follows from
its chat template, unless the job names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from helix_df.errors import ModelError
from helix_df.models.answer_formats.api import AnswerFormat
from helix_df.models.answer_formats.harmony import HarmonyFormat
from helix_df.models.answer_formats.hermes import HermesFormat
from helix_df.models.answer_formats.json_calls import JsonFormat
from helix_df.models.answer_formats.llama3 import Llama3Format
from helix_df.models.answer_formats.mistral import MistralFormat
from helix_df.models.answer_formats.qwen_coder import QwenCoderFormat
from helix_df.models.answer_formats.sections import DEEPSEEK, KIMI
from helix_df.models.answer_formats.thinking import MAGISTRAL, THINK
from helix_df.plugins import broken_plugin, load_plugin
from helix_df.suggestions import closest

TOOLS_GROUP = "helix_df.tool_parsers"
REASONING_GROUP = "helix_df.reasoning_parsers"
NONE = "none"
"""The name by which a job says that answers are nothing but text."""

_HARMONY = HarmonyFormat()
JSON_FORMAT = JsonFormat()
_TOOLS: tuple[AnswerFormat, ...] = (
    _HARMONY,
    DEEPSEEK,
    KIMI,
    QwenCoderFormat(),
    HermesFormat(),
    MistralFormat(),
    Llama3Format(),
    JSON_FORMAT,
)
_REASONING: tuple[AnswerFormat, ...] = (_HARMONY, THINK, MAGISTRAL)


def tool_formats() -> dict[str, AnswerFormat]:
    """Formats of calls by name.

    Raises:
        ModelError: when an entry point can't be loaded.
    """
    return _all(_TOOLS, TOOLS_GROUP)


def reasoning_formats() -> dict[str, AnswerFormat]:
    """Formats of thoughts by name.

    Raises:
        ModelError: when an entry point can't be loaded.
    """
    return _all(_REASONING, REASONING_GROUP)


def tool_format_of(template: str, name: str | None = None) -> AnswerFormat | None:
    """The format of calls of a model with this chat template: the named one, else that of the template, else JSON.

    Raises:
        ModelError: for a name that nobody knows; an entry point that can't be loaded.
    """
    known = tool_formats()
    if name is not None:
        return _named(name, known, "model.tool_parser")
    return next((one for one in known.values() if one.is_of(template)), JSON_FORMAT)


def reasoning_format_of(template: str, name: str | None = None) -> AnswerFormat | None:
    """The format of thoughts of a model with this chat template: the named one, else that of the template, if any.

    Raises:
        ModelError: as ``tool_format_of``.
    """
    known = reasoning_formats()
    if name is not None:
        return _named(name, known, "model.reasoning_parser")
    return next((one for one in known.values() if one.is_of(template)), None)


def _named(name: str, known: Mapping[str, AnswerFormat], where: str) -> AnswerFormat | None:
    if name == NONE:
        return None
    if name not in known:
        near = closest(name, [*known, NONE])
        raise ModelError(
            "no parser has this name",
            where=where,
            found=name,
            expected=" | ".join([*known, NONE]),
            hint=None if near is None else f"did you mean '{near}'?",
        )
    return known[name]


_EXPECTED = "an object as helix_df.models.answer_formats.api.AnswerFormat says"


def _all(built_in: tuple[AnswerFormat, ...], group: str) -> dict[str, AnswerFormat]:
    found = {one.name: one for one in built_in}
    for entry in entry_points(group=group):
        if entry.name in found:
            continue  # a name that is built in can't be taken
        one: Any = load_plugin(entry, "parser", _EXPECTED, ModelError)
        missing = [part for part in ("name", "markers", "is_of", "parser", "template_id") if not hasattr(one, part)]
        if missing:
            raise broken_plugin(entry, "parser", f"it has no {missing[0]}", _EXPECTED, ModelError)
        found[entry.name] = one
    return found
