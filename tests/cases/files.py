"""Small checkpoints, GGUF files and tokenizers that say something unusual; the same on every machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

from helix_df.spec.source import ModelSource
from tests.oracle.checkpoints import CONFIGS, write_checkpoint
from tests.unit.gguf_files import NAMES, OUTSIDE, stored_rows

Tensors = dict[str, np.ndarray]


def checkpoint(
    folder: Path,
    name: str = "grouped",
    *,
    config: Mapping[str, Any] | None = None,
    edit: Callable[[Tensors], None] = lambda tensors: None,
    files: Mapping[str, object] | None = None,
) -> ModelSource:
    """The checkpoint ``name`` with options added (``...`` removes one), its tensors edited, and further JSON files."""
    path = write_checkpoint(folder, name)
    options = {**CONFIGS[name], **(config or {})}
    (path / "config.json").write_text(json.dumps({key: value for key, value in options.items() if value is not ...}))
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    for file, content in (files or {}).items():
        (path / file).write_text(json.dumps(content))
    return ModelSource("hf", str(path))


def gguf_file(
    folder: Path,
    name: str = "grouped",
    *,
    metadata: Mapping[str, object] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    tokens: int = 0,
    split: Mapping[str, Any] | None = None,
) -> ModelSource:
    """The checkpoint ``name`` as float32 GGUF with keys, tensors and a made-up vocabulary added.

    ``split``: how the gguf package divides it among files; the first is the source.
    """
    config, path = CONFIGS[name], folder / f"{name}.gguf"
    checkpoint_path = write_checkpoint(folder, name)
    writer = gguf.GGUFWriter(path, "llama", **(split or {}))
    keys: dict[str, object] = {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_theta"],
        **(metadata or {}),
    }
    for key, value in keys.items():
        _add(writer, key, value)
    if tokens:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([f"t{number}" for number in range(tokens)])
        writer.add_token_scores([0.0] * tokens)
    for tensor, array in load_file(checkpoint_path / "model.safetensors").items():
        writer.add_tensor(_stored_name(tensor), stored_rows(tensor, array, config))
    for tensor, array in (extra or {}).items():
        writer.add_tensor(tensor, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = sorted(folder.glob(f"{name}*.gguf"))[0]
    return ModelSource("gguf", str(first))


def job_text(source: ModelSource) -> str:
    """A job of one node that serves ``source``."""
    return (
        f"model: {{source: '{source}'}}\nnodes: {{a: {{gpu: L4}}}}\nlinks: {{default: {{bandwidth: 1Gbps}}}}\n"
        "workload: {input_length: 20, output_length: 10}\n"
    )


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            assert isinstance(value, Sequence)
            writer.add_array(key, list(value))


def _stored_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.weight"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.weight"
