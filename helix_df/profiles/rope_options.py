"""Rotary settings of a Hugging Face config, in all the places and spellings that there are.

Owns which of ``rope_scaling``, ``rope_parameters`` and ``rope_theta`` counts. Doesn't know frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.geometry import RopeScaling

_KNOWN = frozenset(
    {
        "factor",
        "high_freq_factor",
        "low_freq_factor",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_theta",
        "rope_type",
        "type",
    }
)
_DEFAULT_THETA = 10000.0


def rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the frequencies: that beside the scaling which counts, else the config's own, else 10000."""
    return float(settings(config).get("rope_theta") or config.get("rope_theta") or _DEFAULT_THETA)


def rope_scaling(config: Mapping[str, Any], where: str) -> RopeScaling | None:
    """How the frequencies are stretched, if they are.

    Raises:
        ModelError: for another kind, or settings that contradict each other.
        KeyError: with the number that is missing.
    """
    _check_agreement(config, where)
    rope = settings(config)
    _check_known(rope, where)
    kind = _kind(rope)
    if kind == "default":
        return None
    if kind == "linear":
        return _checked(RopeScaling("linear", float(rope["factor"])), where)
    if kind == "llama3":
        scaling = RopeScaling(
            kind="llama3",
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_context=int(rope["original_max_position_embeddings"]),
        )
        return _checked(scaling, where)
    raise ModelError("this rope scaling isn't supported", where=where, found=kind, expected="default | linear | llama3")


def settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope settings that count: ``rope_scaling`` before ``rope_parameters``, as transformers reads them."""
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _check_agreement(config: Mapping[str, Any], where: str) -> None:
    """Two places may repeat or complete each other; where they differ, nobody can know which was meant."""
    older, newer = config.get("rope_scaling") or {}, config.get("rope_parameters") or {}
    if older and newer and _kind(newer) != "default":
        names = sorted((older.keys() & newer.keys()) - {"type"})
        differing = [name for name in names if older[name] != newer[name]]
        if differing or _kind(older) != _kind(newer):
            raise _contradiction(f"rope_scaling {dict(older)}, rope_parameters {dict(newer)}", where)
    theta = newer.get("rope_theta")
    if older and theta is not None and float(theta) != rope_theta(config):
        raise _contradiction(f"rope_theta {rope_theta(config)}, in rope_parameters {theta}", where)


def _contradiction(found: str, where: str) -> ModelError:
    return ModelError(
        "the model's config contradicts itself about rotary positions",
        where=where,
        found=found,
        expected="rope_parameters or rope_scaling, not two that differ",
    )


def _check_known(rope: Mapping[str, Any], where: str) -> None:
    unknown = sorted(key for key, value in rope.items() if key not in _KNOWN and value not in (None, False))
    partial = rope.get("partial_rotary_factor")
    if partial not in (None, 1):
        unknown = ["partial_rotary_factor", *unknown]
    if unknown and _kind(rope) in ("default", "linear", "llama3"):
        raise ModelError(
            "the model's rope settings have options that aren't supported",
            where=where,
            found=", ".join(f"{key} = {rope[key]!r}" for key in unknown),
            expected=", ".join(sorted(_KNOWN)),
        )


def _checked(scaling: RopeScaling, where: str) -> RopeScaling:
    numbers = (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor)
    ramp = scaling.kind != "llama3" or 0 < scaling.low_freq_factor < scaling.high_freq_factor
    if not all(map(math.isfinite, numbers)) or scaling.factor <= 0 or not ramp or scaling.original_context <= 0:
        raise ModelError(
            "the model's rope scaling makes no sense",
            where=where,
            found=str(scaling),
            expected="a positive factor, and 0 < low_freq_factor < high_freq_factor",
        )
    return scaling
