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
from safetensors.numpy import load_file

from tests.oracle.family_checkpoints import write_family, written_config
from tests.unit.gguf_files import permute

_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3moe",
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
    "qwen3-moe",
    "olmo2",
    "smollm3",
)
"""Those that GGUF can say: a window in some layers of a Qwen 2 isn't, nor in a Mistral, nor which layers have one."""


def write_family_gguf(folder: Path, name: str, **more: Any) -> Path:
    """Write ``FAMILY_CONFIGS[name]`` as GGUF to ``folder``; ``more`` adds keys after the architecture's name."""
    config, tensors = written_config(name), load_file(write_family(folder, name) / "model.safetensors")
    architecture = _ARCHITECTURES.get(config["model_type"], config["model_type"])
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    _write_keys(writer, architecture, config)
    for key, value in more.items():
        writer.add_float32(f"{architecture}.{key}", value)
    kind = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for tensor, array in _stacked(_with_factors(tensors, config)).items():
        stored = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        assert stored is not None, tensor
        writer.add_tensor(stored, _stored(tensor, array, architecture, config))
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
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if config.get("num_experts_per_tok"):
        writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if config.get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
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
    return array
