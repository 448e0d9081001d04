"""Mistral (arXiv 2310.06825): a Llama that sees a sliding window of its context, or all of it."""

from __future__ import annotations

from types import MappingProxyType

from helix_df.profiles.families.family import Family, with_windows

MISTRAL = Family(
    name="mistral",
    architectures=("MistralForCausalLM",),
    defaults=MappingProxyType(
        {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096, "vocab_size": 32000}
    ),
    honoured=frozenset({"sliding_window"}),
    only=MappingProxyType({"attention_bias": (False,)}),
    options=with_windows,
)
"""GGUF has no architecture of its own for it: files say ``llama``, and llama.cpp computes them without a window."""
