"""What can be had: a job's offers as numbers, and the problem and the job of a fleet of them.

Owns how a fleet (a count for each offer) becomes nodes beside those that the job has already. Doesn't search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from helix_df.errors import SpecError
from helix_df.graph.compile import compile_problem, origin_of
from helix_df.graph.problem import COORDINATOR, NodeProfile, Problem
from helix_df.spec.job import Job, Offer
from helix_df.spec.nodes import Node

UNITS = 1_000_000
"""Prices are counted in millionths, so that costs are whole numbers and equal costs are equal."""

Fleet = tuple[int, ...]
"""How many nodes of each offer, in the order of the job's offers."""


@dataclass(frozen=True, slots=True)
class OfferedNode:
    """An offer: a node of it, what one costs an hour in millionths, and how many there are (``None``: any number)."""

    name: str
    node: NodeProfile
    price_units: int
    most: int | None


class Market:
    """A job's offers beside the nodes that it has.

    ``whole`` is the problem of the kept nodes and one node of each offer, whose positions are ``kept`` and after; all
    that holds for each of its nodes holds for every node of any fleet.
    """

    def __init__(self, job: Job) -> None:
        """Compile a job's offers.

        Raises:
            SpecError: for a job without offers.
            ModelError: as ``compile_problem``.
        """
        if not job.offers:
            raise SpecError(
                "the job offers nothing to choose from",
                where="offers",
                expected="offers by name, such as 'l4: {gpu: L4, price: 0.44}'",
            )
        self.job = job
        self.kept = len(job.nodes)
        self._requests = origin_of(job).requests
        self.whole = compile_problem(self.job_of((1,) * len(job.offers)))
        self.offers = tuple(
            OfferedNode(name, node, _units(job, offer), offer.most)
            for (name, offer), node in zip(job.offers.items(), self.whole.nodes[self.kept :], strict=True)
        )

    @property
    def nothing(self) -> Fleet:
        """The fleet of the kept nodes alone."""
        return (0,) * len(self.offers)

    @property
    def request_tokens(self) -> float:
        """Tokens of the mean request, prompt and output."""
        return self._requests.tokens

    @property
    def output_share(self) -> float:
        """Generated tokens, as a share of all that flow."""
        return self._requests.output_tokens / self._requests.tokens

    def flow_of(self, rate: float) -> float:
        """Tokens/s, prompt and output, of ``rate`` requests/s."""
        return rate * self.request_tokens

    def cost_units(self, fleet: Fleet) -> int:
        """What a fleet costs an hour, in millionths."""
        return sum(count * offer.price_units for count, offer in zip(fleet, self.offers, strict=True))

    def cost(self, fleet: Fleet) -> float:
        """What a fleet costs an hour."""
        return self.cost_units(fleet) / UNITS

    def job_of(self, fleet: Fleet) -> Job:
        """The job with the fleet's nodes and without offers: one that every command takes."""
        nodes = dict(self.job.nodes)
        for (name, offer), count in zip(self.job.offers.items(), fleet, strict=True):
            for node in _names(name, count, self.job.nodes):
                nodes[node] = _node(offer)
        used = {self.job.coordinator.region, *(node.region for node in nodes.values())}
        between = tuple(entry for entry in self.job.links.regions if used.issuperset(entry.between))
        links = self.job.links
        if between != links.regions:
            links = links.model_copy(update={"regions": between})
        return self.job.model_copy(update={"nodes": nodes, "offers": {}, "links": links})

    def problem(self, fleet: Fleet) -> Problem:
        """``compile_problem`` of ``job_of(fleet)``, without compiling again."""
        kept = self.whole.nodes[: self.kept]
        added = [
            replace(offer.node, name=name)
            for offer, count in zip(self.offers, fleet, strict=True)
            for name in _names(offer.name, count, self.job.nodes)
        ]
        nodes = (*kept, *added)
        regions = {node.name: node.region for node in nodes} | {COORDINATOR: self.job.coordinator.region}
        used = set(regions.values())
        between = {pair: link for pair, link in self.whole.links.by_region.items() if used.issuperset(pair)}
        return replace(self.whole, nodes=nodes, links=replace(self.whole.links, regions=regions, by_region=between))

    def nodes_of(self, fleet: Fleet) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Positions of offers that a fleet has nodes of, with the names of these."""
        for place, (offer, count) in enumerate(zip(self.offers, fleet, strict=True)):
            if count:
                yield place, tuple(_names(offer.name, count, self.job.nodes))

    def words(self, fleet: Fleet) -> str:
        """``12 rtx4090 + 2 t4``."""
        parts = [f"{count} {offer.name}" for count, offer in zip(fleet, self.offers, strict=True) if count]
        return " + ".join(parts) or "nothing more"


def contains(large: Fleet, small: Fleet) -> bool:
    """Whether a fleet has all nodes of another."""
    return all(a >= b for a, b in zip(large, small, strict=True))


def restricted(job: Job, names: Sequence[str]) -> Job:
    """The job with these of its offers alone."""
    return job.model_copy(update={"offers": {name: offer for name, offer in job.offers.items() if name in names}})


def _units(job: Job, offer: Offer) -> int:
    price = job.price_of(offer)
    if price is None:
        raise SpecError("nobody says what a node of this offer costs", where=f"offers of {offer.gpu}")
    return max(1, round(price * UNITS))


def _names(offer: str, count: int, taken: dict[str, Node]) -> Iterator[str]:
    """Names of an offer's nodes, the same for every fleet; those that the job uses are passed over."""
    number = given = 0
    while given < count:
        number += 1
        name = f"{offer}-{number}"
        if name not in taken:
            given += 1
            yield name


def _node(offer: Offer) -> Node:
    # Fields of a section take what people write; these values have been parsed already.
    said = {name: getattr(offer, name) for name in ("gpu", "region", "nic") if name in offer.model_fields_set}
    return Node.model_construct(**said)
