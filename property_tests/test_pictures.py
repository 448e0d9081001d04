"""Pictures of random plans: always well-formed and complete, and the gap never grows."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from helix_df.graph.problem import Placement, Problem
from helix_df.pictures.plan_svg import plan_svg
from helix_df.pictures.plan_text import plan_text
from helix_df.pictures.progress import history, sparkline
from helix_df.solvers.api import Incumbent
from property_tests.strategies import placed_problems
from tests.explain.plans import plan_of

reports = st.builds(
    Incumbent,
    st.floats(0, 100),
    st.one_of(st.none(), st.floats(0, 1e6)),
    st.one_of(st.none(), st.floats(1, 1e6)),
    st.just("mip"),
)


@settings(max_examples=50)
@given(placed_problems(max_nodes=6, max_layers=8), st.integers(50, 140))
def test_a_picture_shows_every_stage(placed: tuple[Problem, Placement], width: int) -> None:
    problem, placement = placed
    plan = plan_of(problem, placement)
    root = ElementTree.fromstring(plan_svg(plan).encode())
    assert {e.get("data-node") for e in root.iter() if e.get("data-node")} == placement.keys()
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(plan_text(plan, console.width))
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    assert sum("█" in line for line in lines) == len(placement)


@given(st.lists(reports, max_size=8), st.integers(1, 40))
def test_the_gap_never_grows_while_a_search_goes_on(incumbents: list[Incumbent], width: int) -> None:
    moments = history(incumbents)
    gaps = [moment.gap for moment in moments if moment.gap is not None]
    assert all(after <= before + 1e-12 for before, after in pairwise(gaps))
    assert sparkline(moments, width)[:width].strip("·▁▂▃▄▅▆▇█") == ""
