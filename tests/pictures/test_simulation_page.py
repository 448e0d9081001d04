"""The page of a simulation: well formed, in need of nothing, honest, and safe with anybody's names."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from helix_df.load import load_job
from helix_df.pictures.charts import Axis, Curve, chart
from helix_df.pictures.simulation_page import simulation_page
from helix_df.planning import make_plan
from helix_df.simulator import options_of
from helix_df.simulator.trace_names import find_trace
from helix_df.what_if import Variant, compare

EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"
VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = '<script>alert("x")</script>&amp;\'"'


class Reader(HTMLParser):
    """Collects elements and text, and insists that every element is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def results():
    job = load_job(EXAMPLES / "two-sites.yaml")
    plans = [make_plan(job.with_solver(name=name)) for name in ("even", "cover")]
    options = options_of(job, seconds=60.0, warmup_s=10.0)
    trace = find_trace("poisson:input=200,output=20", seconds=70.0, rate=0.5)
    return compare([Variant(f"plan {i}", plan, trace, options) for i, plan in enumerate(plans)])


def test_the_page_needs_nothing_else(results):
    for some in (results[:1], results):
        page = simulation_page(some)
        reader = Reader(page)
        assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
        assert not {"src", "href", "srcset", "xlink:href"} & {name for name, _ in reader.attributes}
        assert re.findall(r"https?:|@import|url\(", page) == []
        assert reader.tags.count("svg") == 9 + 2 * len(some)
        assert "prefers-color-scheme: dark" in page
        assert not any(name.startswith("on") for name, _ in reader.attributes)


def test_the_page_says_what_the_outcome_says(results):
    outcome = results[0].outcome
    text = Reader(simulation_page(results[:1])).text
    assert f"{outcome.decode_tokens_per_s:,.1f}" in text
    assert f"{outcome.finished:,}" in text
    assert outcome.trace in text
    for node in outcome.nodes:
        assert node.name in text
        assert f"{node.kv_peak:.0%}" in text


def test_several_stand_side_by_side(results):
    page = simulation_page(results, title="two plans")
    text = Reader(page).text
    assert text.count("plan 0") > 2
    assert text.count("plan 1") > 2
    for one in results:
        assert f"{one.outcome.decode_tokens_per_s:,.1f}" in text
    assert simulation_page(results) == simulation_page(results)


def test_hostile_names_are_only_text(results):
    one = results[0]
    old = one.outcome.nodes[0].name

    def new(name):
        return HOSTILE if name == old else name

    nodes = {new(name): node for name, node in one.plan.job.nodes.items()}
    plan = replace(
        one.plan,
        job=one.plan.job.model_copy(update={"nodes": nodes}),
        stages=tuple(replace(stage, node=new(stage.node)) for stage in one.plan.stages),
        edges=tuple(replace(edge, tail=new(edge.tail), head=new(edge.head)) for edge in one.plan.edges),
    )
    node = replace(one.outcome.nodes[0], name=HOSTILE)
    links = tuple(replace(link, tail=HOSTILE) for link in one.outcome.links)
    outcome = replace(one.outcome, nodes=(node, *one.outcome.nodes[1:]), links=links, trace=HOSTILE)
    hostile = replace(one, name=HOSTILE, plan=plan, outcome=outcome)
    for some in ([hostile], [hostile, hostile]):
        reader = Reader(simulation_page(some, title=HOSTILE))
        assert "script" not in reader.tags
        assert HOSTILE in reader.text


def test_an_outcome_without_a_single_token_has_a_page(results):
    one = results[0]
    requests = replace(
        one.outcome.requests,
        first_token_s=np.full(len(one.outcome.requests), np.nan),
        finished_s=np.full(len(one.outcome.requests), np.nan),
    )
    series = replace(
        one.outcome.series,
        **{name: getattr(one.outcome.series, name)[..., :0] for name in one.outcome.series.__slots__},
    )
    empty = replace(one.outcome, requests=requests, gaps_s=np.zeros(0, np.float32), series=series, decode_tokens=0)
    text = Reader(simulation_page([replace(one, outcome=empty)])).text
    assert "nothing came to this" in text
    assert "nan" not in text.lower()


def test_a_page_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        simulation_page([])


@pytest.mark.parametrize("axis", [Axis("s", 0.0, 7.3), Axis("s", 0.004, 130.0, log=True), Axis("s", 1e-7, 3e-7)])
def test_ticks_lie_on_the_axis_and_in_order(axis):
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 10
    assert ticks == sorted(set(ticks))
    places = [axis.place(tick) for tick in ticks]
    assert places == sorted(places)
    assert all(axis.low * (1 - 1e-9) <= tick <= axis.high * (1 + 1e-9) for tick in ticks)
    assert axis.place(axis.low) == 0
    assert axis.place(axis.high) == 1
    drawing = chart("t", axis, Axis("y", 0, 1), [Curve("c", "#000", ((axis.low, 0.0), (axis.high * 9, 2.0)))])
    numbers = [float(text) for text in re.findall(r"[-\d.]+", drawing.root.findall("{*}path")[0].get("d"))]
    assert all(0 <= number <= 440 for number in numbers)
