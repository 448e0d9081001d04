"""Bytes a node of published models on mixed fleets, against the tensors of which transformers makes them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fleet_bytes_table import FLEETS, HEADERS, counted_bytes, job_text, plan_of, rows
from helix_df.graph.held_weights import held_weights
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.plan.moves import load_bytes
from helix_df.profiles.catalogue import find_device
from helix_df.profiles.read_geometry import catalogue
from helix_df.profiles.throughput import USABLE_MEMORY
from helix_df.profiles.weight_bytes import weight_bytes


@pytest.mark.parametrize("model", FLEETS)
def test_every_node_of_a_plan_gets_the_bytes_that_are_counted_and_has_room_for_them(model):
    plan = plan_of(model, seconds=2)
    kv_bytes = plan.geometry.kv_bytes_per_token_layer(2)
    for node, layers, planned, counted, kv_tokens in rows(model, plan):
        assert planned == pytest.approx(counted, rel=1e-6)
        memory = find_device(plan.job.nodes[node].gpu).memory_bytes
        final_norm = 2 * plan.geometry.hidden_size  # some kB, which nobody sets aside
        assert counted + len(layers) * kv_tokens * kv_bytes <= USABLE_MEMORY * memory + final_norm


@settings(max_examples=40)
@given(data=st.data(), model=st.sampled_from(sorted(FLEETS)))
def test_any_layers_have_the_bytes_that_are_counted(data, model):
    job = parse_job(job_text(model, 1))
    geometry = catalogue()[model]
    start = data.draw(st.integers(0, geometry.num_layers - 1))
    layers = LayerRange(start, data.draw(st.integers(start + 1, geometry.num_layers)))
    kept = data.draw(st.sampled_from((FLEETS[model].weights, "int8", "int4")))
    counted = counted_bytes(json.loads(HEADERS.read_text())[model], layers, kept)
    weights = weight_bytes(job.model.parsed_source, geometry, 2, kept)
    planned = load_bytes(None, layers, geometry, 2, weights)
    assert planned == pytest.approx(counted, rel=1e-6)
    assert kept != FLEETS[model].weights or weights == held_weights(job, geometry)
