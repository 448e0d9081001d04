"""Witnesses of upper bounds: the few numbers with which a bound on every placement's flow is proven by evaluation.

Owns what each kind of bound needs as witness, and its evaluation: plain arithmetic in one pass, no search, no solver.
Doesn't find witnesses (``bounds``).

An evaluation trusts nothing. Whatever numbers stand in a witness, what it returns is a bound that no placement exceeds
(infinity where they prove nothing); good numbers only make it low. So a plan keeps its certificate however bounds and
searches improve, as long as its kind is evaluated as it was: a changed argument is a new kind. Comparisons leave room
for rounding on the side of a higher bound (``covering.PROVEN_SLACK``, ``priced_covering.EVALUATED``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, get_args

import numpy as np
from pydantic import TypeAdapter

from helix_df.graph.capacities import Floats, capacity_matrix, request_matrix
from helix_df.graph.covering import Covering, NodeKinds, kinds_of
from helix_df.graph.link_classes import LinkClasses
from helix_df.graph.priced_covering import EVALUATED, describe, dual_bound
from helix_df.graph.problem import Problem


@dataclass(frozen=True, slots=True)
class LayerCovering:
    """A flow that is ruled out because nodes can't cover all layers with it (after LP duality: one price a layer).

    Proof. Take a placement with flow ``F`` where node ``i`` holds ``k_i`` layers. Every token runs every layer once,
    so the nodes that hold a layer pass at least ``F`` together, and one of them passes at most ``min(T_i(k_i), F)``.
    Sum over the ``L`` layers: node ``i`` is counted ``k_i`` times, hence ``Σ_i k_i·min(T_i(k_i), F) ≥ L·F``. Replace
    ``k_i`` by the best ``k``. Divided by ``F`` the left side never grows with ``F``: where one ``F`` breaks the
    inequality, every larger one does. Links and network cards only lower the flow. Holds with and without partial
    inference.
    """

    kind: ClassVar[str] = "covering"
    flow: float

    def evaluate(self, problem: Problem) -> float:
        """``flow``, if the inequality rules it out."""
        return layer_covering(problem).evaluate(self.flow)


@dataclass(frozen=True, slots=True)
class LinkedCovering:
    """``LayerCovering`` where a node also passes no more than half of what its links carry together.

    Proof. A placement uses the link between two nodes in one direction only: a request goes from ``i`` to ``j`` only if
    ``stop_i < stop_j`` (with and without partial inference). So what enters node ``i`` and what leaves it share
    ``Σ_j c_ij`` between nodes, ``c_ij`` that of the better direction; with fewer than all layers the node also starts
    or ends at the coordinator, not both, hence ``2·f_i ≤ Σ_j c_ij + c_i``, ``c_i`` that of the better direction. With
    all ``L`` layers ``2·f_i ≤ Σ_j c_ij + a_i + b_i``, what the coordinator sends and gets. Nor is ``f_i`` more than all
    links into the node carry, or all out of it, which says nothing new where links are the same both ways. These limits
    may replace ``T_i(k)`` by the smaller number in the proof of ``LayerCovering``.
    """

    kind: ClassVar[str] = "linked covering"
    flow: float

    def evaluate(self, problem: Problem) -> float:
        """``flow``, if the inequality rules it out."""
        return linked_covering(problem).evaluate(self.flow)


@dataclass(frozen=True, slots=True)
class LimitedCovering:
    """``LayerCovering`` among placements that keep ``limits.max_hops`` and ``limits.min_requests``, for two prices.

    ``per_hop`` in layers a node that a token visits; ``per_request`` in layers a request whose KV cache fits a layer.

    Proof (Lagrange multipliers of the two limits). Take a placement with flow ``F`` that keeps the limits; a token
    visits at most ``H`` nodes and runs all ``L`` layers on them, so the layers it runs, less ``per_hop`` = ``λ`` for
    each node it visits, are at least ``L − λ·H``. Summed over the flow, a node that passes ``f_i ≤ min(T_i(k_i), F)``
    with ``k_i`` layers gives at most ``max(0, k_i − λ)·f_i``, hence ``Σ_i max(0, k_i − λ)·min(T_i(k_i), F) ≥
    (L − λ·H)·F``. Every layer has KV cache for ``R`` requests, so with ``q_i(k)`` requests on node ``i``, summed over
    layers, ``Σ_i k_i·q_i(k_i) ≥ L·R``. Add the second, times ``per_request`` = ``μ``, to the first divided by ``F`` and
    replace ``k_i`` by the best ``k``: ``Σ_i max_k [max(0, k − λ)·min(T_i(k)/F, 1) + μ·k·q_i(k)] ≥ L − λ·H + μ·L·R``.
    The left side never grows with ``F``. Holds for any ``λ, μ ≥ 0``; without a limit on hops ``λ`` must be 0.
    """

    kind: ClassVar[str] = "limited covering"
    flow: float
    per_hop: float
    per_request: float

    def evaluate(self, problem: Problem) -> float:
        """``flow``, if the inequality rules it out at these prices."""
        has_hops = problem.limits.max_hops is not None
        if not (0 <= self.per_hop < math.inf and 0 <= self.per_request < math.inf and (has_hops or not self.per_hop)):
            return math.inf
        covering = limited_covering(problem, limited_kinds(problem), self.per_hop, self.per_request)
        return covering.evaluate(self.flow)


@dataclass(frozen=True, slots=True)
class SiteShares:
    """Nodes in groups (``sites``, by name), and for each a flow that ``LayerCovering`` rules out inside it (``alone``).

    Proof. Split a placement's flow into pipelines. Those that stay inside one site are a flow over its nodes alone, at
    most the site's covering bound. Every other pipeline uses at least ``m`` links between sites, where no ``m`` sites
    hold ``L`` layers together or ``m = 1``; a link is used in one direction only (``LinkedCovering``), so these
    pipelines carry at most ``Σ c / m``, of the better directions. Whoever uses more sites crosses at least once for
    each but the first: with ``n`` the least number of sites whose memory holds the model, ``m = max(1, n - 1)``. Holds
    for any groups.
    """

    kind: ClassVar[str] = "sites"
    sites: tuple[tuple[str, ...], ...]
    alone: tuple[float, ...]

    def evaluate(self, problem: Problem) -> float:
        """What sites serve alone and what the links between them carry."""
        sites = site_positions(problem, self.sites)
        if sites is None or len(self.alone) != len(sites):
            return math.inf
        coverings = site_coverings(problem, sites)
        alone = sum(covering.evaluate(flow) for covering, flow in zip(coverings, self.alone, strict=True))
        return float(alone + links_between(problem, sites))


@dataclass(frozen=True, slots=True)
class NodePrices:
    """A flow that dual prices of nodes rule out (``priced_covering``, where the proof is; it holds for any prices).

    ``prices``: for a node of each kind, which all nodes with the same tokens/s by layers held share. ``sites``: groups
    of nodes by name, as in ``SiteShares``.
    """

    kind: ClassVar[str] = "priced covering"
    flow: float
    prices: dict[str, float]
    sites: tuple[tuple[str, ...], ...]

    def evaluate(self, problem: Problem) -> float:
        """``flow``, if the prices rule it out."""
        sites = site_positions(problem, self.sites)
        place = {node.name: i for i, node in enumerate(problem.nodes)}
        priced = all(name in place and 0 <= price < math.inf for name, price in self.prices.items())
        if sites is None or not priced or not 0 < self.flow < math.inf:
            return math.inf
        cluster, kind_of = describe(problem, sites)
        prices = np.full(len(cluster.counts), np.nan)
        for name, price in self.prices.items():
            if kind_of[place[name]] >= 0:
                prices[kind_of[place[name]]] = price
        if not len(prices) or np.isnan(prices).any():
            return math.inf
        return self.flow if dual_bound(cluster, prices, self.flow) > EVALUATED else math.inf


Witness = LayerCovering | LinkedCovering | LimitedCovering | SiteShares | NodePrices

KINDS: dict[str, type[Witness]] = {shape.kind: shape for shape in get_args(Witness)}
"""Every kind of bound that this release evaluates."""


def witness_document(witness: Witness) -> dict[str, Any]:
    """The witness's fields, for JSON; the kind is not among them."""
    return asdict(witness)


def read_witness(kind: str, document: object) -> Witness:
    """The witness of a document.

    Raises:
        ValueError: for a kind that this release doesn't know, or fields that don't fit it.
    """
    if kind not in KINDS:
        raise ValueError(f"a certificate of the kind {kind!r}, which this release doesn't know")
    witness: Witness = TypeAdapter(KINDS[kind]).validate_python(document)
    return witness


# ------------------------------------------------------------------ the numbers of the arguments


def layer_covering(problem: Problem) -> Covering:
    """The inequality of ``LayerCovering``."""
    return Covering(kinds_of(capacity_matrix(problem)), problem.num_layers)


def linked_covering(problem: Problem) -> Covering:
    """The inequality of ``LinkedCovering``."""
    capacity, links = capacity_matrix(problem), LinkClasses(problem)
    between, coordinator = links.sums(), np.maximum(links.enters, links.leaves)
    limited = np.minimum(capacity, ((between + coordinator) / 2)[:, None])
    if capacity.shape[1] > problem.num_layers:
        whole = problem.num_layers
        limited[:, whole] = np.minimum(capacity[:, whole], between / 2 + (links.enters + links.leaves) / 2)
    one_way = np.minimum(links.into() + links.enters, links.out_of() + links.leaves)
    limited = np.minimum(limited, one_way[:, None])
    return Covering(kinds_of(limited), problem.num_layers)


def limited_kinds(problem: Problem) -> NodeKinds:
    """The nodes of ``LimitedCovering``, which are the same at all prices; they add the requests that they hold."""
    fit = request_matrix(problem)
    held: Floats = (fit * np.arange(fit.shape[1])).astype(np.float64)
    return kinds_of(capacity_matrix(problem), held)


def limited_covering(problem: Problem, kinds: NodeKinds, per_hop: float, per_request: float) -> Covering:
    """The inequality of ``LimitedCovering`` at these prices."""
    layers = problem.num_layers
    hops, requests = per_hop * (problem.limits.max_hops or 0), per_request * layers * problem.limits.min_requests
    return Covering(kinds, layers - hops + requests, per_hop, per_request, layers + hops + requests)


def site_coverings(problem: Problem, sites: Sequence[Sequence[int]]) -> list[Covering]:
    """``layer_covering`` inside each site (positions of nodes)."""
    capacity = capacity_matrix(problem)
    return [Covering(kinds_of(capacity[list(site)]), problem.num_layers) for site in sites]


def links_between(problem: Problem, sites: Sequence[Sequence[int]]) -> float:
    """Tokens/s that pipelines over several sites carry at most (``SiteShares``)."""
    most = [sum(problem.nodes[i].max_layers for i in site) for site in sites]
    held, needed = 0, 0
    for layers in sorted(most, reverse=True):
        if held >= problem.num_layers:
            break
        held, needed = held + layers, needed + 1
    group = np.full(len(problem.nodes), -1)
    for g, site in enumerate(sites):
        group[list(site)] = g
    rates, counts = LinkClasses(problem).apart(np.arange(len(group)), group)
    return float(rates @ counts / max(1, needed - 1))


def site_names(problem: Problem, sites: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
    """Sites by the names of their nodes."""
    return tuple(tuple(problem.nodes[i].name for i in site) for site in sites)


def site_positions(problem: Problem, sites: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...] | None:
    """Sites by positions of nodes; ``None`` unless every node that can hold a layer is in exactly one."""
    place = {node.name: i for i, node in enumerate(problem.nodes)}
    listed = [name for site in sites for name in site]
    needed = {node.name for node in problem.nodes if node.max_layers}
    if len(set(listed)) != len(listed) or not needed <= set(listed) <= place.keys():
        return None
    return tuple(tuple(place[name] for name in site) for site in sites)
