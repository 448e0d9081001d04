"""Variables of the environment in a job's values: ``${env:NAME}``, ``${env:NAME:-default}``.

Owns how they are written and filled in. Doesn't know YAML. Nothing else in a value is special: not ``$NAME``, not
``${NAME}``; and ``$${env:`` is the text ``${env:`` itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from helix_df.spec.mistakes import Refusal

START = "${env:"

NO_VARIABLES: Mapping[str, str] = {}

_FORM = "${env:NAME} or ${env:NAME:-default}"
_VARIABLE = re.compile(
    r"(?P<escaped>\$\$\{env:)|\$\{env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|(?P<wrong>\$\{env:)"
)


def asks(text: str) -> bool:
    """Whether a text asks for a variable, or has the sign of one."""
    return START in text


def is_one_variable(text: str) -> bool:
    """Whether a text is a variable and nothing else."""
    match = _VARIABLE.fullmatch(text)
    return match is not None and match["name"] is not None


def filled(text: str, environment: Mapping[str, str]) -> str:
    """The text with the values of variables; a default stands for one that is unset or empty.

    Raises:
        Refusal: for a variable that is unset and has no default, and what is no variable's form.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match["escaped"]:
            return START
        if match["wrong"]:
            raise Refusal("this is not how a variable is written", f"{_FORM}; $${{env: is the text itself")
        found = environment.get(name)
        if default is not None:
            return found or default
        if found is None:
            raise Refusal(
                f"the environment variable {name} isn't set", f"{name} in the environment, or ${{env:{name}:-default}}"
            )
        return found

    return _VARIABLE.sub(value, text)
