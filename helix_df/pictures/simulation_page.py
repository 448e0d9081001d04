"""A simulation, or several side by side, as one HTML page that needs nothing else.

Owns what the page shows and in which words; its looks are ``simulation_page.html``. Every number comes from the
outcomes. Names are user input: the template escapes them, and so do the SVGs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from helix_df.pictures.layout import model_name, number
from helix_df.pictures.load_words import layers_held, link_rates, node_cells
from helix_df.pictures.plan_svg import draw_plan
from helix_df.pictures.simulation_charts import colour_of, latency_charts, node_map, time_charts
from helix_df.pictures.svg import STYLE, Drawing
from helix_df.simulator.outcome import LinkLoad, NodeLoad, Outcome
from helix_df.what_if import ComparisonRow, Simulated, row_of

MAX_NODES = 200
MAX_LINKS = 12
NODE_HEADS = ("busy", "decode batch", "decode/s", "prompt/s", "KV mean", "KV peak", "waiting")


@dataclass(frozen=True, slots=True)
class _Tile:
    """A headline figure with what it is and what stands beside it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class _NodeRow:
    name: str
    gpu: str
    layers: str
    share: float
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _LinkCells:
    way: str
    share: float
    carried: str
    capacity: str


@dataclass(frozen=True, slots=True)
class _VariantSection:
    """What is told of one variant alone."""

    name: str
    colour: str
    facts: tuple[tuple[str, str], ...]
    placement: Markup
    map: Markup
    nodes: tuple[_NodeRow, ...]
    more_nodes: int
    links: tuple[_LinkCells, ...]
    more_links: int


def simulation_page(results: Sequence[Simulated], title: str | None = None) -> str:
    """The page of one outcome, or of several side by side.

    Raises:
        ValueError: without an outcome.
    """
    if not results:
        raise ValueError("a page needs at least one outcome")
    return _template().render(
        title=title or results[0].plan.job.name,
        style=Markup(STYLE),
        single=len(results) == 1,
        tiles=tuple(_tiles(results[0].outcome)),
        rows=[(colour_of(place), _cells(row_of(one))) for place, one in enumerate(results)],
        heads=HEADS,
        latency=[_inline(drawing) for drawing in latency_charts(results)],
        over_time=[_inline(drawing) for drawing in time_charts(results)],
        sections=[_section(one, place) for place, one in enumerate(results)],
        node_heads=NODE_HEADS,
    )


@cache
def _template() -> Template:
    text = resources.files("helix_df.pictures").joinpath("simulation_page.html").read_text("utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        text
    )


def _inline(drawing: Drawing) -> Markup:
    return Markup(drawing.inline())


def _tiles(outcome: Outcome) -> Iterator[_Tile]:
    share = outcome.tokens_per_s / outcome.flow if outcome.flow else 0.0
    yield _Tile("decode", number(outcome.decode_tokens_per_s), "tokens/s")
    yield _Tile(
        "prompt",
        number(outcome.prompt_tokens_per_s),
        f"tokens/s; total {share:.0%} of the flow of {number(outcome.flow)}",
    )
    for label, figure in (("TTFT", "ttft"), ("ITL", "itl"), ("end to end", "e2e")):
        middle, high = outcome.percentile(figure, 50), outcome.percentile(figure, 95)
        yield _Tile(label, seconds(middle), f"median; p95 {seconds(high)}")
    yield _Tile(
        "requests",
        f"{outcome.finished:,}",
        f"finished of {len(outcome.requests):,}; {outcome.in_flight:,} in flight, {outcome.waiting:,} waiting, "
        f"{outcome.rejected:,} rejected",
    )


HEADS = ("nodes", "flow", "decode/s", "prompt/s", "TTFT p50", "p95", "ITL p50", "p95", "busy", "rejected")


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    return (
        row.name, f"{row.nodes}", number(row.flow), number(row.decode_tokens_per_s), number(row.prompt_tokens_per_s),
        *(seconds(value) for value in (row.ttft_p50_s, row.ttft_p95_s, row.itl_p50_s, row.itl_p95_s)),
        f"{row.busy:.0%}", f"{row.rejected:,}",
    )  # fmt: skip


def _section(one: Simulated, place: int) -> _VariantSection:
    outcome = one.outcome
    nodes = sorted(outcome.nodes, key=lambda node: (node.layers, node.name))
    links = sorted(outcome.links, key=lambda link: (-link.utilisation, link.tail, link.head))
    return _VariantSection(
        name=one.name,
        colour=colour_of(place),
        facts=tuple(_facts(one)),
        placement=_inline(draw_plan(one.plan)),
        map=_inline(node_map(one, place)),
        nodes=tuple(_node_row(one, node) for node in nodes[:MAX_NODES]),
        more_nodes=max(0, len(nodes) - MAX_NODES),
        links=tuple(_link_row(link) for link in links[:MAX_LINKS]),
        more_links=max(0, len(links) - MAX_LINKS),
    )


def _facts(one: Simulated) -> Iterator[tuple[str, str]]:
    outcome = one.outcome
    yield "model", f"{model_name(one.plan)}, {one.plan.num_layers} layers"
    yield "trace", outcome.trace
    until = ", stopped early" if outcome.stopped else ""
    yield "window", f"{outcome.start_s:g} s to {outcome.end_s:g} s of simulated time{until}"
    yield "scheduler", f"{outcome.scheduler}, seed {outcome.seed}"


def _node_row(one: Simulated, node: NodeLoad) -> _NodeRow:
    gpu = one.plan.job.nodes[node.name].gpu
    return _NodeRow(node.name, gpu, layers_held(node), node.utilisation, node_cells(node))


def _link_row(link: LinkLoad) -> _LinkCells:
    return _LinkCells(f"{link.tail} → {link.head}", link.utilisation, *link_rates(link))


def seconds(value: float) -> str:
    """A latency with three digits, or a dash for none."""
    return "–" if value != value else f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.3g} s"
