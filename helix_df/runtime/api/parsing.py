"""From the bytes of a request to a checked body, at a bounded price.

Owns how much a body may hold, and which error is told: the first. Parsing holds the interpreter for as long as it
takes, whichever thread it runs in, so what would take long is refused before: a body of four million bytes may hold a
text of that length or two million token ids, but not a million objects. Doesn't know the parameters (``bodies``).
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from helix_df.errors import RequestError
from helix_df.runtime.api.refusals import invalid, refused_names, shortened
from helix_df.runtime.api.request_body import RequestBody
from helix_df.runtime.api.stream import read_json_body

SMALL_BYTES = 64 * 1024
"""Bodies up to this are parsed where they are read: sooner done than handed to a thread."""

MAX_PARTS = 200_000
"""Objects, lists and fields in a body. Each costs as much as a hundred characters of text."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

AnyBody = TypeVar("AnyBody", bound=RequestBody)


class BodyReader:
    """Reads bodies of up to ``limit_bytes``; of large ones, one after another, off the event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._large = asyncio.Lock()

    async def read(self, kind: type[AnyBody], request: Request) -> AnyBody:
        """The checked body of a request.

        Raises:
            RequestError: as ``read_json_body`` and ``parse_body``.
        """
        raw = await read_json_body(request, self._limit_bytes)
        if len(raw) <= SMALL_BYTES:
            return parse_body(kind, raw)
        async with self._large:
            return await asyncio.to_thread(parse_body, kind, raw)


def parse_body(kind: type[AnyBody], raw: bytes) -> AnyBody:
    """The request in a body of JSON.

    Raises:
        RequestError: when it isn't JSON, holds too many parts, has parameters that are unknown or unsupported (all are
            named), or one that is out of range.
    """
    said = {name: value for name, value in _read_object(raw).items() if value is not None}
    harmless = tuple(name for name in said if name in kind.harmless)
    given = {name: value for name, value in said.items() if name not in kind.harmless}
    unsupported = [
        name
        for name, nothing in kind.unsupported.items()
        if name in given and not _asks_for_nothing(given.pop(name), nothing)
    ]
    unknown = [name for name in given if name not in kind.model_fields]
    if unsupported or unknown:
        raise refused_names(unsupported, unknown)
    try:
        body = kind.model_validate(given)
    except ValidationError as error:
        raise _explain(kind, error) from None  # the error holds all that was sent
    body.ignore(harmless)
    body.check()
    return body


def _asks_for_nothing(value: object, nothing: tuple[object, ...]) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in nothing)


def _read_object(raw: bytes) -> dict[str, Any]:
    if raw.count(b"[") + raw.count(b"{") + raw.count(b":") > MAX_PARTS and _parts(raw) > MAX_PARTS:
        raise RequestError(
            f"The body of the request holds more than {MAX_PARTS} objects, lists and fields.",
            code="request_too_complex",
        )
    try:
        document = from_json(raw.removeprefix(_BYTE_ORDER_MARK), allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The body of the request is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(document, dict):
        raise RequestError("The body of the request is not a JSON object", code="invalid_json")
    return document


def _parts(raw: bytes) -> int:
    """Objects, lists and fields: brackets and colons outside strings."""
    outside = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    return sum(piece.count(b"[") + piece.count(b"{") + piece.count(b":") for piece in outside)


def _explain(kind: type[RequestBody], error: ValidationError) -> RequestError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = found[0]
    name = str(first["loc"][0])
    if name in kind.nested:  # of the kinds that a part may be of, the one that fits best
        inner = [one for one in found if one["loc"][0] == name]
        first = max(inner, key=lambda one: (len(one["loc"]), one["loc"][-1] == "type"))
    path = _path(first["loc"]) if name in kind.nested else name
    if first["type"] == "missing":
        return RequestError(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")
    if first["type"] == "extra_forbidden" and path != name:
        return refused_names([], [path])
    expected = kind.model_fields[name].description if path == name else None
    return invalid(path, first["msg"] if expected is None else f"expected {expected}")


def _path(place: tuple[int | str, ...]) -> str:
    """``tools[0].function.name``; pydantic's names of kinds are left away."""
    place = tuple(one for one in place if isinstance(one, int) or (one.isidentifier() and one != "str"))
    return shortened("".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in place).removeprefix("."))
