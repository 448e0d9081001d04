"""Model families by name. A new family is one new file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from jax.typing import DTypeLike

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.models.linear import Layout
from helix_df.models.llama import LlamaShard, build_llama
from helix_df.models.reader import WeightReader
from helix_df.profiles.geometry import ModelGeometry

BuildShard = Callable[[WeightReader, ModelGeometry, LayerRange, DTypeLike, Layout], LlamaShard]

FAMILIES: dict[str, BuildShard] = {
    "llama": build_llama,
}


def family_builder(name: str) -> BuildShard:
    """The function that builds a shard of family ``name``.

    Raises:
        ModelError: for an unknown family.
    """
    if name not in FAMILIES:
        raise ModelError("this model family isn't supported", found=name, expected=" | ".join(FAMILIES))
    return FAMILIES[name]
