"""JSON Schemas over the constructs of the language, each with a bounded answer: a random model draws whatever it may.

Every family is one construct, alone and among others. Strings, arrays and numbers have bounds, and objects are closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def closed(required: Schema, optional: Schema | None = None) -> Schema:
    """An object with these properties and no others."""
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def text(most: int = 6, **more: Any) -> Schema:
    """A short string."""
    return {"type": "string", "maxLength": most, **more}


def between(least: float, most: float, kind: str = "integer") -> Schema:
    """A number in a range."""
    return {"type": kind, "minimum": least, "maximum": most}


def _numbers() -> Iterator[Schema]:
    for least, most in ((0, 9), (-5, 5), (10, 99), (-100, -1), (0, 0), (7, 1000), (-3, 12345), (999, 1001)):
        yield between(least, most)
    for low, high in ((0, 1), (-1, 1), (0.5, 2.5), (-10.25, 10.25), (100, 1000.5)):
        yield closed({"x": between(low, high, "number") | {"multipleOf": 0.25}})
    yield {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 8}
    yield {"type": "integer", "minimum": 0, "exclusiveMaximum": 100}
    yield {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700}
    yield {"type": "integer", "multipleOf": 10, "minimum": -50, "maximum": 50}
    for bound in (1, 12, 123, 12345):
        yield {"type": "integer", "exclusiveMinimum": -bound, "exclusiveMaximum": bound}
        yield closed({"n": between(0, bound)}, {"m": between(-bound, 0)})
    yield {"enum": [1, 2.5, -3, 1e3]}
    yield {"const": 42}
    yield {"const": -0.5}


def _strings() -> Iterator[Schema]:
    for most in (0, 1, 2, 8, 20):
        yield text(most)
    for least, most in ((1, 1), (3, 3), (2, 5), (10, 12)):
        yield text(most, minLength=least)
    patterns = (
        "^[a-z]{1,8}$", "^[A-Z][a-z]{2,6}$", "^[0-9]{3}-[0-9]{4}$", "^(red|green|blue)$", "^a{2,4}b?$",
        "^x[0-9a-f]{6}$", "^😀{1,2}$",
        "^\\d{4}$", "^\\w{1,5}$", "^[äöü]{1,3}$", "^[\\u0391-\\u03c9]{2}$", "^(ab|cd){1,3}$", "^[^a-z\"\\\\]{1,3}$",
        "^.{4}$", "^[ -~]{2,6}$", "^(?:one|two) (?:cats|dogs)$", "^\\$[0-9]{1,3}\\.[0-9]{2}$", "^\\S{1,4}$",
    )  # fmt: skip
    for pattern in patterns:
        yield {"type": "string", "pattern": pattern}
    for shape in ("date", "time", "date-time", "uuid", "ipv4", "email", "hostname", "duration", "ipv6"):
        yield {"type": "string", "format": shape, "maxLength": 36}
    for least, most in ((1, 2), (4, 4), (3, 9)):
        yield {"type": "array", "items": text(most, minLength=least), "minItems": 1, "maxItems": 2}
    for pattern in ("^[a-z]+$", "^ab*c$", "[0-9]{2}"):
        yield {"type": "string", "pattern": pattern, "maxLength": 8}
    yield {"enum": ["a", "b", "c"]}
    yield {"enum": ['with "quotes"', "back\\slash", "new\nline", "tab\t"]}
    yield {"enum": ["ä", "日本", "😀", "e\u0301"]}
    yield {"const": ""}
    yield {"const": "exactly this"}


def _plain() -> Iterator[Schema]:
    yield {"type": "boolean"}
    yield {"type": "null"}
    yield {"enum": [None, True, False, 0, "", [], {}]}
    yield {"const": None}
    yield {"const": [1, [2, {"a": None}]]}
    yield {"const": {"a": 1, "b": [True, "x"]}}
    yield {"enum": [{"kind": "a"}, {"kind": "b"}, [1, 2, 3]]}
    yield {"type": ["boolean", "null"]}
    yield {"type": ["integer", "null"], "minimum": 0, "maximum": 99}
    yield {"type": ["string", "boolean"], "maxLength": 4}


def _arrays() -> Iterator[Schema]:
    items: list[Schema] = [between(0, 9), text(3), {"type": "boolean"}, {"enum": ["x", "y"]}, {"type": "null"}]
    for item in items:
        for least, most in ((0, 2), (1, 3), (2, 2)):
            yield {"type": "array", "items": item, "minItems": least, "maxItems": most}
    yield {"type": "array", "maxItems": 0}
    yield {"type": "array", "prefixItems": [between(0, 9), text(2)], "items": False, "minItems": 2}
    yield {
        "type": "array",
        "prefixItems": [{"const": "head"}],
        "items": {"type": "boolean"},
        "minItems": 1,
        "maxItems": 4,
    }
    yield {"type": "array", "items": {"type": "array", "items": between(0, 9), "maxItems": 2}, "maxItems": 3}
    yield {"type": "array", "items": closed({"a": between(0, 9)}, {"b": text(2)}), "minItems": 1, "maxItems": 3}
    yield {"type": "array", "items": {"anyOf": [between(0, 9), {"type": "null"}]}, "minItems": 3, "maxItems": 5}


def _objects() -> Iterator[Schema]:
    yield closed({})
    kinds: dict[str, Schema] = {
        "flag": {"type": "boolean"},
        "count": between(0, 999),
        "name": text(5),
        "tags": {"type": "array", "items": text(2), "maxItems": 2},
        "kind": {"enum": ["a", "b", None]},
    }
    for size in (1, 2):
        for chosen in combinations(kinds, size):
            yield closed({name: kinds[name] for name in chosen})
    for name in kinds:
        yield closed({name: kinds[name]}, {other: kinds[other] for other in kinds if other != name})
    yield closed({}, kinds)
    yield closed({"größe": between(0, 9), "名前": text(2), "a b": {"type": "null"}, 'q"q': {"type": "boolean"}})
    yield closed({"a": closed({"b": closed({"c": closed({"d": between(0, 9)})})})})
    yield closed(
        {"inner": closed({"x": text(2)}, {"y": text(2)}), "list": {"type": "array", "items": closed({}), "maxItems": 2}}
    )
    keys = {"^[a-z]{1,3}$": between(0, 9)}
    yield {"type": "object", "patternProperties": keys, "additionalProperties": False, "maxProperties": 2}
    keys = {"^k_[0-9]$": {"type": "null"}}
    yield {"type": "object", "patternProperties": keys, "additionalProperties": False, "maxProperties": 1}
    yield {
        "type": "object",
        "properties": {"id": between(0, 9)},
        "required": ["id"],
        "patternProperties": {"^x_[a-z]$": {"type": "boolean"}},
        "additionalProperties": False,
        "maxProperties": 3,
    }
    yield {"properties": {"a": between(0, 9)}, "required": ["a"], "type": "object", "additionalProperties": False}
    yield {"title": "told", "description": "nothing", "default": {}, "examples": [1], **closed({"a": {"const": 1}})}


def _choices() -> Iterator[Schema]:
    options: list[Schema] = [
        between(0, 99),
        text(4),
        {"type": "boolean"},
        closed({"a": between(0, 9)}),
        {"type": "null"},
    ]
    for one, other in combinations(options, 2):
        yield {"anyOf": [one, other]}
        yield closed({"x": {"oneOf": [one, other]}})
    yield {"anyOf": options}
    tagged = [closed({"kind": {"const": name}, name: between(0, 9)}) for name in ("circle", "square", "line")]
    yield {"oneOf": tagged}
    yield {"type": "array", "items": {"anyOf": tagged}, "minItems": 1, "maxItems": 3}
    yield {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]}
    yield {"allOf": [closed({"a": between(0, 9), "b": between(0, 9)}), {"properties": {"a": {"minimum": 5}}}]}
    yield closed({"x": {"allOf": [text(5), {"minLength": 2}]}})


def _references() -> Iterator[Schema]:
    for shared in (between(0, 9), text(3), {"enum": ["u", "v"]}, closed({"z": {"type": "boolean"}})):
        yield {"$defs": {"it": shared}, **closed({"a": {"$ref": "#/$defs/it"}, "b": {"$ref": "#/$defs/it"}})}
        yield {"definitions": {"it": shared}, "type": "array", "items": {"$ref": "#/definitions/it"}, "maxItems": 3}
    yield {"$ref": "#/$defs/top", "$defs": {"top": closed({"n": {"$ref": "#/$defs/n"}}), "n": between(1, 6)}}
    yield {"$schema": DRAFT, "$defs": {"a/b": between(0, 9), "c~d": text(2)}, **closed({"x": {"$ref": "#/$defs/a~1b"}})}
    chain: dict[str, Schema] = {f"d{at}": closed({"next": {"$ref": f"#/$defs/d{at + 1}"}}) for at in range(6)}
    yield {"$defs": chain | {"d6": between(0, 9)}, "$ref": "#/$defs/d0"}
    # Depth ends with the alternatives: where a model may always go deeper, nobody can say that it will stop.
    yield {
        "$defs": {
            "leaf": between(0, 9),
            "twig": {"anyOf": [{"$ref": "#/$defs/leaf"}, closed({"l": {"$ref": "#/$defs/leaf"}})]},
        },
        "type": "array",
        "items": {"$ref": "#/$defs/twig"},
        "maxItems": 3,
    }


def _mixed() -> Iterator[Schema]:
    """As people write them."""
    yield closed(
        {"name": text(8), "age": between(0, 130), "email": {"type": "string", "format": "email", "maxLength": 16}}
    )
    yield closed({"city": text(8), "unit": {"enum": ["celsius", "fahrenheit"]}}, {"days": between(1, 14)})
    yield closed(
        {
            "steps": {"type": "array", "items": closed({"why": text(8), "out": text(8)}), "maxItems": 3},
            "answer": text(8),
        }
    )
    yield closed(
        {"sentiment": {"enum": ["positive", "neutral", "negative"]}, "score": {"enum": [0, 0.25, 0.5, 0.75, 1]}}
    )
    yield closed({"id": {"type": "string", "format": "uuid"}, "at": {"type": "string", "format": "date-time"}})
    yield closed(
        {
            "rows": {
                "type": "array",
                "items": {"type": "array", "items": between(0, 1), "minItems": 3, "maxItems": 3},
                "minItems": 2,
                "maxItems": 2,
            }
        }
    )
    yield closed({"tool": {"const": "search"}, "arguments": closed({"query": text(8)}, {"limit": between(1, 50)})})
    yield closed(
        {"phone": {"type": "string", "pattern": "^\\+[0-9]{6,12}$"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}
    )
    yield closed(
        {"matrix": {"type": "array", "prefixItems": [between(0, 9), between(10, 99)], "items": False, "minItems": 2}}
    )
    for depth in range(1, 6):
        schema: Schema = between(0, 9)
        for level in range(depth):
            schema = (
                closed({f"level{level}": schema})
                if level % 2
                else {"type": "array", "items": schema, "minItems": 1, "maxItems": 2}
            )
        yield schema
    for values in ((0, 1), ("low", "high"), (None, "x"), (True, 2), ({"a": 1}, {"a": 2}), ([], [0])):
        yield closed({"chosen": {"enum": list(values)}, "again": {"const": values[0]}})
    for count in (3, 6, 12):
        yield closed({f"field_{at}": ({"type": "boolean"}, between(0, 9), text(2))[at % 3] for at in range(count)})
    for count in (3, 8, 20):
        yield closed({}, {f"maybe_{at}": {"type": "boolean"} for at in range(count)})
    for count in (10, 100):
        yield {"enum": [f"label_{at}" for at in range(count)]}


FAMILIES = {
    "numbers": _numbers,
    "strings": _strings,
    "plain": _plain,
    "arrays": _arrays,
    "objects": _objects,
    "choices": _choices,
    "references": _references,
    "mixed": _mixed,
}

SCHEMAS: dict[str, Schema] = {
    f"{family}-{number}": schema for family, make in FAMILIES.items() for number, schema in enumerate(make())
}
"""Each by its family and number."""
