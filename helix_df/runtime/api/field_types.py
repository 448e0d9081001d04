"""Types of fields of several bodies: lists of a bounded price, however wrong they are."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema


class FirstErrorOnly:
    """Annotates a list that is checked up to its first wrong item: nobody reads a million errors, but making them takes
    gigabytes. (Pydantic's own ``FailFast`` can't be part of a union.)"""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return cast(CoreSchema, {**handler(source), "fail_fast": True})


FIRST_ERROR_ONLY = FirstErrorOnly()
Strings = Annotated[list[str], FIRST_ERROR_ONLY]
TokenIds = Annotated[list[int], FIRST_ERROR_ONLY]
TokenIdLists = Annotated[list[TokenIds], FIRST_ERROR_ONLY]
TextsOrIds = str | Strings | TokenIds | TokenIdLists
Messages = Annotated[list[dict[str, Any]], FIRST_ERROR_ONLY]


def each_text(asked: TextsOrIds) -> tuple[str | tuple[int, ...], ...]:
    """The texts, one or several, each in words or in token ids."""
    if isinstance(asked, str):
        return (asked,)
    if asked and isinstance(asked[0], int):
        return (tuple(token for token in asked if isinstance(token, int)),)
    return tuple(one if isinstance(one, str) else tuple(one) for one in asked if not isinstance(one, int))
