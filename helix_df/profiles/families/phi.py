"""Phi 3 and Phi 4 (arXiv 2404.14219, 2412.08905), those that are ``phi3``: a Llama whose projections are stored in one.

Long-context versions stretch frequencies by LongRoPE; Phi 4 mini rotates a part of each head.
"""

from __future__ import annotations

from types import MappingProxyType

from helix_df.profiles.families.family import PLAIN_NAMES, Family, Gguf, with_windows

PHI3 = Family(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    defaults=MappingProxyType(
        {"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    ),
    honoured=frozenset({"partial_rotary_factor", "sliding_window"}),
    only=MappingProxyType(
        {
            "attention_bias": (False,),
            "embd_pdrop": (0,),
            "mlp_bias": (False,),
            "resid_pdrop": (0,),
        }
    ),
    options=with_windows,
    names=MappingProxyType(
        {**PLAIN_NAMES, "qkv": ("self_attn.qkv_proj.weight",), "gate_up": ("mlp.gate_up_proj.weight",)}
    ),
    gguf=Gguf("phi3", words=MappingProxyType({"attention.sliding_window": "sliding_window"})),
)
