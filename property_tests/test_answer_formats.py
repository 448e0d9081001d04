"""Calls and thoughts in answers: what a family's own template writes is read back, however it is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.models.answer_formats.api import AnswerContext, CallArguments, CallStart, Content, Part, Reasoning
from helix_df.models.answer_formats.chain import AnswerFormats
from helix_df.models.answer_formats.registry import reasoning_format_of, reasoning_formats, tool_format_of, tool_formats
from helix_df.models.answer_formats.sections import DEEPSEEK, KIMI
from helix_df.models.chat import ChatTemplate

CALLS, THOUGHTS = tool_formats(), reasoning_formats()
"""Looked up once: other packages' are searched for."""

TOOLS = ("weather", "time_in-2")
LISTED = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in TOOLS]


@dataclass(frozen=True)
class Family:
    """A template that writes as a family's own does, and what stands around an assistant's message in it."""

    template: str
    ends: tuple[str, ...]
    most_calls: int = 3
    thinks: bool = False


def template_of(before: str, assistant: str, after: str) -> str:
    return (
        "{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
        "{%- for m in messages %}{% if m.role == 'user' %}" + before + "{{ m.content }}" + after + "{% else %}"
        "{{ '" + before.replace("user", "assistant") + "' }}" + assistant + after + "{% endif %}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '" + before.replace("user", "assistant") + "' }}{% endif %}"
    )


_CHATML = (
    "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}{% if not loop.first or m.content %}{{ '\n' }}{% endif %}"
    """{{ '<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson """
    "+ '}\n</tool_call>' }}{% endfor %}"
)
_LLAMA = (
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ '; ' if not loop.first }}"
    """{{ '{"name": "' + c.function.name + '", "parameters": ' + c.function.arguments | tojson + '}' }}{% endfor %}"""
    "{% else %}{{ m.content }}{% endif %}"
)
_LLAMA_TAG = _LLAMA.replace("{% for", "{{ '<|python_tag|>' }}{% for", 1)
_MISTRAL = (
    "{{ m.content }}{% if m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
    """{{ '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson + ', "id": "' """
    """+ c.id + '"}' }}{{ ', ' if not loop.last }}{% endfor %}]{% endif %}"""
)
_MISTRAL_NAMES = (
    "{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
)
_HARMONY = (
    "{% if m.thinking %}{{ '<|channel|>analysis<|message|>' + m.thinking + '<|end|><|start|>assistant' }}{% endif %}"
    "{% if m.content %}{{ ('<|channel|>commentary<|message|>' if m.tool_calls else '<|channel|>final<|message|>')"
    " + m.content + ('<|end|><|start|>assistant' if m.tool_calls else '') }}{% endif %}"
    "{% for c in m.tool_calls %}{{ ' to=functions.' + c.function.name + '<|channel|>commentary json<|message|>'"
    " + c.function.arguments | tojson }}{{ '<|call|><|start|>assistant' if not loop.last }}{% endfor %}"
)
_DEEPSEEK = (
    "{{ m.content }}{% for c in m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' if loop.first else '\n' }}"
    "{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + c.function.name + '\n```json\n' "
    "+ c.function.arguments | tojson + '\n```<｜tool▁call▁end｜>' }}"
    "{{ '<｜tool▁calls▁end｜>' if loop.last }}{% endfor %}"
)
_DEEPSEEK_END = "<｜end▁of▁sentence｜>"
_DEEPSEEK_31 = (
    "{{ m.content }}{% for c in m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' if loop.first }}"
    "{{ '<｜tool▁call▁begin｜>' + c.function.name + '<｜tool▁sep｜>' + c.function.arguments | tojson "
    "+ '<｜tool▁call▁end｜>' }}{{ '<｜tool▁calls▁end｜>' if loop.last }}{% endfor %}"
)
_KIMI = (
    "{{ m.content }}{% for c in m.tool_calls %}{{ '<|tool_calls_section_begin|>' if loop.first }}"
    "{{ '<|tool_call_begin|>functions.' + c.function.name + ':' + loop.index0 | string "
    "+ '<|tool_call_argument_begin|>' + c.function.arguments | tojson + '<|tool_call_end|>' }}"
    "{{ '<|tool_calls_section_end|>' if loop.last }}{% endfor %}"
)
FAMILIES = {
    "deepseek_v3": Family(template_of("<｜User｜>user", _DEEPSEEK, _DEEPSEEK_END), (_DEEPSEEK_END,)),
    "deepseek_v3 1": Family(template_of("<｜User｜>user", _DEEPSEEK_31, _DEEPSEEK_END), (_DEEPSEEK_END,)),
    "kimi_k2": Family(template_of("<|im_user|>user", _KIMI, "<|im_end|>"), ("<|im_end|>",)),
    "hermes": Family(template_of("<|im_start|>user\n", _CHATML, "<|im_end|>"), ("<|im_end|>",), thinks=True),
    "llama3": Family(
        template_of('<|start_header_id|>user"parameters"\n\n', _LLAMA, "<|eot_id|>"), ("<|eot_id|>",)
    ),
    "llama3 tag": Family(
        template_of("<|start_header_id|>user\n\n", _LLAMA_TAG, "<|eom_id|>"), ("<|eom_id|>",), most_calls=1
    ),
    "mistral": Family(template_of("[INST]user", _MISTRAL, "</s>"), ("</s>",)),
    "mistral names": Family(template_of("[INST]user", _MISTRAL_NAMES, "</s>"), ("</s>",), thinks=True),
    "harmony": Family(template_of("<|start|>user", _HARMONY, "<|return|>"), ("<|return|>",), thinks=True),
    "json": Family("{% for m in messages %}{{ m.role }}:{{ m.content }}</s>{% endfor %}"
                   "{% if add_generation_prompt %}assistant:{% endif %}", ("</s>",)),
}  # fmt: skip
FOUND = {
    name: (
        ChatTemplate(one.template),
        AnswerFormats(tool_format_of(one.template), reasoning_format_of(one.template)),
    )
    for name, one in FAMILIES.items()
}

text = st.text(st.sampled_from("ab \n\"\\{}[]<>|'é😀\t:,"), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | text, lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(text, inner, max_size=3), max_leaves=6,
)  # fmt: skip
arguments = st.dictionaries(text, json_values, max_size=3)
words = st.text(st.sampled_from("abc ,.é😀-"), min_size=1, max_size=20).map(str.strip)
calls = st.lists(st.tuples(st.sampled_from(TOOLS), arguments), max_size=3)


def joined(parts: Sequence[Part]) -> tuple[str, str, list[tuple[str, str]]]:
    """What is said, what is thought, and the calls."""
    said, thought, called = "", "", []
    for part in parts:
        match part:
            case Content():
                said += part.text
            case Reasoning():
                thought += part.text
            case CallStart():
                assert part.index == len(called)
                called.append((part.name, ""))
            case CallArguments():
                assert part.index == len(called) - 1
                called[-1] = (called[-1][0], called[-1][1] + part.text)
    return said, thought, called


def read(formats: AnswerFormats, pieces: Sequence[str], *, opens_thinking: bool = False) -> Any:
    parser = formats.parser(AnswerContext(TOOLS, opens_thinking))
    parts = [part for piece in pieces for part in parser.push(piece)]
    return joined([*parts, *parser.finish()])


def cut(answer: str, places: Sequence[int]) -> list[str]:
    at = sorted({0, len(answer), *(place % (len(answer) + 1) for place in places)})
    return [answer[start:stop] for start, stop in pairwise(at)]


def message_of(said: str, thought: str, called: Sequence[tuple[str, dict]]) -> dict[str, Any]:
    entries = [
        {"id": f"call0000{at}", "type": "function", "function": {"name": name, "arguments": given}}
        for at, (name, given) in enumerate(called)
    ]
    thoughts = {"reasoning_content": thought, "thinking": thought} if thought else {}
    return {"role": "assistant", "content": said, **thoughts, **({"tool_calls": entries} if entries else {})}


@pytest.mark.parametrize("name", FAMILIES)
@given(said=words | st.just(""), thought=words | st.just(""), called=calls, places=st.lists(st.integers(0, 999)))
def test_what_a_familys_template_writes_is_read_back_however_it_is_cut(
    name: str, said: str, thought: str, called: list, places: list[int]
) -> None:
    family = FAMILIES[name]
    called = called[: family.most_calls]
    if called and name.startswith("llama3"):
        said = ""  # its template writes one or the other
    thought = thought if family.thinks and (said or called) else ""
    template, formats = FOUND[name]
    assert formats.tools.name == name.partition(" ")[0]
    user = {"role": "user", "content": "Hi"}
    before = template.render([user], tools=LISTED)
    whole = template.render([user, message_of(said, thought, called)], tools=LISTED, add_generation_prompt=False)
    assert whole.startswith(before)
    answer = whole[len(before) :].removesuffix(family.ends[0])

    expected = (said, thought, [(tool, json.dumps(given, ensure_ascii=False)) for tool, given in called])
    assert read(formats, cut(answer, places)) == expected
    assert read(formats, list(answer)) == expected


PHRASES = [
    "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|channel|>", "analysis",
    "final", "commentary to=functions.weather ", "<|message|>", "<|end|>", "<|start|>assistant", "<think>", "</think>",
    "[THINK]", "[/THINK]", '{"name": "weather", "arguments": {', '"a": 1', "}", "}}", "]", "[", '"', "\\", "; ",
    "\n", '{"name": "weather"', '"arguments"', ": ", ", ", '"parameters": {}', "null", "```json\n", "```", "words",
    " ", "é", '{"name": "\\ud83d", "arguments": {}}', "weather", "{", "true", "<", "<tool",
]  # fmt: skip
PHRASES += [*DEEPSEEK.markers, *KIMI.markers, "function", "functions.weather:0", "functions."]
PHRASES += ["<function=", "<function=weather>", "</function>", "<parameter=", "<parameter=city>", "</parameter>", ">"]
FRAGMENTS = st.lists(st.sampled_from(PHRASES), max_size=14).map("".join)


@pytest.mark.parametrize("tools", CALLS)
@pytest.mark.parametrize("reasoning", [None, *THOUGHTS])
@given(answer=FRAGMENTS, places=st.lists(st.integers(0, 999)), opens_thinking=st.booleans())
def test_whatever_a_model_writes_is_read_alike_however_it_is_cut(
    tools: str, reasoning: str | None, answer: str, places: list[int], opens_thinking: bool
) -> None:
    formats = AnswerFormats(CALLS[tools], None if reasoning is None else THOUGHTS[reasoning])
    whole = read(formats, [answer], opens_thinking=opens_thinking)
    assert read(formats, cut(answer, places), opens_thinking=opens_thinking) == whole
    assert read(formats, list(answer), opens_thinking=opens_thinking) == whole
    said, thought, called = whole
    if reasoning is None and tools != "harmony" and not called:
        assert said == answer  # what isn't a call is text, to the letter
    json.dumps([said, thought, called], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("tools", "answer", "expected"),
    [
        ("hermes", '<tool_call>{"nam": 1}</tool_call>', ('<tool_call>{"nam": 1}</tool_call>', [])),
        ("hermes", '<tool_call><tool_call>{"name": "f"}</tool_call>', ("<tool_call>", [("f", "{}")])),
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}', ("", [("f", '{"a": 1}')])),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": tr', ("", [("f", '{"a": tr')])),
        ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', ("", [("f", '{"a": 1}')])),
        ("hermes", '<tool_call>{"name": "f", "arguments": 3}', ('<tool_call>{"name": "f", "arguments": 3}', [])),
        ("llama3", '{"weather": 1}', ('{"weather": 1}', [])),
        ("llama3", '{"name": "Anna", "parameters": {}}', ('{"name": "Anna", "parameters": {}}', [])),
        ("llama3", '{"type": "function", "function": {"name": "weather", "arguments": {}}}', ("", [("weather", "{}")])),
        ("llama3", "<|python_tag|>print(1)", ("<|python_tag|>print(1)", [])),
        ("mistral", '[TOOL_CALLS]f[CALL_ID]abc[ARGS]{"a": 1}[TOOL_CALLS]g{}', ("", [("f", '{"a": 1}'), ("g", "{}")])),
        ("deepseek_v3", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜> so", ("so", [("f", "{}")])),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{", ("", [("f", "{")])),
        (
            "deepseek_v3",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{}",
            ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{}", []),
        ),
        ("kimi_k2", "<|tool_call_begin|>f:0<|tool_call_argument_begin|>{}", ("", [("f", "{}")])),
        (
            "kimi_k2",
            "<|tool_call_begin|>f<|tool_call_argument_begin|>{}",
            ("<|tool_call_begin|>f<|tool_call_argument_begin|>{}", []),
        ),
        ("mistral", "a [TOOL_CALLS] b", ("a [TOOL_CALLS] b", [])),
        ("json", 'So:\n```json\n{"name": "weather", "arguments": {}}\n```', ("So:", [("weather", "{}")])),
        ("json", '```py\n{"name": "f"}\n```', ('```py\n{"name": "f"}\n```', [])),
    ],
)
def test_calls_that_are_written_otherwise(tools: str, answer: str, expected: tuple) -> None:
    said, _, called = read(AnswerFormats(CALLS[tools]), list(answer))
    assert (said, called) == expected


@pytest.mark.parametrize("opens_thinking", [False, True])
def test_a_thought_that_the_prompt_begins(opens_thinking: bool) -> None:
    formats = AnswerFormats(None, THOUGHTS["think"])
    begun = "" if opens_thinking else "<think>\n"
    found = read(formats, list(f"{begun}so \n it is\n</think>\n\nYes.\n"), opens_thinking=opens_thinking)
    assert found == ("Yes.\n", "so \n it is", [])


_QWEN_CODER = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}"
    "{{ '\n' if not loop.first or m.content }}<tool_call>{{ '\n<function=' + c.function.name + '>\n' }}"
    "{% for key, value in c.function.arguments.items() %}{{ '<parameter=' + key + '>\n' }}"
    "{{ value | tojson if value is mapping or value is iterable and value is not string else value | string }}"
    "{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{% endfor %}"
)
QWEN_CODER = ChatTemplate(_QWEN_CODER)
values = {
    "city": text,
    "n": st.integers(-99, 99),
    "is_far": st.booleans() | st.none(),
    "list": st.lists(st.integers(0, 9) | text, max_size=3),
}
optional = st.fixed_dictionaries({}, optional=values)


@given(
    said=words | st.just(""),
    called=st.lists(st.tuples(st.sampled_from(TOOLS), optional), max_size=3),
    places=st.lists(st.integers(0, 999)),
)
def test_what_qwen_coders_template_writes_is_read_back_however_it_is_cut(
    said: str, called: list, places: list[int]
) -> None:
    template = QWEN_CODER
    answer = template.render([message_of(said, "", called)], add_generation_prompt=False)
    texts = tuple(f"{tool}/city" for tool in TOOLS)
    for pieces in ([answer], cut(answer, places), list(answer)):
        parser = AnswerFormats(CALLS["qwen3_coder"]).parser(AnswerContext(TOOLS, texts=texts))
        parts = [part for piece in pieces for part in parser.push(piece)]
        found, _, told = joined([*parts, *parser.finish()])
        assert found == said
        assert [(name, json.loads(given_arguments)) for name, given_arguments in told] == called


def test_qwen_coders_template_tells_its_format() -> None:
    assert tool_format_of(_QWEN_CODER).name == "qwen3_coder"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>", ("", '{"city": "Rome"}')),
        ("<tool_call><function=weather></function></tool_call> so", ("so", "{}")),
        ("<tool_call>\n<function=weather>\n<parameter=n>\n3", ("", "")),
        ("<tool_call>\n{}", ("<tool_call>\n{}", None)),
        ("<function=\n>", ("<function=\n>", None)),
    ],
)
def test_qwen_coders_calls_that_are_written_otherwise(answer: str, expected: tuple) -> None:
    said, _, called = read(AnswerFormats(CALLS["qwen3_coder"]), list(answer))
    assert (said, called[0][1] if called else None) == expected
