"""Cost against goodput as a picture, from a curve made by hand."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from helix_df.pictures.sizing_chart import sizing_svg
from helix_df.sizing import CostCurve, CostPoint

SVG = "{http://www.w3.org/2000/svg}"


def curve(offers: int) -> CostCurve:
    points = tuple(CostPoint(100.0 * n, 2.0 * n, f"{n} of all") for n in (1, 2, 4))
    alone = {
        f"an-offer-with-a-long-name-{i}": tuple(CostPoint(p.goodput, (2 + i) * p.cost, "x") for p in points)
        for i in range(offers)
    }
    return CostCurve("A job & its <fleets>", points[1], points, alone, ((50.0, 0.5), (400.0, 6.0)))


@pytest.mark.parametrize("offers", [0, 1, 12])
def test_every_fleet_is_a_dot_with_its_words_and_names_do_not_touch(offers: int) -> None:
    given = curve(offers)
    root = ElementTree.fromstring(sizing_svg(given))
    dots = list(root.iter(f"{SVG}circle"))
    assert len(dots) == 3 * (offers + 1) + 1, "and a ring about the chosen one"
    tips = [tip.text for tip in root.iter(f"{SVG}title")]
    assert f"chosen: {given.chosen.fleet}, 4.00 an hour" in tips
    assert "4 of all: 8.00 an hour for 400 generated tokens/s" in tips
    assert "no fleet of these offers costs less" in tips
    texts = list(root.iter(f"{SVG}text"))
    assert {"all offers", "lower bound"} <= {text.text for text in texts}
    at = sorted(float(text.attrib["y"]) for text in texts if float(text.attrib.get("x", 0)) == 722)
    assert len(at) == offers + 2
    assert all(below - above >= 16 for above, below in pairwise(at))
