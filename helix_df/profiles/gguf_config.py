"""GGUF metadata in the words of Hugging Face's config, or a refusal of what these words can't say.

Owns the keys (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A key under the
architecture's name that nobody reads stops everything, unless it says nothing. Doesn't know geometry or weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.families.family import PLAIN_GGUF_WORDS, Gguf
from helix_df.profiles.families.registry import family_of_gguf
from helix_df.profiles.gguf_header import GgufHeader

DIVISORS, SHORT_DIVISORS, LONG_DIVISORS = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
_READ = frozenset(
    {
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "rope.scale_linear",
        "rope.scaling.attn_factor",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    }
)
_HARMLESS = frozenset({"rope.scaling.finetuned", "vocab_size"})
_ONLY: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "attention.causal": (True,),
        "attention.clamp_kqv": (0,),
        "attention.max_alibi_bias": (0,),
        "attention.scale": (0,),
        "attention.sliding_window": (0,),
        "attn_logit_softcapping": (0,),
        "embedding_scale": (0, 1),
        "expert_count": (0,),
        "expert_used_count": (0,),
        "final_logit_softcapping": (0,),
        "logit_scale": (0, 1),
        "residual_scale": (0, 1),
        "rope.scaling.yarn_ext_factor": (0, 1, -1),
        "rope.scaling.yarn_log_multiplier": (0,),
        "tensor_data_layout": ("", "reference", "Meta AI original pth"),
        "use_parallel_residual": (False,),
    }
)
"""Keys that change the computation, and the values by which they don't."""


def gguf_config(header: GgufHeader) -> dict[str, Any]:
    """What the file says, as a config of its family.

    Raises:
        ModelError: for another architecture or use, or options that can't be honoured.
    """
    where = str(header.path)
    _check_use(header, where)
    name = header.metadata.get("general.architecture")
    prefix = f"{name}."
    said = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    family, gguf = family_of_gguf(name, said, where)
    arrays = {key.removeprefix(prefix) for key in header.array_lengths if key.startswith(prefix)}
    _check_options(said, arrays, gguf, where)
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError("the GGUF file has no token embedding", where=where, expected="a tensor token_embd.weight")
    read = {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048}
    words = {**PLAIN_GGUF_WORDS, **gguf.words}
    config = {
        "model_type": family.name,
        **read,
        **gguf.means,
        **{words[key]: _shortest(value) for key, value in said.items() if key in words},
        "head_dim": _head_dim(said, prefix, where),
        "vocab_size": embedding.shape[0],
        "rope_scaling": _scaling(said, header),
        "original_max_position_embeddings": said.get("rope.scaling.original_context_length"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_output.bias" in header.tensors,
    }
    if config["head_dim"] is None:
        config["head_dim"] = int(config["hidden_size"]) // int(config["num_attention_heads"])
    config |= _rotated_share(said, int(config["head_dim"]))
    return dict(gguf.restated({key: value for key, value in config.items() if value is not None}))


def rope_divisors(header: GgufHeader, name: str = DIVISORS) -> tuple[float, ...] | None:
    """The tensor ``name`` that divides the rotary frequencies, one number for each; None where there is none.

    Raises:
        ModelError: when it is cut short or not in float32.
    """
    tensor = header.tensors.get(name)
    if tensor is None:
        return None
    where, size = f"{tensor.file}: {name}", 4 * math.prod(tensor.shape)
    if tensor.ggml_type != 0 or size > tensor.file.stat().st_size - tensor.offset:
        raise ModelError(
            "the divisors of the rotary frequencies can't be read",
            where=where,
            found=f"GGML type {tensor.ggml_type}, shape {tensor.shape}",
            expected="float32, within the file",
        )
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        return tuple(memoryview(file.read(size)).cast("f"))


def _check_use(header: GgufHeader, where: str) -> None:
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelError("this GGUF file holds no model", where=where, found=f"general.type = {kind}", expected="model")


def _check_options(said: Mapping[str, Any], arrays: set[str], gguf: Gguf, where: str) -> None:
    name = gguf.architecture
    only = {**{key: values for key, values in _ONLY.items() if key not in gguf.words}, **gguf.only}
    for key, supported in only.items():
        if key in said and said[key] not in supported:
            raise ModelError(
                f"this GGUF file sets {name}.{key}, which isn't supported",
                where=where,
                found=said[key],
                expected=" | ".join(map(str, supported)),
            )
    known = _READ | _HARMLESS | only.keys() | PLAIN_GGUF_WORDS.keys() | gguf.words.keys()
    unknown = sorted(key for key, value in said.items() if key not in known and value not in (None, False, 0, ""))
    unknown += sorted(arrays - known)
    if unknown:
        raise ModelError(
            "the GGUF file has options that helix-df doesn't know, and so can't honour",
            where=where,
            found=", ".join(f"{name}.{key}" for key in unknown),
        )


def _head_dim(said: Mapping[str, Any], prefix: str, where: str) -> Any:
    """Keys and values span a whole head here, unless they follow from latents."""
    if "attention.kv_lora_rank" in said:
        return None
    sizes = {key: said[key] for key in ("attention.key_length", "attention.value_length") if key in said}
    if len(set(sizes.values())) > 1:
        raise ModelError(
            "this model has keys and values of different sizes, which isn't supported",
            where=where,
            found=", ".join(f"{prefix}{key} = {size}" for key, size in sizes.items()),
            expected="the same for both",
        )
    return next(iter(sizes.values()), None)


def _rotated_share(said: Mapping[str, Any], head_dim: int) -> dict[str, float]:
    """Which share of each head is rotated, where it isn't all of it; of latents that is said otherwise."""
    if "attention.kv_lora_rank" in said:
        return {}
    dims = int(said.get("rope.dimension_count") or head_dim)
    return {} if dims == head_dim else {"partial_rotary_factor": dims / head_dim}


def _shortest(value: Any) -> Any:
    """The shortest decimal that is this float32, so that 9.99999975e-06 reads as 1e-05 again."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _scaling(said: Mapping[str, Any], header: GgufHeader) -> dict[str, Any] | None:
    """Rope scaling in Hugging Face's words; without a type, a factor is a linear one (0 is none).

    Two tensors of divisors are LongRoPE, whatever the type.
    """
    grows = said.get("rope.scaling.attn_factor")
    short, long = rope_divisors(header, SHORT_DIVISORS), rope_divisors(header, LONG_DIVISORS)
    if (short is None) != (long is None):
        raise ModelError(
            "the GGUF file has divisors of rotary frequencies for some contexts only",
            where=str(header.path),
            found=SHORT_DIVISORS if long is None else LONG_DIVISORS,
            expected=f"{SHORT_DIVISORS} and {LONG_DIVISORS}",
        )
    if short is not None and long is not None:
        return {
            "rope_type": "longrope",
            "short_factor": list(short),
            "long_factor": list(long),
            "attention_factor": 1.0 if grows is None else _shortest(grows),
        }
    factor = float(said.get("rope.scaling.factor", said.get("rope.scale_linear", 0.0)))
    kind = said.get("rope.scaling.type", "linear" if factor not in (0.0, 1.0) else "none")
    if kind == "none" or (kind == "linear" and factor == 0.0):
        return None
    scaling = {"rope_type": kind, "factor": _shortest(factor)}
    if kind != "yarn":
        return scaling
    return scaling | _given(
        attention_factor=_yarn_factor(said, factor),
        beta_fast=said.get("rope.scaling.yarn_beta_fast"),
        beta_slow=said.get("rope.scaling.yarn_beta_slow"),
    )


def _yarn_factor(said: Mapping[str, Any], factor: float) -> float | None:
    """llama.cpp multiplies the factor in the file by what grows with the factor of the context."""
    given = said.get("rope.scaling.yarn_attn_factor", said.get("rope.scaling.attn_factor"))
    return None if given is None else float(given) * (1 + 0.1 * math.log(factor))


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
