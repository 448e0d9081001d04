"""The plan in a terminal, and a search over time."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from helix_df.layers import LayerRange
from helix_df.load import load_job
from helix_df.pictures.plan_text import bar, plan_text
from helix_df.pictures.progress import BLOCKS, Moment, history, progress_svg, sparkline
from helix_df.planning import make_plan
from helix_df.solvers.api import Incumbent
from tests.explain.plans import placed, plan_of
from tests.problems import node, problem

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"
SVG = "{http://www.w3.org/2000/svg}"


def printed(plan, width):
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(plan_text(plan, console.width))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", ["quickstart", "single24", "hetero42"])
def test_the_terminal_picture_fits_and_has_a_line_a_node(name, width):
    solver = "even" if name == "quickstart" else "petals"
    plan = make_plan(load_job(EXAMPLES / f"{name}.yaml").with_solver(name=solver, backend=None, options={}))
    lines = printed(plan, width)
    assert all(len(line) <= width for line in lines)
    for stage in plan.stages:
        (line,) = [line for line in lines if line.split()[:1] == [stage.node]]
        assert "█" in line
        assert plan.job.nodes[stage.node].gpu in line
    assert sum("◀" in line for line in lines) == len(plan.cut.nodes) + 1


def test_a_bar_covers_its_layers_and_meets_the_next():
    assert bar(LayerRange(0, 2), 4, 8).plain == "████····"
    assert bar(LayerRange(2, 4), 4, 8).plain == "····████"
    assert bar(LayerRange(0, 4), 4, 8).plain == "████████"
    for stop in range(1, 80):
        left, right = bar(LayerRange(0, stop), 80, 80).plain, bar(LayerRange(stop, 80), 80, 80).plain
        assert left.count("█") + right.count("█") == 80
    # Narrower than the model: never nothing, never beyond the end.
    assert all(len(bar(LayerRange(i, i + 1), 80, 30).plain) == 30 for i in range(80))
    assert all("█" in bar(LayerRange(i, i + 1), 80, 30).plain for i in range(80))


def test_idle_and_unused_nodes_are_said():
    cluster = problem(2, node("a", 10.0), node("b", 50.0), node("c", 50.0), node("off", 9.0))
    lines = printed(plan_of(cluster, placed(a=(0, 1), b=(1, 2), c=(1, 2))), 80)
    assert any("idle" in line for line in lines)
    assert "not used: off" in lines


def test_history_keeps_the_best_in_the_order_of_time():
    incumbents = [
        Incumbent(2.0, 50.0, 200.0, "b"),
        Incumbent(1.0, None, 300.0, "a"),
        Incumbent(3.0, 40.0, None, "a"),
        Incumbent(4.0, 80.0, 100.0, "b"),
    ]
    assert history(incumbents) == (
        Moment(1.0, None, 300.0),
        Moment(2.0, 50.0, 200.0),
        Moment(3.0, 50.0, 200.0),
        Moment(4.0, 80.0, 100.0),
    )
    assert [moment.gap for moment in history(incumbents)] == pytest.approx([1.0, 0.75, 0.75, 0.2])
    assert history(incumbents[2:3], bound=100.0)[0].gap == pytest.approx(0.6)
    assert history([]) == ()


def test_the_sparkline_falls_with_the_gap():
    moments = (Moment(1.0, None, 100.0), Moment(2.0, 50.0, 100.0), Moment(4.0, 90.0, 100.0))
    line = sparkline(moments, 4)
    assert line == f"{BLOCKS[7]}{BLOCKS[4]}{BLOCKS[4]}{BLOCKS[0]} 100.0% → 10.0% in 4.0 s"
    assert sparkline((Moment(1.0, 5.0, None),), 3) == "··· in 1.0 s"
    assert sparkline((), 3) == "···"


@pytest.mark.parametrize(
    "moments",
    [
        (Moment(0.0, 1.0, 2.0),),
        (Moment(1.0, None, 300.0), Moment(2.0, 50.0, 200.0), Moment(4.0, 199.0, 200.0)),
        (Moment(1.0, 5.0, None), Moment(2.0, 6.0, None)),
        (Moment(1.0, None, None),),
        (Moment(0.5, 10.0, None), Moment(2.0, 1289.6, 78_062.0)),
    ],
)
def test_the_progress_picture_stays_on_its_page(moments):
    root = ElementTree.fromstring(progress_svg(moments, "a & b").encode())
    assert root.find(f"{SVG}title").text == "a & b"
    width, height = float(root.get("width")), float(root.get("height"))
    for path in root.iter(f"{SVG}path"):
        numbers = [float(word) for word in path.get("d").split() if word[0].isdigit() or word[0] == "-"]
        assert all(0 <= x <= width for x in numbers[::2])
        assert all(0 <= y <= height for y in numbers[1::2])
    looks = {path.get("class") for path in root.iter(f"{SVG}path")}
    assert ("flow" in looks) == any(moment.flow is not None for moment in moments)
    assert ("bound" in looks) == any(moment.bound is not None for moment in moments)


def test_a_search_that_reported_nothing_has_no_picture():
    with pytest.raises(ValueError, match="no picture"):
        progress_svg((), "nothing")
