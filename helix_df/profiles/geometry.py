"""The shape of a model: every number that planning and the runtime need before a weight is read.

Owns the dimensions, and the counts of parameters and bytes that follow from them. Doesn't know how weights are stored
in a device or computed with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    ``kind`` is ``linear`` (all frequencies divided by ``factor``) or ``llama3`` (Llama 3.1: low frequencies divided by
    ``factor``, high ones kept, a smooth ramp between wavelengths ``original_context / high_freq_factor`` and
    ``original_context / low_freq_factor``) or ``divisors`` (each frequency divided by its own of ``divisors``, one for
    each of the ``head_dim / 2`` pairs, as GGUF stores them; ``factor`` is 1).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    divisors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """Dimensions of a Llama-architecture decoder.

    Lengths are in elements, not bytes. ``context_length`` is the trained maximum in tokens.
    """

    family: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer: q, k, v, o projections, the gated MLP and two norms."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one vocabulary matrix (the input embedding, or the output head)."""
        return self.vocab_size * self.hidden_size

    def activation_bytes(self, element_bytes: int) -> int:
        """Bytes of one token's hidden state between two layers."""
        return self.hidden_size * element_bytes

    def kv_bytes_per_token_layer(self, element_bytes: int) -> int:
        """Bytes that one token keeps in the KV cache of one layer."""
        return 2 * self.num_kv_heads * self.head_dim * element_bytes
