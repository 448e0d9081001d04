"""Frozen dataclasses as JSON and back, by their fields' types: what processes of one search tell each other.

Owns that one translation, without loss. Doesn't check: documents come from ``encode`` in a process of the same
release.
"""

from __future__ import annotations

import types
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

T = TypeVar("T")


def encode(value: object) -> Any:
    """A value in lists, numbers, texts and mappings by text; other mappings are lists of pairs."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: encode(one) for key, one in value.items()}
        return [[encode(key), encode(one)] for key, one in value.items()]
    if isinstance(value, Set):
        return sorted(encode(one) for one in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [encode(one) for one in value]
    return value


def decode(kind: type[T], document: Any) -> T:
    """The value of a type that ``encode`` made the document of."""
    value: T = _decode(kind, document)
    return value


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, document: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        chosen = next(one for one in arguments if one is not types.NoneType)
        return None if document is None else _decode(chosen, document)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{name: _decode(hints[name], one) for name, one in document.items()})
    if origin is tuple:
        kinds = [arguments[0]] * len(document) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(one, part) for one, part in zip(kinds, document, strict=True))
    if kind is bytes:
        return b64decode(document)
    if origin is np.ndarray:
        return np.array(document, dtype=get_args(arguments[1])[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        pairs = document.items() if isinstance(document, dict) else document
        return {_decode(arguments[0], key): _decode(arguments[1], one) for key, one in pairs}
    if isinstance(origin, type) and issubclass(origin, Set):
        return frozenset(document)
    return document
