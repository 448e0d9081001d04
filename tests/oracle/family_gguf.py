"""The checkpoints of ``family_checkpoints`` as float32 GGUF files: names and keys are those of the gguf package.

What the package doesn't know, llama.cpp's converter does to the rows of some architectures and to Gemma's norms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.oracle.family_checkpoints import family_tensors, written_config
from tests.unit.gguf_files import permute

_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "gemma3_text": "gemma3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
}
_INTERLEAVED = ("llama", "granite", "smollm3")

GGUF_NAMES = (
    "llama-biases",
    "mistral",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-longrope",
    "granite",
    "mixtral",
    "qwen2-moe",
    "qwen3-moe",
    "gpt-oss",
    "deepseek-v2",
    "deepseek-v2-groups",
    "deepseek-v3-gguf",
    "olmo2",
    "smollm3",
)
"""Those that GGUF can say: a window in some layers of a Qwen 2 isn't, nor in a Mistral, nor which layers have one."""


def write_family_gguf(
    folder: Path,
    name: str,
    *,
    mxfp4: bool = False,
    matrices: str | None = None,
    no_vocabulary: bool = False,
    **more: Any,
) -> Path:
    """Write ``FAMILY_CONFIGS[name]`` as GGUF to ``folder``; ``more`` adds keys after the architecture's name.

    With ``mxfp4`` experts are in that format. ``matrices`` is the type of others, but for routers, where their rows are
    whole blocks of it. llama.cpp loads no file that doesn't say that it has ``no_vocabulary``, if it has none.
    """
    config, tensors = written_config(name), family_tensors(name)
    architecture = _ARCHITECTURES.get(config["model_type"], config["model_type"])
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    _write_keys(writer, architecture, config)
    if no_vocabulary:
        writer.add_tokenizer_model("no_vocab")
        writer.add_vocab_size(config["vocab_size"])
    for key, value in more.items():
        writer.add_float32(f"{architecture}.{key}", value)
    arch = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for tensor, array in _in_halves(_stacked(_with_factors(tensors, config)), config).items():
        stored = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        assert stored is not None, tensor
        if tensor.endswith("sinks"):
            stored += ".weight"
        if mxfp4 and array.ndim == 3:
            kind = gguf.GGMLQuantizationType.MXFP4
            writer.add_tensor(stored, gguf.quants.quantize(array, kind), raw_dtype=kind)
            continue
        array = _stored(tensor, array, architecture, config)
        if matrices is not None and array.ndim > 1 and "gate_inp" not in stored:
            kind = gguf.GGMLQuantizationType[matrices]
            if array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
                writer.add_tensor(stored, gguf.quants.quantize(array, kind), raw_dtype=kind)
                continue
        writer.add_tensor(stored, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_keys(writer: gguf.GGUFWriter, architecture: str, config: Mapping[str, Any]) -> None:
    head = _head_dim(config)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    if config.get("kv_lora_rank"):
        _write_latent_keys(writer, config)
    else:
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if config.get("num_experts_per_tok"):
        if "n_routed_experts" not in config:
            writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if config.get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    elif architecture == "gpt-oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if config.get("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    if architecture == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if scaling.get("rope_type") == "longrope":
        original = config["original_max_position_embeddings"]
        factor = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(factor) / np.log(original))))


def _write_latent_keys(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """As llama.cpp's converter has them: latents as keys and values of one head."""
    rank, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_head_count_kv(1)
    writer.add_key_length(rank + rotated)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotated)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rotated)
    writer.add_kv_lora_rank(rank)
    if config["q_lora_rank"]:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_leading_dense_block_count(config.get("first_k_dense_replace", 0))
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config.get("routed_scaling_factor", 1.0))
    sigmoid = config["model_type"] == "deepseek_v3"
    writer.add_expert_weights_norm(sigmoid)
    kinds = gguf.ExpertGatingFuncType
    writer.add_expert_gating_func(kinds.SIGMOID if sigmoid else kinds.SOFTMAX)
    if config.get("topk_method") != "greedy":
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])
    if config.get("rope_scaling"):
        writer.add_rope_scaling_yarn_log_mul(0.1 * config["rope_scaling"]["mscale_all_dim"])


def _in_halves(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What takes latents up in two tensors, each head's transposed rows of keys and those of values."""
    out: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if "kv_b_proj" not in name:
            out[name.replace("e_score_correction_bias", "e_score_correction.bias")] = array
            continue
        by_head = array.reshape(config["num_attention_heads"], -1, array.shape[-1])
        keys, values = np.split(by_head, [config["qk_nope_head_dim"]], axis=1)
        out[name.replace("kv_b_proj", "k_b_proj")] = np.ascontiguousarray(keys.swapaxes(1, 2))
        out[name.replace("kv_b_proj", "v_b_proj")] = np.ascontiguousarray(values)
    return out


def _stacked(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors of all experts as one, by the names that the package has for that."""
    experts: dict[str, dict[int, np.ndarray]] = {}
    others: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        match = re.search(r"\.experts\.(\d+)\.", name)
        if match is None:
            others[name] = array
        else:
            experts.setdefault(name.replace(match[0], ".experts."), {})[int(match[1])] = array
    return others | {name: np.stack([each[number] for number in sorted(each)]) for name, each in experts.items()}


def _with_factors(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    scaling = config.get("rope_scaling") or {}
    factors = {
        f"rope_factors_{kind}.weight": np.asarray(scaling[f"{kind}_factor"], np.float32)
        for kind in ("short", "long")
        if f"{kind}_factor" in scaling
    }
    return {**tensors, **factors}


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _stored(name: str, array: np.ndarray, architecture: str, config: Mapping[str, Any]) -> np.ndarray:
    if "gemma" in architecture and name.endswith("norm.weight"):
        return array + 1
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for projection, count in heads.items():
        if projection in name and architecture in _INTERLEAVED:
            return permute(array, config[count])
    return array[0] if "shared_expert_gate" in name else array
