"""Quantities as people write them: ``16GiB``, ``10Gbps``, ``1.2GB/s``, ``50ms``, ``65TFLOPS``.

Bits and bytes are told apart by the unit alone: ``b`` is a bit, ``B`` is a byte, and a bare number is refused wherever
the two could be confused. Everything becomes SI base units in float: bytes, bytes/s, seconds, FLOP/s. Every formatter
writes text that its parser reads back to the same float.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from helix_df.spec.mistakes import Refusal

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIXES = _DECIMAL | _BINARY
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
_QUANTITY = re.compile(rf"\s*(-?{_NUMBER})\s*([A-Za-zµ/]*)\s*")

_PREFIX = "(?:[KMGT]i|[kKMGTP])?"
_SIZE_UNIT = re.compile(f"({_PREFIX})B")
_BIT_RATE_UNIT = re.compile(f"({_PREFIX})(?:bps|b/s|bit/s)")
_BYTE_RATE_UNIT = re.compile(f"({_PREFIX})(?:B/s|Bps)")
_COMPUTE_UNIT = re.compile("([kKMGTP]?)(?:FLOPS|FLOP/s|flops)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}

_SIZE = "a size in bytes such as 16GiB or 700MB"
_BANDWIDTH = "a rate such as 10Gbps (bits) or 1.25GB/s (bytes)"
_DURATION = "a time such as 50ms, 60s or 2min"
_COMPUTE = "a compute rate such as 65TFLOPS"


class UnitError(Refusal):
    """Text that is no quantity of the kind asked for."""


def _split(text: object, what: str, expected: str) -> tuple[float, str]:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UnitError(f"this is not {what}", expected)
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise UnitError(f"this is not {what}", expected)
    value = float(match[1])
    if not math.isfinite(value):
        raise UnitError("the number is too large", expected)
    if value < 0:
        raise UnitError(f"{what} can't be negative", expected)
    return value, match[2]


def _wrong_unit(unit: str, what: str, expected: str) -> UnitError:
    return UnitError(f"{unit!r} is no unit of {what}" if unit else f"the unit of {what} is missing", expected)


def _finite(value: float, expected: str) -> float:
    if not math.isfinite(value):
        raise UnitError("the number is too large", expected)
    return value


def parse_size(text: object) -> float:
    """Bytes of ``16GiB`` or ``16GB``.

    Raises:
        UnitError: without a byte unit (``Gb``, bits, is refused for a size), or for zero.
    """
    value, unit = _split(text, "a size", _SIZE)
    match = _SIZE_UNIT.fullmatch(unit)
    if match is None:
        raise _wrong_unit(unit, "a size", _SIZE)
    if value == 0:
        raise UnitError("a size must be above zero", _SIZE)
    return _finite(value * _PREFIXES[match[1]], _SIZE)


def parse_bandwidth(text: object) -> float:
    """Bytes/s of ``10Gbps`` (bits) or ``1.25GB/s`` (bytes).

    Raises:
        UnitError: without a unit that tells bits from bytes, or for zero.
    """
    value, unit = _split(text, "a bandwidth", _BANDWIDTH)
    bits, bytes_ = _BIT_RATE_UNIT.fullmatch(unit), _BYTE_RATE_UNIT.fullmatch(unit)
    if bits is not None:
        value = value * _PREFIXES[bits[1]] / 8
    elif bytes_ is not None:
        value = value * _PREFIXES[bytes_[1]]
    elif not unit:
        raise UnitError("the unit is missing, so bits and bytes can't be told apart", _BANDWIDTH)
    else:
        raise _wrong_unit(unit, "bandwidth", _BANDWIDTH)
    if value == 0:
        raise UnitError("a bandwidth must be above zero; where there is no link, leave it out", _BANDWIDTH)
    return _finite(value, _BANDWIDTH)


def parse_duration(text: object) -> float:
    """Seconds of ``50ms``, ``2min`` or ``1.5s``; a bare 0 needs no unit.

    Raises:
        UnitError: without a unit of time, or for a negative one.
    """
    value, unit = _split(text, "a time", _DURATION)
    if value == 0 and not unit:
        return 0.0
    if unit not in _SECONDS:
        raise _wrong_unit(unit, "time", _DURATION)
    return _finite(value * _SECONDS[unit], _DURATION)


def parse_compute(text: object) -> float:
    """FLOP/s of ``65TFLOPS``.

    Raises:
        UnitError: without the unit, or for zero.
    """
    value, unit = _split(text, "a compute rate", _COMPUTE)
    match = _COMPUTE_UNIT.fullmatch(unit)
    if match is None:
        raise _wrong_unit(unit, "a compute rate", _COMPUTE)
    if value == 0:
        raise UnitError("a compute rate must be above zero", _COMPUTE)
    return _finite(value * _DECIMAL[match[1]], _COMPUTE)


def _scaled(value: float, units: dict[str, float]) -> str:
    """The number in the largest unit that it reaches and that writes it exactly."""
    for unit, scale in sorted(units.items(), key=lambda item: -item[1]):
        short = f"{value / scale:.12g}"
        if value >= scale and float(short) * scale == value:
            return f"{short}{unit}"
    base = next(unit for unit, scale in units.items() if scale == 1.0)
    short = f"{value:g}"
    return f"{short if float(short) == value else repr(value)}{base}"


def _prefixed(prefixes: dict[str, float], suffix: str) -> dict[str, float]:
    return {prefix + suffix: scale for prefix, scale in prefixes.items() if prefix != "K"}


def format_size(value: float) -> str:
    """Bytes as text that ``parse_size`` reads back exactly."""
    binary = _BINARY | {"": 1.0}
    return _scaled(value, _prefixed(binary if value % 1024 == 0 else _DECIMAL, "B"))


def format_bandwidth(value: float) -> str:
    """Bytes/s as text that ``parse_bandwidth`` reads back exactly."""
    return _scaled(value, _prefixed(_DECIMAL, "B/s"))


def format_duration(value: float) -> str:
    """Seconds as text that ``parse_duration`` reads back exactly."""
    return _scaled(value, {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9})


def format_compute(value: float) -> str:
    """FLOP/s as text that ``parse_compute`` reads back exactly."""
    return _scaled(value, _prefixed(_DECIMAL, "FLOPS"))


def _schema(kind: str, unit: str, example: str, zero: bool = False) -> WithJsonSchema:
    schema = {"type": "string", "format": kind, "pattern": rf"^\s*{_NUMBER}\s*{unit}\s*$", "examples": [example]}
    return WithJsonSchema(schema | ({"type": ["string", "number"], "minimum": 0, "maximum": 0} if zero else {}))


Size = Annotated[
    float,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    _schema("size", f"{_PREFIX}B", "16GiB"),
]
Bandwidth = Annotated[
    float,
    BeforeValidator(parse_bandwidth),
    PlainSerializer(format_bandwidth, return_type=str),
    _schema("bandwidth", f"{_PREFIX}(?:bps|b/s|bit/s|B/s|Bps)", "10Gbps"),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    _schema("duration", "(?:ns|us|µs|ms|s|min|m|h)", "50ms", zero=True),
]
Compute = Annotated[
    float,
    BeforeValidator(parse_compute),
    PlainSerializer(format_compute, return_type=str),
    _schema("compute", "[kKMGTP]?(?:FLOPS|FLOP/s|flops)", "65TFLOPS"),
]
