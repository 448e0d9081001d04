"""The published placements of the Helix paper have their published flow."""

from __future__ import annotations

import pytest

from helix_df.graph.bounds import covering_bound
from helix_df.graph.max_flow import placement_flow
from tests.clusters import CLUSTERS, cluster, published

METHODS = ("helix-milp", "petals", "swarm")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CLUSTERS)
def test_flow_without_partial_inference(name: str, method: str) -> None:
    placement, exact, _ = published(name, method)
    assert placement_flow(cluster(name, partial=False), placement).value == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CLUSTERS)
def test_flow_with_partial_inference(name: str, method: str) -> None:
    placement, _, partial = published(name, method)
    assert placement_flow(cluster(name), placement).value == pytest.approx(partial, abs=0.05)


@pytest.mark.parametrize(("name", "bound"), [("single24", 2045.641), ("geo24", 2045.641), ("hetero42", 6528.896)])
def test_covering_bound(name: str, bound: float) -> None:
    assert covering_bound(cluster(name)) == pytest.approx(bound, abs=0.01)
