"""What a solver is asked: nodes with throughput by layers held, links between them, and a number of layers to cover.

Owns the numeric view of a job after profiles are applied. Doesn't know YAML, GPUs or how a placement is found; keeps
the model's geometry and the mean request for those who have to know what the numbers were made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from helix_df.codecs import Codec, packed_bytes
from helix_df.layers import LayerRange
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.throughput import Requests

COORDINATOR = "coordinator"
"""Source and sink of every flow, as an endpoint of links."""

Placement = Mapping[str, LayerRange]
"""Which layers each node holds; a node that holds none is absent."""


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a connection. Hidden states travel on it packed by ``codec``."""

    bytes_per_s: float
    latency_s: float
    codec: Codec = "none"


@dataclass(frozen=True, slots=True)
class NodeProfile:
    """What one node can do.

    ``tokens_per_s[k - 1]`` and ``kv_tokens[k - 1]`` are its throughput and KV cache (tokens) when it holds ``k``
    layers; both have one entry for every ``k`` that fits, so an empty tuple means that not even one layer does.

    Where layers differ, these are of the heaviest ``k`` layers in a row, each as slow as the slowest, with as few
    windows as lie in a row: whichever it holds, they fit and it is no slower. ``favourable`` is the same of the
    lightest and fastest then, which bounds need.
    """

    name: str
    gpu: str
    region: str
    tokens_per_s: tuple[float, ...]
    kv_tokens: tuple[int, ...]
    nic_bytes_per_s: float | None = None
    favourable: NodeProfile | None = None

    @property
    def max_layers(self) -> int:
        """Most layers that fit."""
        return len(self.tokens_per_s)

    def throughput(self, layers: int) -> float:
        """Tokens/s through the node when it holds ``layers`` layers.

        Raises:
            ValueError: when they don't fit.
        """
        if not 1 <= layers <= self.max_layers:
            raise ValueError(f"{self.name} holds 1 to {self.max_layers} layers, not {layers}")
        return self.tokens_per_s[layers - 1]


@dataclass(frozen=True, slots=True)
class LinkTable:
    """Links found by node pair, else by region pair, else the default; ``None`` where there is none.

    Pairs are ordered, tail and head, so that each direction has a link of its own. Lookups instead of a matrix, so that
    1,000 nodes cost nothing until a link is asked for.
    """

    regions: Mapping[str, str]
    default: Link | None = None
    by_region: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    by_node: Mapping[tuple[str, str], Link] = field(default_factory=dict)

    @staticmethod
    def symmetric(entries: Iterable[tuple[str, str, Link]]) -> dict[tuple[str, str], Link]:
        """Entries for both directions."""
        return {pair: link for a, b, link in entries for pair in ((a, b), (b, a))}

    def find(self, a: str, b: str) -> Link | None:
        """The link from ``a`` to ``b`` (either may be ``COORDINATOR``), or ``None``."""
        named = self.by_node.get((a, b))
        return named if named is not None else self.between(self.regions[a], self.regions[b])

    def between(self, a: str, b: str) -> Link | None:
        """The link from a node in region ``a`` to one in ``b`` that no entry names, or ``None``."""
        return self.by_region.get((a, b), self.default)


@dataclass(frozen=True, slots=True)
class PlacementLimits:
    """What a placement must keep, however much flow it has.

    ``max_hops``: nodes that a request passes at most. ``min_requests``: requests of ``request_tokens`` tokens each
    whose KV cache fits on every layer at once. ``required`` nodes hold layers, ``excluded`` ones hold none (their
    tables are empty), and ``fixed`` says which layers a node holds. ``held`` is as in ``Requests``.
    """

    max_hops: int | None = None
    min_requests: int = 0
    request_tokens: float = 1.0
    held: tuple[float, ...] = ()
    required: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    fixed: Mapping[str, LayerRange] = field(default_factory=dict)

    def held_tokens(self, layers: int) -> float:
        """Tokens of KV cache that such a request takes at most in each of so many layers, on average."""
        return self.held[layers - 1] if self.held else self.request_tokens


@dataclass(frozen=True, slots=True)
class Origin:
    """What a problem was compiled from, beside the job: the model's geometry and the mean request."""

    geometry: ModelGeometry
    requests: Requests


@dataclass(frozen=True, slots=True)
class Problem:
    """A placement problem.

    ``token_bytes`` travel to and from the coordinator for each token; ``activation_bytes`` between two nodes, in
    elements of ``element_bytes``, unless the link has a codec. ``origin`` is ``None`` where a problem was made by hand.
    """

    num_layers: int
    nodes: tuple[NodeProfile, ...]
    links: LinkTable
    token_bytes: int
    activation_bytes: int
    partial_inference: bool = True
    limits: PlacementLimits = PlacementLimits()
    element_bytes: int = 4
    origin: Origin | None = None

    def windowed(self, layers: LayerRange) -> tuple[int, int]:
        """In how many of ``layers`` a node frees KV cache, and behind how many tokens."""
        return (0, 0) if self.origin is None else self.origin.geometry.attention.windowed(layers)

    @property
    def differs(self) -> bool:
        """Whether layers differ in memory or time."""
        return any(node.favourable is not None for node in self.nodes)

    @property
    def favourable(self) -> Problem:
        """This problem as if every node held the lightest and fastest layers: what bounds it bounds all placements."""
        return replace(self, nodes=tuple(node.favourable or node for node in self.nodes)) if self.differs else self

    def node(self, name: str) -> NodeProfile:
        """The node of that name.

        Raises:
            KeyError: if there is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def node_capacity(self, node: NodeProfile, layers: int) -> float:
        """Tokens/s through ``node`` with ``layers`` layers, its network card (without codecs) included."""
        capacity = node.throughput(layers)
        if node.nic_bytes_per_s is not None:
            capacity = min(capacity, node.nic_bytes_per_s / self.activation_bytes)
        return capacity

    def link_capacity(self, a: str, b: str) -> float:
        """Tokens/s from ``a`` to ``b``: bandwidth over the bytes of one token; 0 where there is no link."""
        link = self.links.find(a, b)
        if link is None:
            return 0.0
        return link.bytes_per_s / (self.token_bytes if COORDINATOR in (a, b) else self.packed_bytes(link.codec))

    def packed_bytes(self, codec: Codec) -> int:
        """Bytes of one token's hidden state on a link with this codec."""
        if codec == "none":
            return self.activation_bytes
        return packed_bytes(self.activation_bytes // self.element_bytes, self.element_bytes, codec)
