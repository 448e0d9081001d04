"""A matrix means the same in either layout."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.models.linear import PANEL, lay_out, linear, take_rows


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from((1, 2, 3, 4, 5, 16, 32, 33, 130)),
    inputs=st.sampled_from((1, 48, 2100)),
    outputs=st.sampled_from((1, 63, PANEL, 3 * PANEL)),
    seed=st.integers(0, 9),
)
def test_products_are_those_of_numpy(rows, inputs, outputs, seed):
    chance = np.random.default_rng(seed)
    weight = chance.standard_normal((outputs, inputs)).astype(np.float32)
    given_rows = chance.standard_normal((rows, inputs)).astype(np.float32)
    exact = given_rows.astype(np.float64) @ weight.T.astype(np.float64)
    for layout in ("rows", "panels"):
        laid_out = lay_out(weight, layout)
        assert laid_out.ndim == (3 if layout == "panels" and outputs % PANEL == 0 else 2)
        product = linear(jnp.asarray(given_rows[None]), jnp.asarray(laid_out))
        assert product.shape == (1, rows, outputs)
        np.testing.assert_allclose(product[0], exact, atol=1e-5 * inputs)


@given(indices=st.lists(st.integers(-3, 2 * PANEL + 3), min_size=1, max_size=9))
@settings(max_examples=20, deadline=None)
def test_rows_are_found_in_panels(indices):
    weight = np.arange(2 * PANEL * 5, dtype=np.float32).reshape(2 * PANEL, 5)
    wanted = weight[np.clip(indices, 0, 2 * PANEL - 1)]
    for layout in ("rows", "panels"):
        np.testing.assert_array_equal(take_rows(jnp.asarray(lay_out(weight, layout)), jnp.array(indices)), wanted)
