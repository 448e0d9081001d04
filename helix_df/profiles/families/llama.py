"""Llama 2 to 3.3 (arXiv 2302.13971, 2307.09288, 2407.21783), and the many models that are Llamas by another name.

In GGUF a Mixtral is one of them, with a number of experts (``mixtral``).
"""

from __future__ import annotations

from types import MappingProxyType

from helix_df.profiles.families.family import Family, Gguf, with_biases

LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM"),  # the second is how the first conversions spelt it
    honoured=frozenset({"attention_bias"}),
    only=MappingProxyType({"mlp_bias": (False,)}),
    options=with_biases,
    gguf=Gguf("llama", interleaved=True),
)
