"""Who builds a shard of a model family: the shared decoder, unless its description names another function."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from jax.typing import DTypeLike

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.models.decoder import DecoderShard
from helix_df.models.decoder_weights import build_decoder
from helix_df.models.linear import Layout
from helix_df.models.reader import WeightReader
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry

BuildShard = Callable[[WeightReader, ModelGeometry, LayerRange, DTypeLike, Layout], DecoderShard]


def family_builder(name: str) -> BuildShard:
    """The function that builds a shard of family ``name``.

    Raises:
        ModelError: for an unknown family, or when its function can't be found.
    """
    named = family_of(name, "the model's geometry").builder
    if named is None:
        return build_decoder
    module, _, function = named.partition(":")
    try:
        build: BuildShard = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"the model family {name} can't be built", where=named, found=str(error), expected="module:function"
        ) from error
    return build
