"""Rotary settings of a Hugging Face config, in all the places and spellings that there are.

Owns which of ``rope_scaling``, ``rope_parameters`` and ``rope_theta`` counts. Doesn't know frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.geometry import RopeScaling

_ALWAYS = frozenset({"original_max_position_embeddings", "partial_rotary_factor", "rope_theta", "rope_type", "type"})
_OWN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "default": frozenset({"factor", "high_freq_factor", "low_freq_factor"}),
        "dynamic": frozenset({"factor"}),
        "linear": frozenset({"factor", "high_freq_factor", "low_freq_factor"}),
        "llama3": frozenset({"factor", "high_freq_factor", "low_freq_factor"}),
        "longrope": frozenset(
            {"attention_factor", "factor", "long_factor", "long_mscale", "short_factor", "short_mscale"}
        ),
        "yarn": frozenset(
            {"attention_factor", "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim", "truncate"}
        ),
    }
)
"""What each kind may say beside what all may."""

_OTHER_NAMES = MappingProxyType({"su": "longrope"})
_DEFAULT_THETA = 10000.0
WINDOW_THETA = "rope_local_base_freq"
"""The key of the base for layers with a window, in families that have one."""


def rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the frequencies: that beside the scaling which counts, else the config's own, else 10000."""
    return float(settings(config).get("rope_theta") or config.get("rope_theta") or _DEFAULT_THETA)


def rope_scaling(config: Mapping[str, Any], where: str) -> RopeScaling | None:
    """How the frequencies are stretched, if they are.

    ``dynamic`` scaling is none: it begins beyond ``max_position_embeddings``, and no request is longer.

    Raises:
        ModelError: for another kind, or settings that contradict each other.
        KeyError: with the number that is missing.
    """
    _check_agreement(config, where)
    rope = settings(config)
    kind = _kind(rope)
    if kind not in _OWN:
        raise ModelError(
            "this rope scaling isn't supported", where=where, found=kind, expected=" | ".join(sorted(_OWN))
        )
    _check_known(rope, kind, where)
    if kind in ("default", "dynamic"):
        return None
    read = {"linear": _linear, "llama3": _llama3, "longrope": _longrope, "yarn": _yarn}[kind]
    return _checked(read(rope, config), where)


def rotated_dims(config: Mapping[str, Any], head_dim: int) -> int:
    """How many dimensions of a head of ``head_dim`` are rotated; 0 for all of them."""
    share = _share(config)
    return 0 if share == 1 else int(head_dim * share)


def rotates_a_part(config: Mapping[str, Any]) -> bool:
    """Whether only some dimensions of each head are rotated."""
    return _share(config) != 1


def settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope settings that count: ``rope_scaling`` before ``rope_parameters``, as transformers reads them.

    Where layers with a window have their own, those of the others.
    """
    newer = _newer(config)
    return (
        {**newer, **config["rope_scaling"]}
        if _by_kind(config) and config.get("rope_scaling")
        else (config.get("rope_scaling") or newer)
    )


def check_window_rotation(config: Mapping[str, Any], own_base: bool, where: str) -> None:
    """Stop where kinds of layers are rotated in ways that aren't honoured.

    Args:
        config: the options.
        own_base: whether layers with a window have a base of their own in this family; otherwise all rotate alike.
        where: names the config in errors.

    Raises:
        ModelError: with the settings.
    """
    if not _by_kind(config):
        return
    settings_of = config["rope_parameters"]
    windowed = settings_of.get("sliding_attention") or {}
    unscaled = _kind(windowed) == "default" and windowed.get("partial_rotary_factor") in (None, 1)
    if not (own_base and unscaled):
        raise ModelError(
            "these rotary positions of different kinds of layers aren't supported",
            where=f"{where}: rope_parameters",
            found=str(dict(settings_of))[:120],
            expected="sliding_attention with rope_type default" if own_base else "the same for all layers",
        )


def _newer(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("rope_parameters") or {}
    return (found.get("full_attention") or {}) if _by_kind(config) else found


def _by_kind(config: Mapping[str, Any]) -> bool:
    """Whether each kind of layer has rope settings of its own."""
    found = config.get("rope_parameters") or {}
    return "full_attention" in found or "sliding_attention" in found


def _share(config: Mapping[str, Any]) -> float:
    return float(settings(config).get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)


def _original_context(rope: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """That of the whole config counts more than that of its rope settings."""
    said = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    return int(said or config["max_position_embeddings"])


def _linear(rope: Mapping[str, Any], _config: Mapping[str, Any]) -> RopeScaling:
    return RopeScaling("linear", float(rope["factor"]))


def _llama3(rope: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    return RopeScaling(
        kind="llama3",
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context=_original_context(rope, config),
    )


def _yarn(rope: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    """The factor for scores grows by a tenth of the factor's logarithm, unless it is given (arXiv 2309.00071, 3.4)."""
    original = _original_context(rope, config)
    factor = float(rope.get("factor") or int(config["max_position_embeddings"]) / original)

    def grown(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale, all_dim, given = rope.get("mscale"), rope.get("mscale_all_dim"), rope.get("attention_factor")
    grows = grown(float(mscale)) / grown(float(all_dim)) if mscale and all_dim else grown(1.0)
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_context=original,
        attention_factor=grows if given is None else float(given),
        beta_fast=float(rope.get("beta_fast") or 32.0),
        beta_slow=float(rope.get("beta_slow") or 1.0),
        truncated=bool(rope.get("truncate", True)),
    )


def _longrope(rope: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    original = _original_context(rope, config)
    factor = float(rope.get("factor") or int(config["max_position_embeddings"]) / original)
    given = rope.get("attention_factor")
    grows = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return RopeScaling(
        kind="longrope",
        factor=factor,
        original_context=original,
        divisors=tuple(map(float, rope["short_factor"])),
        long_divisors=tuple(map(float, rope["long_factor"])),
        attention_factor=grows if given is None else float(given),
    )


def _kind(rope: Mapping[str, Any]) -> str:
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    return _OTHER_NAMES.get(kind, kind)


def _check_agreement(config: Mapping[str, Any], where: str) -> None:
    """Two places may repeat or complete each other; where they differ, nobody can know which was meant."""
    older, newer = config.get("rope_scaling") or {}, _newer(config)
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


def _check_known(rope: Mapping[str, Any], kind: str, where: str) -> None:
    known = _ALWAYS | _OWN[kind]
    unknown = sorted(key for key, value in rope.items() if key not in known and value not in (None, False))
    if unknown:
        raise ModelError(
            "the model's rope settings have options that aren't supported",
            where=where,
            found=", ".join(f"{key} = {rope[key]!r}"[:80] for key in unknown),
            expected=", ".join(sorted(known)),
        )


def _checked(scaling: RopeScaling, where: str) -> RopeScaling:
    numbers = (
        scaling.factor,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
        scaling.attention_factor,
        scaling.beta_fast,
        scaling.beta_slow,
        *scaling.divisors,
        *scaling.long_divisors,
    )
    ramp = scaling.kind != "llama3" or 0 < scaling.low_freq_factor < scaling.high_freq_factor
    positive = all(math.isfinite(number) and number > 0 for number in numbers)
    if not positive or not ramp or scaling.original_context <= 0:
        raise ModelError(
            "the model's rope scaling makes no sense",
            where=where,
            found=str(scaling)[:200],
            expected="a positive factor, and 0 < low_freq_factor < high_freq_factor",
        )
    return scaling
