"""What published chat templates are built of, each in a small template of our own, and the chats to render with them."""

# ruff: noqa: E501  # a template in lines is another template
from __future__ import annotations

from typing import Any, NamedTuple

from tests.cases.templates import ODD


class Chat(NamedTuple):
    """Messages, tools, and further variables."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it


_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather; in °C.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where, e.g. \"Zürich\""},
                "days": {"type": ["integer", "null"], "default": 1},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "more": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
            },
            "required": ["city"],
        },
    },
}  # fmt: skip
_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich <ZH>", "days": 2}}}

CHATS: dict[str, Chat] = {
    "plain": Chat([{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": ODD}]),
    "turns": Chat(
        [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "<think>\nsum\n</think>\n\n2 "},
            {"role": "user", "content": "  Sure?\n"},
            {"role": "assistant", "content": "Yes.", "reasoning_content": "check"},
            {"role": "user", "content": ""},
        ],
        None,
        {"enable_thinking": False, "custom": [3, 1, 2]},
    ),
    "tools": Chat(
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "abc123def", **_CALL}, _CALL]},
            {"role": "tool", "name": "get_weather", "tool_call_id": "abc123def", "content": '{"t": 21.5}'},
            {"role": "tool", "name": "get_weather", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."},
            {"role": "user", "content": "Thanks"},
        ],
        [_WEATHER, {**_WEATHER, "function": {**_WEATHER["function"], "name": "other", "parameters": {}}}],  # type: ignore[dict-item]  # of objects
        {"enable_thinking": True},
    ),
    "parts": Chat(
        [
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b <c>"}]},
        ]
    ),
}

CONSTRUCTS: dict[str, str] = {
    "trim": "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}",
    "strip": "{% for m in messages %}{% if m.content is string %}[{{ m.content.strip() }}|{{ m.content.rstrip('\\n') }}]{% endif %}{% endfor %}",
    "first and last": "{% for m in messages %}{{ '<' if loop.first else '' }}{{ m.role }}{{ '>' if loop.last else ',' }}{% endfor %}",
    "loop numbers": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.length }};{% endfor %}",
    "neighbours": "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}-{{ loop.nextitem.role if not loop.last else 'end' }} {% endfor %}",
    "changed": "{% for m in messages %}{{ 'new ' if loop.changed(m.role) }}{% endfor %}",
    "cycle": "{% for m in messages %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "depth": "{% for m in messages recursive %}{{ loop.depth }}{{ m.role }}{% endfor %}",
    "slices": "{{ messages[1:] | length }}{{ messages[-1].role }}{{ messages[:-1][0].role }}{{ messages[::-1][0].role }}",
    "backwards": "{% set ns = namespace(last=-1, open=true) %}{% for m in messages[::-1] %}{% set at = messages | length - 1 - loop.index0 %}{% if ns.open and m.role == 'user' %}{% set ns.open = false %}{% set ns.last = at %}{% endif %}{% endfor %}{{ ns.last }}",
    "system first": "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set system = 'none' %}{% set rest = messages %}{% endif %}{{ system }}/{{ rest | length }}",
    "alternation": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
    "thoughts cut": "{% for m in messages %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}|{{ m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] }}{% endif %}{% endfor %}",
    "thoughts kept": "{% for m in messages %}{% if m.reasoning_content is defined and m.reasoning_content is not none %}<think>{{ m.reasoning_content }}</think>{% endif %}{% endfor %}",
    "thinking option": "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% elif enable_thinking is defined and enable_thinking is true %}on{% else %}open{% endif %}",
    "generation prompt": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ add_generation_prompt }}",
    "whitespace control": "{%- for m in messages -%}\n  {{- m.role -}}\n  {%+ if true %} x {% endif +%}\n{%- endfor %}\n\n",
    "trimmed blocks": "{% for m in messages %}\n    {% if true %}\n    {{ m.role }}\n    {% endif %}\n{% endfor %}\nend\n",
    "comments": "a{# not said #}b\n{#- nor this -#}\nc",
    "raw": "{% raw %}{{ not }} {% a %}{% endraw %}",
    "macro": "{% macro line(role, text='(none)', end='\\n') %}{{ role ~ ': ' ~ text ~ end }}{% endmacro %}{{ line('a') }}{{ line('b', 'c', end='!') }}",
    "macro that recurs": "{% macro kind(p) %}{% if p.type == 'array' %}{{ kind(p['items']) }}[]{% elif p.type == 'object' %}{ {% for k, v in p.properties.items() %}{{ k }}: {{ kind(v) }}, {% endfor %}}{% elif p.type is iterable and p.type is not string %}{{ p.type | join(' | ') }}{% else %}{{ p.type }}{% endif %}{% endmacro %}{% for t in tools or [] %}{% if t.function.parameters %}{{ kind(t.function.parameters) }}{% endif %}{% endfor %}",
    "call block": "{% macro box(n) %}[{{ caller(n) }}]{% endmacro %}{% call(k) box(3) %}x{{ k }}{% endcall %}",
    "set block": "{% set text %}{% for m in messages %}{{ m.role }} {% endfor %}{% endset %}<{{ text }}>{{ text | length }}",
    "filter block": "{% filter upper %}{% for m in messages %}{{ m.role }}{% endfor %}{% endfilter %}",
    "with": "{% with a = 1, b = 'z' %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "for else": "{% for m in messages if m.role == 'nobody' %}x{% else %}none{% endfor %}",
    "for if": "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.role }}{% endfor %}",
    "continue": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "scope of set": "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}",
    "select": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | join(',') }}",
    "map and join": "{{ messages | map(attribute='role') | map('upper') | unique | join('-') }}",
    "default": "{{ nothing | default('d') }}{{ messages[0].name | default('n') }}{{ '' | default('e', true) }}",
    "items": "{% for k, v in messages[0] | items %}{{ k }}{% endfor %}{% for k, v in messages[0].items() %}{{ k }}{% endfor %}{{ messages[0].keys() | list }}",
    "dictsort": "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "get": "{{ messages[0].get('name', 'nobody') }}{{ messages[0].get('role') }}{{ messages[0]['absent'] }}{{ messages[0].absent is none }}",
    "tests": "{{ messages is sequence }}{{ messages is mapping }}{{ messages[0] is mapping }}{{ messages[0].role is string }}{{ 3 is odd }}{{ 3 is number }}{{ none is none }}{{ true is boolean }}{{ 4 is divisibleby 2 }}{{ 1.5 is float }}",
    "in": "{{ 'user' in messages[0].role }}{{ 'role' in messages[0] }}{{ 'x' not in ['y'] }}",
    "parts of content": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% elif c['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endif %}/{% endfor %}",
    "tools as JSON": "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}",
    "tools indented": "{% if tools is not none %}{{ tools | tojson(indent=4) }}{% endif %}",
    "parameters": "{% for t in tools or [] %}{% set f = t.function %}{{ f.name }}({% for n, p in (f.parameters.properties or {}) | items %}{{ n }}{{ '' if n in f.parameters.required else '?' }}: {{ p.type }}{% if p.enum %} of {{ p.enum | tojson }}{% endif %}{% if p.default is defined %} = {{ p.default }}{% endif %}{{ ', ' if not loop.last }}{% endfor %})\n{% endfor %}",
    "calls": '{% for m in messages %}{% if m.tool_calls %}{% for tool_call in m.tool_calls %}{% if tool_call.function is defined %}{% set tool_call = tool_call.function %}{% endif %}<tool_call>\n{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}}\n</tool_call>{% endfor %}{% endif %}{% endfor %}{{ tools | length if tools }}',
    "call parameters": "{% for m in messages %}{% for call in m.tool_calls or [] %}{% for name, value in call.function.arguments | items %}<parameter={{ name }}>{{ value | tojson if value is mapping or (value is iterable and value is not string) else value | string }}</parameter>{% endfor %}{% endfor %}{% endfor %}{{ tools is defined }}",
    "answers of tools": "{% for m in messages %}{% if m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<user>{% endif %}<r>{{ m.content }}</r>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}</user>{% endif %}{% endif %}{% endfor %}{{ tools | length if tools else 0 }}",
    "ids of calls": "{% for m in messages %}{% for call in m.tool_calls or [] %}{% if call.id is defined and call.id | length == 9 %}{{ call.id }}{% else %}no id{% endif %};{% endfor %}{% endfor %}{{ tools is none }}",
    "concatenation": "{{ bos_token + messages[0].role + ' ' ~ 1 ~ none ~ true }}{{ 'ab' * 2 }}{{ '%s-%03d' % ('x', 7) }}{{ '{:>4}|{}'.format('r', 2) }}",
    "arithmetic": "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ 7 / 2 }}{{ -3 | abs }}{{ 2.7 | round | int }}{{ [1, 2] + [3] }}{{ (1, 'a') }}{{ {'k': none} }}",
    "custom option": "{% if custom is defined %}{{ custom | sort }}{{ custom | sum }}{{ custom | max }}{{ custom | first }}{{ custom | last }}{{ custom | reverse | list }}{% endif %}",
    "text methods": "{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'a-b-c'.replace('-', '+', 1) }}{{ 'a b'.title() }}{{ ' x '.lstrip() }}|{{ 'a,b'.split(',') }}{{ 'ab'.upper().lower().find('b') }}{{ 'x'.join(['1', '2']) }}",
    "text filters": "{{ 'a b' | capitalize }}{{ 'a b' | title }}{{ 'x' | upper | lower }}{{ 'abc' | replace('b', 'B') }}{{ 'a\\nb' | indent(2) }}{{ 'abc' | list }}{{ 'a' | center(5) }}|{{ 'abcdef' | truncate(5) }}{{ 5 | string | length }}",
    "escapes": "{{ '<b>' | e }}{{ '<b>' | safe }}{{ '<｜User｜>\\t\\u00e9' }}{{ \"it's\" }}{{ '\\\\n' }}",
    "numbers of JSON": "{{ {'a': 1.0, 'b': 1e20, 'c': 'é\\u2028', 'd': [true, none, {}]} | tojson }}",
    "JSON in an order": "{{ {'b': 1, 'a': {'d': 1, 'c': '<&>'}} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "ranges": "{% for n in range(3) %}{{ n }}{% endfor %}{% for n in range(messages | length - 1, -1, -1) %}{{ n }}{% endfor %}",
    "conditions": "{{ 'a' if false }}{{ 'b' if messages and not tools else 'c' }}{{ (messages | length > 1 and 'x') or 'y' }}",
    "namespace of lists": "{% set ns = namespace(texts=[], count=0) %}{% for m in messages %}{% set ns.texts = ns.texts + [m.role] %}{% set ns.count = ns.count + 1 %}{% endfor %}{{ ns.texts | join('|') }}{{ ns.count }}",
    "list that grows": "{% set found = [] %}{% for m in messages %}{% set _ = found.append(m.role) %}{% endfor %}{{ found }}",
    "refusal": "{{ raise_exception('Only text is supported') }}",
    "undefined attribute": "{{ messages[0].absent.deeper }}",
    "several loops": "{% for m in messages %}{% set outer = loop %}{% for n in 'ab' %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "unpacking": "{% for a, b in [('x', 1), ('y', 2)] %}{{ a }}{{ b }}{% endfor %}{% set c, d = 'pq' %}{{ d }}{{ c }}",
    "groups": "{% for role, those in messages | groupby('role') %}{{ role }}{{ those | length }} {% endfor %}",
    "pieces": "{% for row in [1, 2, 3, 4, 5] | batch(2) %}{{ row }}{% endfor %}{{ [1, 2, 3] | slice(2) | list }}",
    "date given": "{% if strftime_now is defined %}{{ strftime_now('%%') }}{% endif %}{{ date_string is defined }}",
}
"""Jinja by what it shows."""
