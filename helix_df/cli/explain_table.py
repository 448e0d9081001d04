"""An explanation as a person reads it.

Owns the words and the layout. Every number comes from the explanation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.table import Table

from helix_df.cli.console import print_trimmed
from helix_df.cli.words import count, gain, labelled, names, number, plain_table
from helix_df.explanation.explain import BindingNode, Explanation, OneMoreGpu
from helix_df.explanation.idle import IdleNode
from helix_df.explanation.links import FullLink

MAX_LINKS = 12
MAX_NODES = 4
"""Nodes of the cut that are listed with GPU and layers."""


def render_explanation(found: Explanation, console: Console) -> None:
    """Print an explanation: the bottleneck, what would widen it, and who does nothing."""
    parts: list[RenderableType] = [labelled(_summary(found)), "", _gpu_table(found), *_gpu_remarks(found)]
    if found.links:
        parts += ["", _link_table(found.links[:MAX_LINKS], found.flow)]
        parts += [f"… and {len(found.links) - MAX_LINKS} more"] if len(found.links) > MAX_LINKS else []
    if found.idle:
        parts += ["", labelled(_idle(found.idle))]
    print_trimmed(console, *parts)


def _summary(found: Explanation) -> Iterator[tuple[str, str]]:
    gap = (found.bound - found.flow) / found.bound if found.bound > 0 else 0.0
    yield "job", found.job
    yield "flow", f"{number(found.flow)} of at most {number(found.bound)} tokens/s; gap {gap:.1%}"
    yield "bottleneck", _bottleneck(found)
    if found.also_full:
        yield "also full", f"{names(found.also_full)}: they bind next, or with the bottleneck"
    if not found.links:
        yield "links", "none is full, so a faster one would change nothing"


def _bottleneck(found: Explanation) -> str:
    parts = [_node(node) for node in found.cut_nodes[:MAX_NODES]]
    rest = found.cut_nodes[MAX_NODES:]
    if rest:
        parts.append(f"{count(rest, 'more node')} ({names([node.node for node in rest])})")
    if len(found.cut_links) == 1:
        parts.append("the link {} → {}".format(*found.cut_links[0]))
    elif found.cut_links:
        shown = names([f"{tail} → {head}" for tail, head in found.cut_links])
        parts.append(f"one of {len(found.cut_links)} links ({shown})")
    if not parts:
        return "none: nothing flows"
    every = "every token passes " + (" or ".join(parts) if len(parts) < 3 else f"one of: {'; '.join(parts)}")
    total = len(found.cut_nodes) + len(found.cut_links)
    return f"{every}; {'it is' if total == 1 else 'they are'} full at {number(found.flow)} tokens/s" + (
        "" if total == 1 else " together"
    )


def _node(node: BindingNode) -> str:
    limit = "" if node.limit == "device" else "'s network card"
    return f"{node.node}{limit} ({node.gpu}, layers {node.layers})"


def _gpu_table(found: Explanation) -> Table:
    table = plain_table("one more", "have", "beside the others", "gain", "re-planned", "at most", numbers=_NUMBERS)
    for worth in found.gpus:
        table.add_row(
            worth.gpu,
            str(worth.owned),
            _where(worth),
            gain(worth.beside.flow - found.flow, found.flow),
            "–" if worth.replanned is None else f"{number(worth.replanned)} ({worth.replanned / found.flow - 1:+.1%})",
            number(worth.bound),
        )
    return table


_NUMBERS = ("have", "gain", "re-planned", "at most")


def _where(worth: OneMoreGpu) -> str:
    if worth.beside.layers is None:
        return "adds nothing anywhere"
    return f"layers {worth.beside.layers}, linked as {worth.beside.like}"


def _gpu_remarks(found: Explanation) -> Iterator[str]:
    yield "gain: the exact flow of this placement with the new node where it adds most; no other node moves"
    again = found.replanning
    if again is not None:
        now = f"{number(again.flow)}" if again.flow is not None else "nothing"
        yield (
            f"re-planned: the exact flow of what {again.solver} finds in {again.seconds_each:.1f} s with the new node; "
            f"without it: {now}"
        )
    yield "at most: no placement with the new node has more"


def _link_table(links: Iterable[FullLink], flow: float) -> Table:
    table = plain_table("full link", "carries", "doubled", "gain", "", numbers=("carries", "doubled", "gain"))
    for link in links:
        helps = link.doubled_flow > flow + 0.05
        remark = "" if helps else "in the bottleneck, and not alone" if link.in_cut else "not the bottleneck"
        table.add_row(
            f"{link.tail} → {link.head}",
            number(link.capacity),
            number(link.doubled_flow),
            gain(link.doubled_flow - flow, flow),
            remark,
        )
    return table


def _idle(nodes: Iterable[IdleNode]) -> Iterator[tuple[str, str]]:
    groups: dict[str, list[IdleNode]] = {}
    for node in nodes:
        groups.setdefault(node.why, []).append(node)
    label = "idle"
    for why, members in groups.items():
        listed = names([node.node for node in members])
        yield label, f"{listed}: {_REASONS[why](members)}"
        label = ""


def _slow(nodes: list[IdleNode]) -> str:
    best = max(node.fast_flow or 0.0 for node in nodes)
    return f"behind slow links: if those of one carried anything, the flow would be up to {number(best)}"


def _spare(nodes: list[IdleNode]) -> str:
    most = max(node.most_through or 0.0 for node in nodes)
    return f"in reserve: up to {number(most)} tokens/s could pass one, but the bottleneck is elsewhere"


_REASONS = {
    "fits_nothing": lambda _nodes: "not one layer fits",
    "excluded": lambda _nodes: "left out by limits.avoid",
    "left_out": lambda _nodes: "given no layers by the solver",
    "no_way_in": lambda _nodes: "out of reach: no node with a link to it ends where its layers continue",
    "no_way_out": lambda _nodes: "a dead end: no path leads from its last layer to the end of the model",
    "slow_links": _slow,
    "spare": _spare,
}
