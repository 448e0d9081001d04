"""Small checkpoints whose projections are quantized, in every format of ``quantized_formats``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests.oracle.checkpoints import BASE, values
from tests.oracle.family_checkpoints import family_tensors, written_config
from tests.oracle.quantized_formats import FORMATS, Encoded, float8

SIZES: dict[str, Any] = {
    **BASE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
}
DEEPSEEK = "deepseek-v3"
_DEEPSEEK_BLOCK = 8
_NOT_LINEAR = ("embed_tokens", "lm_head", "mlp.gate.weight")


Edit = Callable[[dict[str, np.ndarray]], object]


def dense_tensors() -> dict[str, np.ndarray]:
    """The weights before they are quantized."""
    hidden, inner, vocabulary = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["vocab_size"]
    width = SIZES["head_dim"] * SIZES["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(SIZES["num_hidden_layers"]):
        of_layer: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (width, hidden),
            "self_attn.v_proj": (width, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    return {name: values(f"quantized:{name}", shape) for name, shape in shapes.items()}


@cache
def encoded_tensors(name: str) -> Mapping[str, Encoded | np.ndarray]:
    """Of the checkpoint ``name``: quantized matrices by their own names, and the others as they are."""
    tensors = family_tensors(DEEPSEEK) if name == DEEPSEEK else dense_tensors()
    block = (_DEEPSEEK_BLOCK, _DEEPSEEK_BLOCK)
    encode = float8(block, "weight_scale_inv", np.float32) if name == DEEPSEEK else FORMATS[name].encode
    return {key: encode(array) if _is_linear(key, array) else array for key, array in tensors.items()}


def _is_linear(name: str, array: np.ndarray) -> bool:
    return array.ndim == 2 and not any(part in name for part in _NOT_LINEAR)


def write_quantized(folder: Path, name: str, *, wide: bool = False, edit: Edit = lambda tensors: None) -> Path:
    """Write the checkpoint ``name`` (of ``FORMATS``, or ``DEEPSEEK``) to ``folder / name``; returns that directory.

    ``wide``: the same scales in float32. compressed-tensors rounds what it makes of a matrix to their format. ``edit``
    changes the tensors that are stored.
    """
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    config = written_config(DEEPSEEK) if name == DEEPSEEK else dict(SIZES)
    entry = FORMATS["fp8" if name == DEEPSEEK else name].config
    if name == DEEPSEEK:
        entry = {**entry, "weight_block_size": [_DEEPSEEK_BLOCK, _DEEPSEEK_BLOCK]}
    (path / "config.json").write_text(json.dumps({**config, "quantization_config": entry}))
    stored: dict[str, np.ndarray] = {}
    for key, held in encoded_tensors(name).items():
        if isinstance(held, Encoded):
            module = key.removesuffix(".weight")
            stored |= {f"{module}.{part}": _widened(array) if wide else array for part, array in held.tensors.items()}
        else:
            stored[key] = held
    edit(stored)
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    return path


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def meant_tensors(name: str) -> dict[str, np.ndarray]:
    """What the checkpoint ``name`` means, as numbers."""
    return {key: held.values if isinstance(held, Encoded) else held for key, held in encoded_tensors(name).items()}


COMPARED = (*(name for name in FORMATS if name.startswith(("ct-", "fp8"))), DEEPSEEK)
"""Checkpoints that transformers itself reads on a CPU; for the others it needs packages that want CUDA."""

LENGTH = 23
"""Of the prompt whose last logits are recorded."""


def vocabulary_of(name: str) -> int:
    """How many tokens a checkpoint has."""
    return int((written_config(DEEPSEEK) if name == DEEPSEEK else SIZES)["vocab_size"])
