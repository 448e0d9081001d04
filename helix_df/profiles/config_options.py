"""Which options of a Hugging Face ``config.json`` are honoured, harmless, or stop everything.

Owns the lists of keys. A key on none of them stops everything too, unless it says nothing (null, false, empty): an
option that nobody reads may change the computation, and then the answers would be wrong without anybody being told.
What a family honours or takes beside is in its description. Doesn't know what the honoured numbers mean
(``read_geometry``, ``rope_options``, ``families``).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.families.family import Family
from helix_df.profiles.quantization_config import KEYS
from helix_df.profiles.rope_options import WINDOW_THETA, check_window_rotation, rotates_a_part

HONOURED = frozenset(
    {
        "architectures",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "original_max_position_embeddings",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "tie_word_embeddings",
        "vocab_size",
    }
)
"""Keys that ``read_geometry`` and ``rope_options`` read, of all families."""

ONLY: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "attention_bias": (False,),
        "attention_multiplier": (),
        "attn_logit_softcapping": (),
        "embedding_multiplier": (1,),
        "final_logit_softcapping": (),
        "hidden_act": ("silu", "swish"),
        "hidden_activation": ("silu", "swish"),
        "is_decoder": (False, True),
        "logit_scale": (1,),
        "logits_scaling": (1,),
        "mlp_bias": (False,),
        "partial_rotary_factor": (1,),
        "residual_multiplier": (1,),
        "rope_interleaved": (False,),
        "rope_ratio": (1,),
        "use_bidirectional_attention": (False,),
    }
)
"""Keys that change the computation, and the values by which they don't. Null always is one."""

BOOKKEEPING = frozenset(
    {
        "_name_or_path",
        "attention_dropout",
        "auto_map",
        "begin_suppress_tokens",
        "bos_token_id",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "eos_token_id",
        "finetuning_task",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "length_penalty",
        "max_length",
        "max_sequence_length",
        "max_window_layers",
        "min_length",
        "model_max_length",
        "name_or_path",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "repetition_penalty",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
    }
)
"""Keys that say nothing about the computation: how the model was trained, saved, split or is usually sampled."""


def check_options(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Stop at what would change the computation and isn't honoured.

    Raises:
        ModelError: with the options at fault.
    """
    _check_architecture(config, family, where)
    only = {key: values for key, values in ONLY.items() if key not in family.honoured} | dict(family.only)
    for key, supported in only.items():
        value = config.get(key)
        if value is not None and value not in supported:
            raise ModelError(
                f"this model sets {key}, which isn't supported in a {family.name}",
                where=where,
                found=value,
                expected=" | ".join(map(str, supported)) or "null",
            )
    if "sliding_window" not in family.honoured:
        _check_window(config, family, where)
    if "layer_types" not in family.honoured:
        _check_layer_types(config, family, where)
    if "partial_rotary_factor" not in family.honoured and rotates_a_part(config):
        raise ModelError(
            f"this model rotates a part of each head, which isn't supported in a {family.name}",
            where=where,
            found="partial_rotary_factor",
            expected="1",
        )
    check_window_rotation(config, WINDOW_THETA in family.honoured, where)
    known = HONOURED | family.honoured | family.harmless | only.keys() | BOOKKEEPING
    unknown = sorted(key for key, value in config.items() if not _is_known(key, known) and not _says_nothing(value))
    if unknown:
        raise ModelError(
            "the model's config has options that helix-df doesn't know, and so can't honour",
            where=where,
            found=", ".join(f"{key} = {config[key]!r}"[:80] for key in unknown),
            hint="if they don't change what the model computes, take them out of a copy of config.json",
        )


def check_whole(folder: Path) -> None:
    """Stop at a directory that holds no whole model.

    Raises:
        ModelError: with what it holds.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "this directory holds an adapter (LoRA), which isn't applied",
            where=str(folder / "adapter_config.json"),
            expected="a whole model",
            hint="merge the adapter into its base model and save the result",
        )


def _check_architecture(config: Mapping[str, Any], family: Family, where: str) -> None:
    named = config.get("architectures") or []
    wrong = [name for name in named if name not in family.architectures]
    if wrong:
        raise ModelError(
            "this model's architecture isn't supported",
            where=where,
            found=wrong[0],
            expected=" | ".join(family.architectures),
        )


def _check_window(config: Mapping[str, Any], family: Family, where: str) -> None:
    """A sliding window that is never shorter than the context is none."""
    window = config.get("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        return
    context = config.get("max_position_embeddings", 2048)
    if not isinstance(window, int) or not isinstance(context, int) or window < context:
        raise ModelError(
            f"this model sets sliding_window, which isn't supported in a {family.name}",
            where=where,
            found=window,
            expected="null",
        )


def _check_layer_types(config: Mapping[str, Any], family: Family, where: str) -> None:
    kinds = config.get("layer_types") or []
    if config.get("sliding_window") is not None and "sliding_window" in family.honoured:
        wrong = [kind for kind in kinds if kind != "sliding_attention"]
    else:
        wrong = [kind for kind in kinds if kind != "full_attention"]
    if wrong:
        raise ModelError(
            f"this model has layers of several kinds, which aren't supported in a {family.name}",
            where=where,
            found=wrong[0],
            expected="layer_types that are all the same",
        )


def _is_known(key: str, known: Set[str]) -> bool:
    return key in known or key in KEYS or key in _WINDOWED or key.startswith("_")


_WINDOWED = ("sliding_window", "use_sliding_window", "layer_types")


def _says_nothing(value: object) -> bool:
    return value is None or value is False or value in (0, "", [], {})
