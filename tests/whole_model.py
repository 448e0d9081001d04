"""What a model computes in one piece, without cache: the figures that stages, pages and devices are held to."""

from __future__ import annotations

import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import ArrayLike

from helix_df.models.decoder import DecoderShard


@nnx.jit
def _run(model: DecoderShard, ids: Array) -> Array:
    return model(ids)


def whole_logits(model: DecoderShard, ids: ArrayLike) -> np.ndarray:
    """Logits of token ids, [batch, tokens] → [batch, tokens, vocabulary].

    Weights are an argument: as constants of the program they would be compiled, and kept in the cache of programs, too.
    """
    return np.asarray(_run(model, np.asarray(ids)))
