"""Weights in MXFP4: every code, every scale, and the order of the two numbers in a byte."""

from __future__ import annotations

import numpy as np

from helix_df.models.mxfp4 import from_mxfp4

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
"""By code: a sign, two bits of exponent, one of mantissa."""


def test_every_code_and_scale_is_its_number():
    codes = np.arange(32, dtype=np.uint8) % 16
    scales = np.array([*range(253), 255], np.uint8)  # beyond, float32 has no room for the largest
    blocks = np.tile((codes[0::2] | codes[1::2] << 4)[None, None], (1, len(scales), 1))
    found = from_mxfp4(blocks, scales[None])
    assert found.dtype == np.float32
    by_scale = found.reshape(-1, 32)
    for scale in range(253):
        expected = np.asarray(E2M1 * 2, np.float64) * 2.0 ** (scale - 127)
        np.testing.assert_array_equal(by_scale[scale], expected.astype(np.float32))
    assert np.isnan(by_scale[-1]).all()
