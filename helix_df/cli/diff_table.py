"""A comparison of plans as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from helix_df.cli.console import print_trimmed
from helix_df.cli.words import count, gain, labelled, number, plain_table
from helix_df.layers import LayerRange
from helix_df.pictures.layout import size
from helix_df.plan.diff import NodeMove, PlanDiff


def render_diff(found: PlanDiff, console: Console) -> None:
    """Print the comparison: flow, cost of the change, and every node whose layers change."""
    parts: list[RenderableType] = [labelled(_summary(found))]
    if found.moves:
        parts += ["", _move_table(found.moves)]
    print_trimmed(console, *parts)


def _summary(found: PlanDiff) -> Iterator[tuple[str, str]]:
    change = gain(found.flow_after - found.flow_before, found.flow_before)
    yield "flow", f"{number(found.flow_before)} → {number(found.flow_after)} tokens/s ({_unchanged(change)})"
    if found.bound_after != found.bound_before:
        yield "bound", f"{number(found.bound_before)} → {number(found.bound_after)} tokens/s"
    if found.generated_before is not None or found.generated_after is not None:
        yield (
            "generated",
            f"{_figure(found.generated_before)} → {_figure(found.generated_after)} tokens/s in simulation",
        )
        if found.ceiling_before != found.ceiling_after:
            yield "ceiling", f"{_figure(found.ceiling_before)} → {_figure(found.ceiling_after)} tokens/s"
    if found.is_empty:
        yield "layers", f"no layer moves: all {found.unchanged} nodes keep theirs"
        return
    yield "layers", f"{count(found.moves, 'node')} change, {found.unchanged} keep theirs"
    yield "to load", size(found.load_bytes) if found.load_bytes else "nothing"
    yield (
        "re-routed",
        f"{found.rerouted_share:.1%} of the traffic ({number(found.rerouted_tokens_per_s)} tokens/s) "
        "runs through a stage that changes",
    )


def _figure(tokens_per_s: float | None) -> str:
    return "–" if tokens_per_s is None else number(tokens_per_s)


def _unchanged(change: str) -> str:
    return "the same" if change == "–" else change.replace(" (", ", ").removesuffix(")")


def _move_table(moves: Sequence[NodeMove]) -> Table:
    table = plain_table("node", "layers", "", "loads", "bytes", "drops", numbers=("bytes",))
    for move in moves:
        table.add_row(
            move.node,
            "–" if move.old is None else str(move.old),
            f"→ {'–' if move.new is None else move.new}" + (" another machine" if move.replaced else ""),
            _ranges(move.loaded),
            size(move.load_bytes) if move.load_bytes else "–",
            _ranges(move.dropped),
        )
    return table


def _ranges(parts: Sequence[LayerRange]) -> str:
    return ", ".join(map(str, parts)) or "–"
