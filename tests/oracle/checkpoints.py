"""Small Llama checkpoints in Hugging Face's format, made from a seed without torch, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "grouped": BASE,
    "tied": {**BASE, "tie_word_embeddings": True, "num_key_value_heads": 6, "rms_norm_eps": 1e-6},
    "llama3-rope": {**BASE, "rope_scaling": _LLAMA3, "rope_theta": 500000.0, "num_key_value_heads": 1},
    "linear-rope": {**BASE, "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "head_dim": 16},
    "sharded-bf16": {**BASE, "num_hidden_layers": 3},
}


def write_checkpoint(folder: Path, name: str) -> Path:
    """Write ``CONFIGS[name]`` with its weights to ``folder / name`` and return that directory."""
    config, path = CONFIGS[name], folder / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    tensors = {key: values(f"{name}:{key}", shape) for key, shape in _shapes(config).items()}
    if name != "sharded-bf16":
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return path
    _write_sharded(path, {key: array.astype(ml_dtypes.bfloat16) for key, array in tensors.items()})
    return path


def _write_sharded(path: Path, tensors: dict[str, np.ndarray]) -> None:
    names = sorted(tensors)
    parts = {f"model-{index + 1:05d}-of-00003.safetensors": names[index::3] for index in range(3)}
    for file, held in parts.items():
        save_file({key: tensors[key] for key in held}, path / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, held in parts.items() for key in held}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    query, key_value = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    vocabulary = (config["vocab_size"], hidden)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": vocabulary, "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = vocabulary
    for layer in range(config["num_hidden_layers"]):
        block = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.v_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes.update({f"model.layers.{layer}.{key}.weight": shape for key, shape in block.items()})
    return shapes


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor: large enough that attention is far from uniform and the best token far from the second."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)
    return 1 + 0.1 * normal if len(shape) == 1 else 0.25 * normal
