"""GGUF metadata of a Llama in the words of Hugging Face's config, or a refusal of what these words can't say.

Owns the keys (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A key under ``llama.`` that nobody reads
stops everything, unless it says nothing. Doesn't know geometry or weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.config_options import ONLY_LLAMA
from helix_df.profiles.gguf_header import GgufHeader

DIVISORS = "rope_freqs.weight"
_READ = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.factor",
        "rope.scaling.type",
    }
)
_HARMLESS = frozenset({"rope.scaling.finetuned", "rope.scaling.original_context_length", "vocab_size"})
_ONLY: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "attention.causal": (True,),
        "attention.clamp_kqv": (0,),
        "attention.max_alibi_bias": (0,),
        "attention.scale": (0,),
        "attention.sliding_window": (0,),
        "embedding_scale": (0, 1),
        "expert_count": (0,),
        "expert_used_count": (0,),
        "logit_scale": (0, 1),
        "residual_scale": (0, 1),
        "rope.scaling.attn_factor": (0, 1),
        "tensor_data_layout": ("", "reference", "Meta AI original pth"),
        "use_parallel_residual": (False,),
    }
)
"""Keys that change the computation, and the values by which they don't."""


def gguf_config(header: GgufHeader) -> dict[str, Any]:
    """What the file says, as a Llama config.

    Raises:
        ModelError: for one file of several, another architecture or use, or options that can't be honoured.
    """
    where = str(header.path)
    _check_whole(header, where)
    family = header.metadata.get("general.architecture")
    if family != "llama":
        raise ModelError("this model's architecture isn't supported", where=where, found=family, expected=ONLY_LLAMA)
    llama = {key.removeprefix("llama."): value for key, value in header.metadata.items() if key.startswith("llama.")}
    _check_options(llama, {key for key in header.array_lengths if key.startswith("llama.")}, where)
    biases = [name for name in header.tensors if name.endswith(".bias")]
    if biases:
        raise ModelError("this Llama variant has biases, which aren't supported", where=where, found=biases[0])
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError("the GGUF file has no token embedding", where=where, expected="a tensor token_embd.weight")
    heads = llama.get("attention.head_count")
    return {
        "hidden_size": llama.get("embedding_length"),
        "num_hidden_layers": llama.get("block_count"),
        "intermediate_size": llama.get("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": llama.get("attention.head_count_kv", heads),
        "head_dim": _head_dim(llama, where),
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": llama.get("context_length", 2048),
        "rms_norm_eps": _shortest(llama.get("attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_theta": _shortest(llama.get("rope.freq_base", 10000.0)),
        "rope_scaling": _scaling(llama),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }


def rope_divisors(header: GgufHeader) -> tuple[float, ...] | None:
    """The tensor that divides the rotary frequencies, one number for each; None where there is none.

    Raises:
        ModelError: when it is cut short or not in float32.
    """
    tensor = header.tensors.get(DIVISORS)
    if tensor is None:
        return None
    where, size = f"{header.path}: {DIVISORS}", 4 * math.prod(tensor.shape)
    if tensor.ggml_type != 0 or size > header.path.stat().st_size - tensor.offset:
        raise ModelError(
            "the divisors of the rotary frequencies can't be read",
            where=where,
            found=f"GGML type {tensor.ggml_type}, shape {tensor.shape}",
            expected="float32, within the file",
        )
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        return tuple(memoryview(file.read(size)).cast("f"))


def _check_whole(header: GgufHeader, where: str) -> None:
    files = int(header.metadata.get("split.count") or 1)
    if files > 1:
        number = int(header.metadata.get("split.no") or 0) + 1
        raise ModelError(
            "this GGUF file is one part of a model that is split over several",
            where=where,
            found=f"file {number} of {files}",
            expected="a model in one file",
            hint="join them: llama-gguf-split --merge FIRST-FILE WHOLE.gguf",
        )
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelError("this GGUF file holds no model", where=where, found=f"general.type = {kind}", expected="model")


def _check_options(llama: Mapping[str, Any], arrays: set[str], where: str) -> None:
    if llama.get("expert_count"):
        raise ModelError(
            "this model is a mixture of experts, which isn't supported",
            where=where,
            found=f"llama.expert_count = {llama['expert_count']}",
            expected="a dense Llama",
        )
    for key, supported in _ONLY.items():
        if key in llama and llama[key] not in supported:
            raise ModelError(
                f"this GGUF file sets llama.{key}, which isn't supported",
                where=where,
                found=llama[key],
                expected=" | ".join(map(str, supported)),
            )
    known = _READ | _HARMLESS | _ONLY.keys()
    unknown = sorted(
        f"llama.{key}" for key, value in llama.items() if key not in known and value not in (None, False, 0, "")
    )
    unknown += sorted(key for key in arrays if key.removeprefix("llama.") not in known)
    if unknown:
        raise ModelError(
            "the GGUF file has options that helix-df doesn't know, and so can't honour",
            where=where,
            found=", ".join(unknown),
        )


def _head_dim(llama: Mapping[str, Any], where: str) -> Any:
    """Keys, values and rotation all span a whole head here."""
    sizes = {
        key: llama[key]
        for key in ("attention.key_length", "attention.value_length", "rope.dimension_count")
        if key in llama
    }
    if len(set(sizes.values())) > 1:
        raise ModelError(
            "this Llama variant has heads of several sizes, or rotates only a part of each, which isn't supported",
            where=where,
            found=", ".join(f"llama.{key} = {size}" for key, size in sizes.items()),
            expected="the same for all of them",
        )
    if sizes:
        return next(iter(sizes.values()))
    return None


def _shortest(single: float) -> float:
    """The shortest decimal that is this float32, so that 9.99999975e-06 reads as 1e-05 again."""
    return float(f"{single:.7g}")


def _scaling(llama: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rope scaling in Hugging Face's words; without a type, a factor is a linear one (0 is none)."""
    factor = float(llama.get("rope.scaling.factor", llama.get("rope.scale_linear", 0.0)))
    kind = llama.get("rope.scaling.type", "linear" if factor not in (0.0, 1.0) else "none")
    if kind == "none" or (kind == "linear" and factor == 0.0):
        return None
    return {"rope_type": kind, "factor": _shortest(factor)}
