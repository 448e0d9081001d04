"""The shape of a model: every number that planning and the runtime need before a weight is read.

Owns the dimensions, what a family's layers do beyond a Llama's as options with Llama's values for defaults, the shapes
of the parts that follow, and their counts of parameters and bytes. Doesn't know how weights are stored or named, or
computed with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal

from helix_df.layers import LayerRange
from helix_df.profiles.kv_windows import KvShape, kv_shape

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
        sinks: whether each head has a score of its own beside those of keys, whose share of attention goes nowhere.
    """

    scale: float | None = None
    softcap: float | None = None
    bias: bool = False
    output_bias: bool = False
    query_key_norm: Literal["none", "head", "projection"] = "none"
    windows: tuple[int, ...] = ()
    sinks: bool = False

    def window(self, layer: int) -> int:
        """Tokens that a query of ``layer`` sees; 0 for all."""
        return self.windows[layer] if self.windows else 0

    def windowed(self, layers: LayerRange) -> tuple[int, int]:
        """How many of ``layers`` have a window, and the tokens that a query of any of those sees at most."""
        windows = [window for window in self.windows[layers.start : layers.stop] if window]
        return len(windows), max(windows, default=0)

    def shape(self, layers: LayerRange) -> KvShape:
        """What ``layers`` keep and see of a request."""
        return kv_shape(len(layers), *self.windowed(layers))


@dataclass(frozen=True, slots=True)
class LatentOptions:
    """Latent attention (arXiv 2405.04434): keys and values of all heads follow from one vector of each token.

    That vector and one rotated key for all heads are what is kept.

    Attributes:
        rank: width of the vector; 0 where keys and values are kept themselves.
        query_rank: width of a vector that queries follow from; 0 where they follow from hidden states.
        rotated: dimensions of each head's queries and keys that are rotated, the last ones.
        values: dimensions of each head's values.
        interleaved: whether checkpoints hold the rotated pairs side by side.
        copies: of the vector and of what it is computed with, where the devices of a node are counted together.
    """

    rank: int = 0
    query_rank: int = 0
    rotated: int = 0
    values: int = 0
    interleaved: bool = True
    copies: int = 1


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
        activation: of the gate: SiLU, GELU by its tanh approximation, or that of gpt-oss (``models.gated_mlp``).
        residual_scale: what attention and MLP add is multiplied by it.
    """

    norms: Literal["before", "after", "both"] = "before"
    activation: Literal["silu", "gelu_tanh", "clamped_swish"] = "silu"
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ExpertOptions:
    """A mixture of experts in place of the MLP: for each token a router picks some of them and weighs their outputs.

    Attributes:
        count: experts of a layer; 0 where there is one MLP.
        used: of them, those that a token passes.
        inner: their inner width.
        normalized: whether the weights of those that are used sum to one.
        bias: of the router and of all projections.
        scoring: how what the router says becomes weights.
        corrected: whether a number of each expert is added to its weight where experts are picked, and only there.
        groups: experts are in so many groups, in order, and picked from ``used_groups`` of them.
        by_two: whether a group is as good as its best two experts together, instead of as its best.
        scale: weights are multiplied by it at last.
        shared: inner width of an MLP that every token passes beside its experts; 0 for none.
        shared_gate: whether that is weighed by a sigmoid of its own.
        dense: layers that have one MLP instead, ascending.
    """

    count: int = 0
    used: int = 0
    inner: int = 0
    normalized: bool = True
    bias: bool = False
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    corrected: bool = False
    groups: int = 1
    used_groups: int = 1
    by_two: bool = False
    scale: float = 1.0
    shared: int = 0
    shared_gate: bool = False
    dense: tuple[int, ...] = ()


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
    description in ``profiles/families``. Layers may differ in their parameters (``experts.dense``); what they keep of
    a token is the same in all. ``shares`` are the devices that share each layer, where heads, inner widths and rows of
    the vocabulary are those of one of them.
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
    latent: LatentOptions = field(default_factory=LatentOptions)
    rotary: RotaryOptions = field(default_factory=RotaryOptions)
    block: BlockOptions = field(default_factory=BlockOptions)
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    ends: EndOptions = field(default_factory=EndOptions)
    shares: int = 1

    def has_experts(self, layer: int) -> bool:
        """Whether ``layer`` has experts in place of one MLP."""
        return self.experts.count > 0 and layer not in self.experts.dense

    @property
    def layer_kinds(self) -> tuple[int, ...]:
        """The first layer of each kind; layers of a kind have the same parts."""
        first = {self.has_experts(layer): layer for layer in reversed(range(self.num_layers))}
        return tuple(sorted(first.values()))

    def parameters(self, layers: LayerRange) -> int:
        """Parameters of ``layers``, of all their experts."""
        return sum(self._parameters_by_layer()[layers.start : layers.stop])

    def kinds_alone(self) -> tuple[ModelGeometry, ...]:
        """This model with all layers of one kind, for each kind that it has."""
        every = tuple(range(self.num_layers))
        return tuple(
            replace(self, experts=replace(self.experts, dense=() if self.has_experts(layer) else every))
            for layer in self.layer_kinds
        )

    def dense_in_a_row(self) -> tuple[tuple[int, int], ...]:
        """The fewest and the most layers without experts among 1, 2, 3, … layers in a row."""
        sums = (0, *accumulate(int(not self.has_experts(layer)) for layer in range(self.num_layers)))
        held = (
            [stop - start for start, stop in zip(sums, sums[count:], strict=False)]
            for count in range(1, self.num_layers + 1)
        )
        return tuple((min(numbers), max(numbers)) for numbers in held)

    def _parameters_by_layer(self) -> tuple[int, ...]:
        size = {self.has_experts(layer): _parameters(self, layer) for layer in self.layer_kinds}
        return tuple(size[self.has_experts(layer)] for layer in range(self.num_layers))

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer, of all its experts; of the largest, where layers differ."""
        return max(_parameters(self, layer) for layer in self.layer_kinds)

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert; 0 where there are none."""
        biases = 2 * self.experts.inner + self.hidden_size if self.experts.bias else 0
        return 3 * self.hidden_size * self.experts.inner + biases

    @property
    def active_parameters(self) -> int:
        """Parameters of one decoder layer that a token is multiplied with; the most, where layers differ."""
        return int(max(self._read(layer, self.experts.used) for layer in self.layer_kinds))

    def read_parameters(self, tokens: float) -> float:
        """Parameters of a layer that a pass of so many tokens is expected to read; the most, where layers differ."""
        return max(self._read(layer, self.read_experts(tokens)) for layer in self.layer_kinds)

    def read_experts(self, tokens: float) -> float:
        """Experts of a layer with them that a pass of so many tokens is expected to read: those that some token uses.

        Each token picks ``used`` of ``count`` as if by chance: ``count * (1 - (1 - used / count) ** tokens)``. Trained
        routers aren't far from that, since they are trained to load experts evenly.
        """
        count, used = self.experts.count, self.experts.used
        return count * (1 - math.pow(1 - used / count, max(tokens, 1.0))) if count else 0.0

    def _read(self, layer: int, passed: float) -> float:
        """Parameters of a layer where so many of its experts are read."""
        skipped = self.experts.count - passed if self.has_experts(layer) else 0.0
        return _parameters(self, layer) - skipped * self.expert_parameters

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one vocabulary matrix (the input embedding, or the output head)."""
        return self.vocab_size * self.hidden_size

    @property
    def rotated_dims(self) -> int:
        """Dimensions of each head that are rotated, in layers that rotate."""
        return self.rotary.dims or self.head_dim

    @property
    def cached_heads(self) -> int:
        """Heads whose keys are kept of each token."""
        return self.latent.copies if self.latent.rank else self.num_kv_heads

    @property
    def key_width(self) -> int:
        """Numbers that a head keeps of a token's key."""
        return self.latent.rank + self.latent.rotated if self.latent.rank else self.head_dim

    @property
    def value_width(self) -> int:
        """Numbers that a head keeps of a token's value; 0 where they are among those of its key."""
        return 0 if self.latent.rank else self.head_dim

    def activation_bytes(self, element_bytes: int) -> int:
        """Bytes of one token's hidden state between two layers."""
        return self.hidden_size * element_bytes

    def kv_bytes_per_token_layer(self, element_bytes: int) -> int:
        """Bytes that one token keeps in the KV cache of one layer."""
        return self.cached_heads * (self.key_width + self.value_width) * element_bytes


def _parameters(geometry: ModelGeometry, layer: int) -> int:
    return sum(math.prod(shape) for shapes in layer_parts(geometry, layer).values() for shape in shapes)


def layer_parts(geometry: ModelGeometry, layer: int) -> Mapping[str, tuple[Shape, ...]]:
    """The parts of a layer by name, each with the shapes of the tensors that lie one after the other in it.

    Matrices are [out, in]: ``qkv`` is queries, keys and values, ``gate_up`` the gate and what it lets through. Experts
    are stacked, [experts, out, in].
    """
    hidden = geometry.hidden_size
    parts = _latent_parts(geometry) if geometry.latent.rank else _attention_parts(geometry)
    parts |= _expert_parts(geometry) if geometry.has_experts(layer) else _mlp_parts(hidden, geometry.intermediate_size)
    if geometry.block.norms in ("before", "both"):
        parts |= {"attention_norm": ((hidden,),), "mlp_norm": ((hidden,),)}
    if geometry.block.norms in ("after", "both"):
        parts |= {"attention_post_norm": ((hidden,),), "mlp_post_norm": ((hidden,),)}
    return parts


_Parts = dict[str, tuple[Shape, ...]]


def _mlp_parts(hidden: int, inner: int, before: str = "") -> _Parts:
    return {f"{before}gate_up": ((inner, hidden), (inner, hidden)), f"{before}down": ((hidden, inner),)}


def _expert_parts(geometry: ModelGeometry) -> _Parts:
    hidden, experts = geometry.hidden_size, geometry.experts
    up = (experts.count, experts.inner, hidden)
    parts: _Parts = {
        "router": ((experts.count, hidden),),
        "expert_gate_up": (up, up),
        "expert_down": ((experts.count, hidden, experts.inner),),
    }
    if experts.corrected:
        parts["router_correction"] = ((experts.count,),)
    if experts.bias:
        inner_bias = (experts.count, experts.inner)
        parts |= {
            "router_bias": ((experts.count,),),
            "expert_gate_up_bias": (inner_bias, inner_bias),
            "expert_down_bias": ((experts.count, hidden),),
        }
    if experts.shared:
        parts |= _mlp_parts(hidden, experts.shared, "shared_")
    if experts.shared_gate:
        parts["shared_gate"] = ((1, hidden),)
    return parts


def _latent_parts(geometry: ModelGeometry) -> _Parts:
    """``query`` or ``query_up`` gives heads' queries, ``latent_up`` their keys (but for what is rotated) and values."""
    hidden, heads, latent = geometry.hidden_size, geometry.num_heads, geometry.latent
    query = heads * geometry.head_dim
    parts: _Parts = {
        "latent_down": ((latent.rank + latent.rotated, hidden),) * latent.copies,
        "latent_norm": ((latent.rank,),),
        "latent_up": ((heads * (geometry.head_dim - latent.rotated + latent.values), latent.rank),),
        "output": ((hidden, heads * latent.values),),
    }
    if not latent.query_rank:
        return parts | {"query": ((query, hidden),)}
    return parts | {
        "query_down": ((latent.query_rank, hidden),) * latent.copies,
        "query_latent_norm": ((latent.query_rank,),),
        "query_up": ((query, latent.query_rank),),
    }


def _attention_parts(geometry: ModelGeometry) -> _Parts:
    hidden, options = geometry.hidden_size, geometry.attention
    query, key_value = geometry.num_heads * geometry.head_dim, geometry.num_kv_heads * geometry.head_dim
    parts: _Parts = {
        "qkv": ((query, hidden), (key_value, hidden), (key_value, hidden)),
        "output": ((hidden, query),),
    }
    if options.bias:
        parts["qkv_bias"] = ((query,), (key_value,), (key_value,))
    if options.output_bias:
        parts["output_bias"] = ((hidden,),)
    if options.sinks:
        parts["sinks"] = ((geometry.num_heads,),)
    if options.query_key_norm != "none":
        whole = options.query_key_norm == "projection"
        parts["query_norm"] = ((query if whole else geometry.head_dim,),)
        parts["key_norm"] = ((key_value if whole else geometry.head_dim,),)
    return parts
