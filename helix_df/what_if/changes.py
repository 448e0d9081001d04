"""Changes of a job as data, and the job that follows: nodes more or less, another link, another rate.

Owns what each change means for every part of the job that it touches. Doesn't know how a change is written on a
command line (``read_changes``), and plans nothing (``replan``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helix_df.errors import SpecError
from helix_df.graph.compile import link_table
from helix_df.graph.problem import Link
from helix_df.profiles.catalogue import devices, find_device
from helix_df.spec.job import COORDINATOR, Job, LinkQuality, Links, PairLink
from helix_df.spec.nodes import Node
from helix_df.spec.scale import Scale
from helix_df.suggestions import did_you_mean

MAX_SHOWN = 20
LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class AddNodes:
    """``count`` more nodes of a GPU type. ``region`` may be left out where all nodes are in one."""

    gpu: str
    count: int = 1
    region: str | None = None

    def __str__(self) -> str:
        return f"with {self.count} {self.gpu}" + (f" in {self.region}" if self.region else "")


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """One node less."""

    node: str

    def __str__(self) -> str:
        return f"without {self.node}"


@dataclass(frozen=True, slots=True)
class SetLink:
    """The link between two regions, inside one, or between two nodes or a node and the coordinator.

    ``latency_s``: one way; ``None`` leaves it as it is. ``one_way``: only from the first to the second.
    """

    between: tuple[str, str]
    bytes_per_s: float
    latency_s: float | None = None
    one_way: bool = False

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """From where to where, each once."""
        return (self.between,) if self.one_way else tuple(dict.fromkeys((self.between, self.between[::-1])))

    def __str__(self) -> str:
        latency = f", {self.latency_s * 1e3:g} ms" if self.latency_s is not None else ""
        ends = ("->" if self.one_way else "-").join(self.between)
        return f"{ends} at {self.bytes_per_s * 8 / 1e6:,.10g} Mbit/s{latency}"


@dataclass(frozen=True, slots=True)
class SetRate:
    """Requests/s that arrive: ``workload.rate``, at which the solver goodput judges latency."""

    rate: float

    def __str__(self) -> str:
        return f"{self.rate:g} requests/s"


Change = AddNodes | RemoveNode | SetLink | SetRate


def changed(job: Job, changes: Iterable[Change]) -> Job:
    """The job after all changes, in their order.

    Raises:
        SpecError: for a GPU, region or node that isn't there, and for what can't be meant; ``where`` names the option.
    """
    for change in changes:
        match change:
            case AddNodes():
                job = _with_nodes(job, change)
            case RemoveNode():
                job = _without_node(job, change)
            case SetLink():
                job = _with_link(job, change)
            case SetRate():
                job = _with_rate(job, change)
    return job


def _with_nodes(job: Job, change: AddNodes) -> Job:
    _require_gpu(job, change.gpu)
    if change.count < 1:
        raise SpecError("at least one node must be added", where="--add-node", found=change.count)
    region = _region(job, change)
    like = _like(job, change.gpu, region)
    twin = _twin(job, change.gpu, like)
    for _ in range(change.count):
        name = _free_name(job, change.gpu)
        job = _updated(job, links=_linked_like(job, like, name), nodes={**job.nodes, name: twin})
    return job


def _require_gpu(job: Job, gpu: str) -> None:
    if gpu not in job.gpus and find_device(gpu) is None:
        known = [*job.gpus, *(name for name in devices() if name not in job.gpus)]
        raise _unknown("GPU", gpu, known, "--add-node")


def _region(job: Job, change: AddNodes) -> str:
    regions = list(dict.fromkeys(node.region for node in job.nodes.values()))
    if change.region is None:
        if len(regions) > 1:
            raise SpecError(
                "there are several regions, so the new node's must be said",
                where="--add-node",
                found=change.gpu,
                expected=f"{change.gpu}:{change.count}@REGION, with one of {', '.join(regions)}",
            )
        return regions[0]
    if change.region not in regions:
        raise _unknown("region", change.region, regions, "--add-node")
    return change.region


def _like(job: Job, gpu: str, region: str) -> str:
    """The node that a new one is linked like: of its type if there is one, but in its region first of all."""
    return min(job.nodes, key=lambda name: (job.nodes[name].region != region, job.nodes[name].gpu != gpu))


def _twin(job: Job, gpu: str, like: str) -> Node:
    """A node here, without an address; its network card is that of a node of its type, if there is one."""
    same = [node for node in (job.nodes[like], *job.nodes.values()) if node.gpu == gpu]
    card = (same[0] if same else job.nodes[like]).nic
    return Node.model_construct(gpu=gpu, region=job.nodes[like].region, address=None, launcher=None, nic=card)


def _free_name(job: Job, gpu: str) -> str:
    stem = gpu[: LONGEST_NAME - 8]
    return next(name for i in range(1, len(job.nodes) + 2) if (name := f"{stem}-new{i}") not in job.nodes)


def _linked_like(job: Job, like: str, name: str) -> Links:
    """The links with those of ``like`` for ``name`` too, where the job names links node by node.

    Nothing is said there about the link between the two; then it is the best that ``like`` has.
    """
    own = [entry for entry in job.links.nodes if like in entry.between]
    twins = [
        entry.model_copy(update={"between": tuple(name if end == like else end for end in entry.between)})
        for entry in own
    ]
    if own and _in_force(job, like, like) is None:
        best = max(own, key=lambda entry: (entry.bandwidth, -entry.latency))
        twins.append(best.model_copy(update={"between": (like, name), "one_way": False}))
    return job.links.model_copy(update={"nodes": (*job.links.nodes, *twins)})


def _without_node(job: Job, change: RemoveNode) -> Job:
    name = change.node
    if name not in job.nodes:
        raise _unknown("node", name, list(job.nodes), "--remove-node")
    if len(job.nodes) == 1:
        raise SpecError("the last node can't be removed", where="--remove-node", found=repr(name))
    nodes = {other: node for other, node in job.nodes.items() if other != name}
    regions = {job.coordinator.region, *(node.region for node in nodes.values())}
    links = job.links.model_copy(
        update={
            "nodes": tuple(entry for entry in job.links.nodes if name not in entry.between),
            "regions": tuple(entry for entry in job.links.regions if regions.issuperset(entry.between)),
        }
    )
    limits = job.limits.model_copy(
        update={
            "use": tuple(other for other in job.limits.use if other != name),
            "avoid": tuple(other for other in job.limits.avoid if other != name),
            "pin": {other: layers for other, layers in job.limits.pin.items() if other != name},
        }
    )
    return _updated(job, nodes=nodes, links=links, limits=limits, scale=_scale_without(job, nodes))


def _scale_without(job: Job, nodes: Collection[str]) -> Scale | None:
    """What of ``scale`` still names nodes; of the most, and the fewest, no more than there are."""
    scale = job.scale
    kept = () if scale is None else tuple(it for it in scale.nodes if Scale(nodes=(it,)).named(nodes))
    if scale is None or not kept:
        return None
    count = len(scale.model_copy(update={"nodes": kept}).named(nodes))
    most = None if scale.max is None else min(scale.max, count)
    return scale.model_copy(update={"nodes": kept, "max": most, "min": min(scale.min, count)})


def _with_link(job: Job, change: SetLink) -> Job:
    a, b = change.between
    regions = regions_of(job)
    ends = [*job.nodes, COORDINATOR]
    if a in regions and b in regions:
        if a == b and change.one_way:
            raise SpecError(
                "links inside a region go both ways", where="--link", found=f"{a}->{b}", expected=f"{a}-{b}"
            )
        return _between_regions(job, change)
    if a in ends and b in ends:
        if a == b:
            raise SpecError("a node has no link to itself", where="--link", found=f"{a}-{b}")
        return with_node_link(job, change)
    known = regions if (a in regions or b in regions) else ends
    missing = next((name for name in (a, b) if name not in (*regions, *ends)), None)
    if missing is not None:
        raise _unknown("region" if known is regions else "node", missing, known, "--link")
    raise SpecError(
        "one end is a region and the other a node", where="--link", found=f"{a}-{b}", expected="two of a kind"
    )


def regions_of(job: Job) -> list[str]:
    """Regions of nodes and the coordinator, in the order of the file."""
    return list(dict.fromkeys([*(node.region for node in job.nodes.values()), job.coordinator.region]))


def _between_regions(job: Job, change: SetLink) -> Job:
    """Also links that the job names node by node across the two regions become what is asked."""
    table = link_table(job)
    links, ways = job.links, change.directions
    of = {name: node.region for name, node in job.nodes.items()} | {COORDINATOR: job.coordinator.region}
    across = {
        ends: table.by_node[ends]
        for entry in links.nodes
        for ends in entry.directions
        if (of[ends[0]], of[ends[1]]) in ways
    }
    named = _put(links.regions, change, {ends: table.between(*ends) for ends in ways})
    nodes = _put(links.nodes, change, dict(across))
    return _updated(job, links=links.model_copy(update={"regions": named, "nodes": nodes}))


def with_node_link(job: Job, change: SetLink) -> Job:
    """The job with another link between two nodes, or a node and the coordinator; all else about it stays."""
    table = link_table(job)
    nodes = _put(job.links.nodes, change, {ends: table.find(*ends) for ends in change.directions})
    return _updated(job, links=job.links.model_copy(update={"nodes": nodes}))


def _in_force(job: Job, a: str, b: str) -> Link | None:
    """What links two ends; for the same end twice, what links two nodes of its region that nobody names."""
    table = link_table(job)
    return table.find(a, b) if a != b else table.between(table.regions[a], table.regions[a])


def _put(
    entries: tuple[PairLink, ...], change: SetLink, before: Mapping[tuple[str, str], Link | None]
) -> tuple[PairLink, ...]:
    """The entries with a change of some directions, of which ``before`` has what links them now.

    What is the same both ways stays one entry, in its place; other directions get one of their own.
    """
    new = {ends: _quality(change, link) for ends, link in before.items()}
    kept: list[PairLink] = []
    for entry in entries:
        ways = dict.fromkeys(entry.directions)
        asked = [new.get(ends) for ends in ways if ends in before]
        if len(asked) < len(ways):
            kept.append(entry)
        elif asked[0] is not None and asked.count(asked[0]) == len(ways):
            kept.append(_entry(entry.between, asked[0], one_way=entry.one_way))
            for ends in ways:
                del new[ends]
    while new:
        ends, quality = next(iter(new.items()))
        both = new.get(ends[::-1]) == quality
        kept.append(_entry(ends, quality, one_way=not both))
        for done in {ends, ends[::-1]} if both else {ends}:
            del new[done]
    return tuple(kept)


def _entry(between: tuple[str, str], quality: LinkQuality, *, one_way: bool) -> PairLink:
    return PairLink.model_construct(between=between, one_way=one_way, **dict(quality))


def _quality(change: SetLink, before: Link | None) -> LinkQuality:
    latency_s = change.latency_s if change.latency_s is not None else before.latency_s if before is not None else 0.0
    # Pydantic's fields take what people write; these values have been parsed already.
    codec = before.codec if before is not None else "none"
    return LinkQuality.model_construct(bandwidth=change.bytes_per_s, latency=latency_s, codec=codec)


def _with_rate(job: Job, change: SetRate) -> Job:
    if not 0 < change.rate < float("inf"):
        raise SpecError("a rate must be above zero", where="--rate", found=change.rate)
    return _updated(job, workload=job.workload.model_copy(update={"rate": change.rate}))


def _updated(job: Job, **parts: Any) -> Job:
    return job.model_copy(update=parts)


def _unknown(noun: str, name: str, known: Collection[str], where: str) -> SpecError:
    names = list(known)
    return SpecError(
        f"there is no {noun} called {name!r}{did_you_mean(name, names)}",
        where=where,
        found=repr(name),
        expected=" | ".join(names[:MAX_SHOWN]) + (" | …" if len(names) > MAX_SHOWN else ""),
    )
