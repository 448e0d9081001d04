"""Write small GGUF files with the gguf package, for the readers to read."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """As converters to GGUF do: the two halves of each head, interleaved."""
    out = np.empty_like(rows)
    size = rows.shape[0] // heads
    for head in range(heads):
        for index in range(size // 2):
            out[head * size + 2 * index] = rows[head * size + index]
            out[head * size + 2 * index + 1] = rows[head * size + size // 2 + index]
    return out


def write_gguf(path: Path, checkpoint: Path, config: dict, *, architecture: str = "llama", skip: str = "") -> Path:
    """Turn a single-file checkpoint of ``tests.oracle.checkpoints`` into float32 GGUF."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    with safe_open(checkpoint / "model.safetensors", framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118
            if stored := gguf_tensor(name, skip):
                writer.add_tensor(stored, stored_rows(name, weights.get_tensor(name), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensor(name: str, skip: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OUTSIDE:
        stored = f"{OUTSIDE[stem]}.weight"
    else:
        _, _, layer, inner = stem.split(".", 3)
        stored = f"blk.{layer}.{NAMES[inner]}.weight"
    return "" if stored == skip else stored


def stored_rows(name: str, array: np.ndarray, config: dict) -> np.ndarray:
    if "q_proj" in name:
        return permute(array, config["num_attention_heads"])
    return permute(array, config["num_key_value_heads"]) if "k_proj" in name else array


def write_sentencepiece(path: Path) -> Path:
    """A SentencePiece vocabulary: bytes, a few letters and words with scores."""
    specials = ["<unk>", "<s>", "</s>"]
    pieces = ["\u2581", "a", "b", "c", "ab", "\u2581a", "\u2581ab", "abc", "bc"]
    tokens = specials + [f"<0x{number:02X}>" for number in range(256)] + pieces
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    scores = [0.0] * 259 + [-10.0, -11.0, -12.0, -13.0, -2.0, -3.0, -1.0, -4.0, -5.0]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
