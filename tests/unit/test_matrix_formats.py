"""Matrices as numbers of another format than what is computed in: what those numbers give, in fewer bytes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helix_df.errors import SpecError
from helix_df.graph.compile import compile_problem
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.models.linear import lay_out, linear, take_rows
from helix_df.models.packed_call import has_panel_code
from helix_df.models.weights import load_shard
from helix_df.plan.moves import load_bytes
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.weight_bytes import MULTIPLIED, STACKED, KeptNumbers, computed_bytes, weight_bytes
from helix_df.spec.source import ModelSource
from tests.cases.files import job_text
from tests.oracle.cases import prompt_ids
from tests.oracle.family_checkpoints import write_family
from tests.whole_model import whole_logits

TINY = ModelSource("random", "tiny")
NARROW: tuple[KeptNumbers, ...] = ("bfloat16", "float16")
FAMILIES: dict[str, KeptNumbers] = {
    "llama-biases": "float16",
    "gemma2": "bfloat16",
    "qwen2-moe-dense": "bfloat16",
    "gpt-oss": "float16",
    "deepseek-v3": "bfloat16",
}


def held_bytes(module):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(module))


def rounded(shard, kept):
    """The same shard, with what matrices hold rounded to a format and computed with as before."""

    def of(path, leaf):
        part = [key for key in (str(getattr(one, "key", one)) for one in path) if key.isidentifier()]
        matrix = MULTIPLIED.union(STACKED, ("embedding", "head")).intersection(part)
        return leaf.astype(kept).astype(leaf.dtype) if matrix else leaf

    graph, state = nnx.split(shard)
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(of, state))


@pytest.mark.parametrize("name", FAMILIES)
def test_matrices_of_a_format_compute_what_their_numbers_do(tmp_path, name):
    source, kept = ModelSource("hf", str(write_family(tmp_path, name))), FAMILIES[name]
    geometry = read_geometry(source)
    ids = prompt_ids(geometry.vocab_size, 24)[None]
    held = load_shard(source, geometry, kept=kept)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(held)} >= {kept, "float32"}
    wanted, found = (whole_logits(one, ids) for one in (rounded(load_shard(source, geometry), kept), held))
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_planning_counts_the_bytes_of_each_layer(tmp_path, name):
    source = ModelSource("hf", str(write_family(tmp_path, name)))
    geometry = read_geometry(source)
    for kept in (FAMILIES[name], None):
        planned = weight_bytes(source, geometry, 4, kept)
        for layer in range(1, geometry.num_layers - 1):
            one = LayerRange(layer, layer + 1)
            held = held_bytes(load_shard(source, geometry, one, kept=kept))
            assert held - planned.of(geometry, one) in (0, 4, 8), "but for a window and a kind of rotation"
        every = LayerRange(0, geometry.num_layers)
        loaded = load_bytes(None, every, geometry, 4, planned)
        assert held_bytes(load_shard(source, geometry, kept=kept)) == pytest.approx(loaded, rel=0.002)
    assert weight_bytes(source, geometry, 4, "float32") == computed_bytes(geometry, 4)


@pytest.mark.parametrize("kept", NARROW)
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 40])
def test_products_widen_each_number_exactly(kept, rows):
    chance = np.random.default_rng(rows)
    for outputs, inputs in ((192, 33), (64, 1), (50, 20)):
        matrix = np.asarray(jnp.asarray(chance.standard_normal((outputs, inputs)) * 3, kept))
        given = chance.standard_normal((rows, inputs)).astype(np.float32)
        exact = given.astype(np.float64) @ matrix.astype(np.float64).T
        for layout in ("rows", "panels"):
            weight = jnp.asarray(lay_out(matrix, layout))
            assert weight.dtype == kept
            found = jax.jit(linear)(jnp.asarray(given), weight)
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, exact, atol=1e-5 * (inputs + 3))
            low = jax.jit(linear)(jnp.asarray(given, jnp.bfloat16), weight)
            assert low.dtype == jnp.bfloat16
            np.testing.assert_array_equal(take_rows(weight, jnp.arange(outputs)), matrix)


def test_this_processor_has_machine_code_for_them():
    assert has_panel_code("bfloat16")
    assert has_panel_code("float16")
    assert has_panel_code("float32")
    assert not has_panel_code("int32")


def test_what_is_no_number_stays_none():
    weight = np.ones((64, 4), np.float16)
    weight[3, 2], weight[9, 0] = np.nan, np.inf
    found = np.asarray(jax.jit(linear)(jnp.ones((2, 4)), jnp.asarray(lay_out(weight, "panels"))))
    assert np.isnan(found[:, 3]).all()
    assert np.isinf(found[:, 9]).all()
    assert np.isfinite(np.delete(found, (3, 9), axis=1)).all()


def with_model(*options):
    return job_text(TINY).replace("model: {", f"model: {{{', '.join(options)}, ")


def test_more_layers_fit_and_speeds_published_for_a_format_are_not_taken_for_another():
    plain, kept = (parse_job(with_model(*options)) for options in (("seed: 1",), ("weights: bfloat16",)))
    one, other = (compile_problem(job).nodes[0] for job in (plain, kept))
    assert other.kv_tokens[0] > one.kv_tokens[0]
    assert kept.model.computed_as == "float32, weights bfloat16"
    assert parse_job(with_model("weights: float32")).model.computed_as == "float32"


def test_weights_wider_than_what_is_computed_in_are_refused():
    with pytest.raises(SpecError) as refused:
        parse_job(with_model("weights: float32", "dtype: float16"))
    assert "more bits than float16" in str(refused.value)
    assert parse_job(with_model("weights: bfloat16", "dtype: float16"))
