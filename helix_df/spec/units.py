"""Quantities as people write them: ``16GiB``, ``10Gbps``, ``1.2GB/s``, ``50ms``, ``65TFLOPS``.

Bits and bytes are told apart by the unit alone: ``b`` is a bit, ``B`` is a byte, and a bare number is refused wherever
the two could be confused. Everything becomes SI base units in float: bytes, bytes/s, seconds, FLOP/s.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIXES = _DECIMAL | _BINARY
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/]*)\s*")

_PREFIX = "(?:[KMGT]i|[kKMGTP])?"
_SIZE_UNIT = re.compile(f"({_PREFIX})B")
_BIT_RATE_UNIT = re.compile(f"({_PREFIX})(?:bps|b/s|bit/s)")
_BYTE_RATE_UNIT = re.compile(f"({_PREFIX})(?:B/s|Bps)")
_COMPUTE_UNIT = re.compile("([kKMGTP]?)(?:FLOPS|FLOP/s|flops)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def _split(text: object, expected: str) -> tuple[float, str]:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"expected {expected}")
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"expected {expected}")
    value = float(match[1])
    if not math.isfinite(value):
        raise ValueError("the number is too large")
    return value, match[2]


def parse_size(text: object) -> float:
    """Bytes of ``16GiB`` or ``16GB``.

    Raises:
        ValueError: without a byte unit; ``Gb`` (bits) is refused for a size.
    """
    expected = "a size in bytes such as 16GiB or 700MB"
    value, unit = _split(text, expected)
    match = _SIZE_UNIT.fullmatch(unit)
    if match is None:
        raise ValueError(f"expected {expected}" + ("; the unit is missing" if not unit else f"; {unit!r} is no size"))
    return value * _PREFIXES[match[1]]


def parse_bandwidth(text: object) -> float:
    """Bytes/s of ``10Gbps`` (bits) or ``1.25GB/s`` (bytes).

    Raises:
        ValueError: without a unit that tells bits from bytes, or for zero.
    """
    expected = "a rate such as 10Gbps (bits) or 1.25GB/s (bytes)"
    value, unit = _split(text, expected)
    bits, bytes_ = _BIT_RATE_UNIT.fullmatch(unit), _BYTE_RATE_UNIT.fullmatch(unit)
    if bits is not None:
        value = value * _PREFIXES[bits[1]] / 8
    elif bytes_ is not None:
        value = value * _PREFIXES[bytes_[1]]
    else:
        raise ValueError(f"expected {expected}" + ("; the unit is missing" if not unit else f"; {unit!r} is no rate"))
    if value <= 0:
        raise ValueError("a link needs a bandwidth above zero; leave the link out if there is none")
    return value


def parse_duration(text: object) -> float:
    """Seconds of ``50ms``, ``2min`` or ``1.5s``.

    Raises:
        ValueError: without a unit of time.
    """
    expected = "a time such as 50ms, 60s or 2min"
    value, unit = _split(text, expected)
    if unit not in _SECONDS:
        raise ValueError(f"expected {expected}" + ("; the unit is missing" if not unit else f"; {unit!r} is no time"))
    return value * _SECONDS[unit]


def parse_compute(text: object) -> float:
    """FLOP/s of ``65TFLOPS``.

    Raises:
        ValueError: without the unit, or for zero.
    """
    expected = "a compute rate such as 65TFLOPS"
    value, unit = _split(text, expected)
    match = _COMPUTE_UNIT.fullmatch(unit)
    if match is None:
        raise ValueError(f"expected {expected}")
    if value <= 0:
        raise ValueError("a device needs a compute rate above zero")
    return value * _DECIMAL[match[1]]


def _scaled(value: float, prefixes: dict[str, float], suffix: str) -> str:
    """The longest prefix that writes the number exactly; ``parse(format(x)) == x`` always holds."""
    for prefix, scale in sorted(prefixes.items(), key=lambda item: -item[1]):
        short = f"{value / scale:.12g}"
        if value >= scale and float(short) * scale == value:
            return f"{short}{prefix}{suffix}"
    return f"{value!r}{suffix}"


def format_size(value: float) -> str:
    """Bytes as text that ``parse_size`` reads back exactly."""
    return _scaled(value, _BINARY if value % 1024 == 0 and value > 0 else _DECIMAL, "B")


def format_bandwidth(value: float) -> str:
    """Bytes/s as text that ``parse_bandwidth`` reads back exactly."""
    return _scaled(value, _DECIMAL, "B/s")


def format_duration(value: float) -> str:
    """Seconds as text that ``parse_duration`` reads back exactly."""
    return f"{value!r}s"


def format_compute(value: float) -> str:
    """FLOP/s as text that ``parse_compute`` reads back exactly."""
    return _scaled(value, _DECIMAL, "FLOPS")


def _schema(description: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": [example]})


Size = Annotated[
    float, BeforeValidator(parse_size), PlainSerializer(format_size), _schema("a size in bytes", "16GiB")
]
Bandwidth = Annotated[
    float,
    BeforeValidator(parse_bandwidth),
    PlainSerializer(format_bandwidth),
    _schema("bits/s (Gbps) or bytes/s (GB/s)", "10Gbps"),
]
Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(format_duration), _schema("a time", "50ms")
]
Compute = Annotated[
    float, BeforeValidator(parse_compute), PlainSerializer(format_compute), _schema("a compute rate", "65TFLOPS")
]
