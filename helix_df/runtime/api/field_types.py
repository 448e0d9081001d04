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
Messages = Annotated[list[dict[str, Any]], FIRST_ERROR_ONLY]
