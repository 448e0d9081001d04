"""The shape of a model: every number that planning and the runtime need before a weight is read.

Owns the dimensions, what a family's layers do beyond a Llama's as options with Llama's values for defaults, the shapes
of the parts that follow, and their counts of parameters and bytes. Doesn't know how weights are stored or named, or
computed with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Attributes:
        kind: ``linear`` (all frequencies divided by ``factor``), ``llama3`` (Llama 3.1: low frequencies divided by
            ``factor``, high ones kept, a smooth ramp between wavelengths ``original_context / high_freq_factor`` and
            ``original_context / low_freq_factor``), ``divisors`` (each frequency divided by its own, as GGUF stores
            them; ``factor`` is 1), ``yarn`` (arXiv 2309.00071: a ramp between the dimensions that turn ``beta_fast``
            and ``beta_slow`` times in the original context) or ``longrope`` (arXiv 2402.13753: ``divisors`` where no
            request is longer than the original context, else ``long_divisors``).
        divisors: one for each pair of rotated dimensions.
        attention_factor: cosines and sines are multiplied by it.
        truncated: whether the ends of YaRN's ramp are whole dimensions.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    divisors: tuple[float, ...] = ()
    long_divisors: tuple[float, ...] = ()
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncated: bool = True


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What the attention of some families does.

    Attributes:
        scale: of scores; ``None``: ``head_dim ** -0.5``.
        softcap: scores are ``cap * tanh(score / cap)``.
        bias: of the query, key and value projections.
        output_bias: of the output projection.
        query_key_norm: an RMS norm of queries and keys before they are rotated, of each head or over all of them.
        windows: for each layer the tokens that a query sees, itself included; 0 for all. Empty: all, in every layer.
    """

    scale: float | None = None
    softcap: float | None = None
    bias: bool = False
    output_bias: bool = False
    query_key_norm: Literal["none", "head", "projection"] = "none"
    windows: tuple[int, ...] = ()

    def window(self, layer: int) -> int:
        """Tokens that a query of ``layer`` sees; 0 for all."""
        return self.windows[layer] if self.windows else 0


@dataclass(frozen=True, slots=True)
class RotaryOptions:
    """Which layers rotate queries and keys how, where not all do alike.

    Attributes:
        dims: rotated dimensions of each head, from the first on; 0 for all.
        window_theta: the base of layers with a window, whose frequencies aren't scaled; ``None``: as all others.
        unrotated: layers without rotary positions.
    """

    dims: int = 0
    window_theta: float | None = None
    unrotated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """Norms, activation and scales of a layer.

    Attributes:
        norms: of what goes into attention and MLP, of what comes out before it is added, or of both.
        activation: of the gate: SiLU, or GELU by its tanh approximation.
        residual_scale: what attention and MLP add is multiplied by it.
    """

    norms: Literal["before", "after", "both"] = "before"
    activation: Literal["silu", "gelu_tanh"] = "silu"
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ExpertOptions:
    """A mixture of experts in place of the MLP: for each token a router picks some of them and weighs their outputs.

    Attributes:
        count: experts of a layer; 0 where there is one MLP.
        used: of them, those that a token passes.
        inner: their inner width.
        normalized: whether the weights of those that are used sum to one.
    """

    count: int = 0
    used: int = 0
    inner: int = 0
    normalized: bool = True


@dataclass(frozen=True, slots=True)
class EndOptions:
    """What is done to embeddings, and to logits: divided first, then ``cap * tanh(logit / cap)``."""

    embedding_scale: float = 1.0
    logits_divisor: float = 1.0
    logits_softcap: float | None = None


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """Dimensions of a decoder with gated MLPs, and what its layers do.

    Lengths are in elements, not bytes. ``context_length`` is the trained maximum in tokens. ``family`` names the
    description in ``profiles/families``. ``shares`` are the devices that share each layer, where heads, inner widths
    and rows of the vocabulary are those of one of them.
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
    attention: AttentionOptions = field(default_factory=AttentionOptions)
    rotary: RotaryOptions = field(default_factory=RotaryOptions)
    block: BlockOptions = field(default_factory=BlockOptions)
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    ends: EndOptions = field(default_factory=EndOptions)
    shares: int = 1

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer, of all its experts."""
        return sum(math.prod(shape) for shapes in layer_parts(self).values() for shape in shapes)

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert; 0 where there are none."""
        return 3 * self.hidden_size * self.experts.inner

    @property
    def active_parameters(self) -> int:
        """Parameters of one decoder layer that a token is multiplied with."""
        return self.layer_parameters - (self.experts.count - self.experts.used) * self.expert_parameters

    def read_parameters(self, tokens: float) -> float:
        """Parameters of a layer that a pass of so many tokens is expected to read.

        Of experts those that some token uses, where each token picks ``used`` of ``count`` by chance:
        ``count * (1 - (1 - used / count) ** tokens)``. Trained routers aren't far from that, since they are trained to
        load experts evenly.
        """
        experts = self.experts
        if not experts.count:
            return self.layer_parameters
        missed = math.pow(1 - experts.used / experts.count, max(tokens, 1.0))
        return self.layer_parameters - experts.count * missed * self.expert_parameters

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one vocabulary matrix (the input embedding, or the output head)."""
        return self.vocab_size * self.hidden_size

    @property
    def rotated_dims(self) -> int:
        """Dimensions of each head that are rotated, in layers that rotate."""
        return self.rotary.dims or self.head_dim

    def activation_bytes(self, element_bytes: int) -> int:
        """Bytes of one token's hidden state between two layers."""
        return self.hidden_size * element_bytes

    def kv_bytes_per_token_layer(self, element_bytes: int) -> int:
        """Bytes that one token keeps in the KV cache of one layer."""
        return 2 * self.num_kv_heads * self.head_dim * element_bytes


def layer_parts(geometry: ModelGeometry) -> Mapping[str, tuple[Shape, ...]]:
    """The parts of a layer by name, each with the shapes of the tensors that lie one after the other in it.

    Matrices are [out, in]: ``qkv`` is queries, keys and values, ``gate_up`` the gate and what it lets through. Experts
    are stacked, [experts, out, in].
    """
    hidden, inner, options = geometry.hidden_size, geometry.intermediate_size, geometry.attention
    query, key_value = geometry.num_heads * geometry.head_dim, geometry.num_kv_heads * geometry.head_dim
    parts: dict[str, tuple[Shape, ...]] = {
        "qkv": ((query, hidden), (key_value, hidden), (key_value, hidden)),
        "output": ((hidden, query),),
    }
    experts = geometry.experts
    if experts.count:
        up = (experts.count, experts.inner, hidden)
        parts |= {
            "router": ((experts.count, hidden),),
            "expert_gate_up": (up, up),
            "expert_down": ((experts.count, hidden, experts.inner),),
        }
    else:
        parts |= {"gate_up": ((inner, hidden), (inner, hidden)), "down": ((hidden, inner),)}
    if options.bias:
        parts["qkv_bias"] = ((query,), (key_value,), (key_value,))
    if options.output_bias:
        parts["output_bias"] = ((hidden,),)
    if options.query_key_norm != "none":
        whole = options.query_key_norm == "projection"
        parts["query_norm"] = ((query if whole else geometry.head_dim,),)
        parts["key_norm"] = ((key_value if whole else geometry.head_dim,),)
    if geometry.block.norms in ("before", "both"):
        parts |= {"attention_norm": ((hidden,),), "mlp_norm": ((hidden,),)}
    if geometry.block.norms in ("after", "both"):
        parts |= {"attention_post_norm": ((hidden,),), "mlp_post_norm": ((hidden,),)}
    return parts
