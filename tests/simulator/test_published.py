"""The published simulations that run in a moment; ``benchmarks.fidelity_table`` shows all of them."""

from __future__ import annotations

import pytest

from benchmarks.paper import published_setup, scheduling_study
from helix_df.simulator import simulate
from helix_df.simulator.artifact import artifact_baseline, artifact_offline
from helix_df.simulator.azure import azure_offline


@pytest.mark.parametrize(
    ("name", "method", "published"), [("single24", "helix-milp", 252.1), ("geo24", "helix-milp", 98.0)]
)
def test_the_papers_placements(name: str, method: str, published: float):
    outcome = simulate(published_setup(name, method), azure_offline(), artifact_offline())
    assert outcome.decode_tokens_per_s == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize(("name", "published"), [("single24", 124.7), ("geo24", 51.9)])
def test_swarm_placements(name: str, published: float):
    outcome = simulate(published_setup(name, "swarm"), azure_offline(), artifact_baseline("swarm", 180))
    assert outcome.decode_tokens_per_s == pytest.approx(published, rel=0.05)


def test_scheduling_by_flow_beats_the_others():
    setup = scheduling_study()
    flow = simulate(setup, azure_offline(), artifact_offline()).decode_tokens_per_s
    assert flow == pytest.approx(99.8, rel=0.05)
    for scheduler in ("swarm", "random", "shortest-queue"):
        assert simulate(setup, azure_offline(), artifact_baseline(scheduler, 180)).decode_tokens_per_s < flow
