"""What an answer has to look like, as plain data; making masks of it is ``grammars``' work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from helix_df.errors import RequestError

ConstraintKind = Literal["json_schema", "regex", "lark"]

MOST_CONSTRAINT_BYTES = 2**17
"""Of a constraint's text in UTF-8."""

WHITESPACE = r"[ \t\r\n]{1,32}"
"""Between the parts of a JSON text: a model that has nothing to say can't go on with it for ever."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """The whole answer is in a language: that of a JSON Schema, of a regular expression, or of a grammar.

    ``text`` is the schema as JSON, the expression (Rust's syntax, of the whole answer), or the grammar in llguidance's
    dialect of Lark, with ``start`` as its first rule.

    Raises:
        RequestError: for a text that is too long, or isn't text.
    """

    kind: ConstraintKind
    text: str

    def __post_init__(self) -> None:
        try:
            size = len(self.text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise RequestError(
                "a constraint isn't text that can be encoded",
                code="invalid_value",
                found=f"half of a surrogate pair at character {error.start}",
            ) from error
        if size > MOST_CONSTRAINT_BYTES:
            raise RequestError(
                "a constraint is too long",
                code="invalid_value",
                found=f"{size} bytes",
                expected=f"{MOST_CONSTRAINT_BYTES} at most",
            )

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool, *, whitespace: str | None = WHITESPACE) -> Constraint:
        """A JSON text that a schema describes.

        Args:
            schema: JSON Schema; what can't be kept to is refused when it is compiled.
            whitespace: a regular expression of what may stand between its parts, or nothing may if None.
        """
        options = {"whitespace_flexible": False} if whitespace is None else {"whitespace_pattern": whitespace}
        body = schema if isinstance(schema, Mapping) else {} if schema else {"enum": []}
        own = body.get("x-guidance")
        return cls("json_schema", json.dumps({**body, "x-guidance": {**options, **(own if type(own) is dict else {})}}))

    @classmethod
    def json_object(cls, *, whitespace: str | None = WHITESPACE) -> Constraint:
        """Any JSON object."""
        return cls.json_schema({"type": "object"}, whitespace=whitespace)

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """A text that matches a regular expression as a whole."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, options: Sequence[str]) -> Constraint:
        """One of some texts, none of which is empty."""
        return cls("lark", "start: " + " | ".join(json.dumps(option, ensure_ascii=False) for option in options))

    @classmethod
    def lark(cls, grammar: str) -> Constraint:
        """A text of a context-free grammar."""
        return cls("lark", grammar)
