"""The SVG of a plan: well-formed, complete, and nothing on top of anything else."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helix_df.load import load_job
from helix_df.pictures.plan_svg import WIDTH, plan_svg
from helix_df.pictures.svg import COLOURS, colours, round_step, text_width, wrapped
from helix_df.planning import make_plan
from tests.explain.plans import placed, plan_of
from tests.problems import node, problem

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"
SVG = "{http://www.w3.org/2000/svg}"


def drawn(plan):
    return ElementTree.fromstring(plan_svg(plan).encode())


def bars(root):
    return {bar.get("data-node"): bar for bar in root.iter(f"{SVG}rect") if bar.get("data-node")}


def box(text):
    """Left, right, top and bottom of a line of text, going by the estimate that the layout uses."""
    size = float(text.get("font-size"))
    width = text_width(text.text, size, bold="bold" in text.get("class", ""))
    x = float(text.get("x")) - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
    return x, x + width, float(text.get("y")) - size * 0.8, float(text.get("y")) + size * 0.2


@pytest.fixture(scope="module", params=["quickstart", "single24", "geo24", "hetero42", "two-sites"])
def example(request):
    name = request.param
    solver = "even" if name in ("quickstart", "two-sites") else "petals"
    return make_plan(load_job(EXAMPLES / f"{name}.yaml").with_solver(name=solver, backend=None, options={}))


def test_every_stage_is_a_bar_over_its_layers(example):
    found = bars(drawn(example))
    assert found.keys() == example.placement.keys()
    first = next(bar for name, bar in found.items() if example.placement[name].start == 0)
    left = float(first.get("x"))
    layer = (float(first.get("width")) + 1.5) / len(example.placement[first.get("data-node")])
    for name, bar in found.items():
        layers = example.placement[name]
        assert float(bar.get("x")) - left == pytest.approx(layers.start * layer, abs=0.5)
        assert float(bar.get("width")) + 1.5 == pytest.approx(len(layers) * layer, abs=0.5)


def test_no_text_lies_on_other_text_or_leaves_the_page(example):
    root = drawn(example)
    height = float(root.get("height"))
    boxes = [(box(text), text.text) for text in root.iter(f"{SVG}text")]
    for (left, right, top, bottom), content in boxes:
        assert left >= 0, content
        assert right <= WIDTH, content
        assert top >= 0, content
        assert bottom <= height, content
    for i, (a, first) in enumerate(boxes):
        for b, second in boxes[i + 1 :]:
            apart = a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]
            assert apart, (first, second)


def test_rows_don_t_touch(example):
    tops = sorted((float(bar.get("y")), float(bar.get("height"))) for bar in bars(drawn(example)).values())
    assert all(top + height < following for (top, height), (following, _) in pairwise(tops))


def test_the_title_has_flow_bound_and_gap_and_the_legend_every_type(example):
    text = " ".join(element.text for element in drawn(example).iter(f"{SVG}text"))
    assert example.job.name in text
    assert f"gap {example.gap:.1%}" in text
    for gpu in {spec.gpu for spec in example.job.nodes.values()}:
        assert f"× {gpu}" in text


def test_every_hop_is_a_wire_with_its_flow_told(example):
    wires = list(drawn(example).iter(f"{SVG}path"))
    hops = [edge for edge in example.edges if "coordinator" not in (edge.tail, edge.head)]
    assert len(wires) == len(hops)
    told = {wire.find(f"{SVG}title").text.partition(" after")[0] for wire in wires}
    assert told == {f"{edge.tail} → {edge.head}" for edge in hops}


def test_the_picture_needs_nothing_else(example):
    text = plan_svg(example)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text == plan_svg(example)


def test_what_binds_is_marked_and_what_idles_is_faint():
    cluster = problem(2, node("a", 10.0), node("b", 50.0), node("c", 50.0), node("off", 9.0))
    plan = plan_of(cluster, placed(a=(0, 1), b=(1, 2), c=(1, 2)))
    root = drawn(plan)
    (idle,) = {"b", "c"} - {edge.head for edge in plan.edges}
    assert {name for name, bar in bars(root).items() if bar.get("opacity")} == {idle}
    alarms = [text.text for text in root.iter(f"{SVG}text") if "alarm" in text.get("class", "")]
    assert alarms == ["a", "100%"]
    assert any(text.text == "not used: off" for text in root.iter(f"{SVG}text"))


def test_long_names_are_cut_and_leave_room_for_the_layers():
    name = "m" * 60 + "042"
    cluster = problem(4, node(name, *[9.0] * 4), node("m", *[9.0] * 4))
    plan = plan_of(cluster, placed(**{name: (0, 2), "m": (2, 4)}))
    root = drawn(plan)
    assert bars(root).keys() == {name, "m"}
    assert any(text.text == "mmmmmmmmmmmm…mmmm042" for text in root.iter(f"{SVG}text"))
    assert all(float(bar.get("width")) > 100 for bar in bars(root).values())
    assert all(box(text)[1] <= WIDTH for text in root.iter(f"{SVG}text"))


def test_the_drawing_kit():
    assert colours(("a", "b")) == {"a": COLOURS[0], "b": COLOURS[1]}
    assert len(set(colours(tuple("abcdefghijkl")).values())) == 10
    assert wrapped(["aa", "bb", "cc"], text_width("aa, bb", 10), 10, ", ") == ["aa, bb", "cc"]
    assert text_width("mmm") > text_width("aaa") > text_width("iii")
    assert [round_step(most) for most in (1, 9.6, 7508, 5, 0.3)] == [0.2, 2, 2000, 1, pytest.approx(0.1)]
