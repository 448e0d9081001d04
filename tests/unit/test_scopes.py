"""The parts of a model have names in its programs, which neither change them nor where they are kept compiled."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from helix_df.layers import LayerRange
from helix_df.models import scopes
from helix_df.models.decoder import DecoderShard
from helix_df.models.random_weights import RandomReader
from helix_df.models.registry import family_builder
from helix_df.models.scopes import SCOPES, scope
from helix_df.profiles.geometry import ExpertOptions, LatentOptions, ModelGeometry, RotaryOptions
from helix_df.runtime.worker.sampler import pick_greedily

DENSE = ModelGeometry("llama", 1, 32, 64, num_heads=4, num_kv_heads=2, head_dim=8, vocab_size=64, context_length=64)
LATENT = ModelGeometry(
    "deepseek_v3",
    1,
    32,
    64,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    vocab_size=64,
    context_length=64,
    latent=LatentOptions(rank=16, query_rank=24, rotated=8, values=12),
    rotary=RotaryOptions(dims=8),
    experts=ExpertOptions(count=4, used=2, inner=16, shared=16),
)


def shard_of(geometry: ModelGeometry) -> DecoderShard:
    return family_builder(geometry.family)(RandomReader(0), geometry, LayerRange(0, 1), jnp.float32, "rows")


def names_in(program: str) -> set[str]:
    """Parts of the names that operations have in a compiled program."""
    return {part for name in re.findall(r'op_name="([^"]+)"', program) for part in name.split("/")}


@pytest.mark.parametrize(
    ("geometry", "named"),
    [
        (DENSE, {"embed", "attention", "norm", "qkv", "rope", "attend", "output", "mlp", "logits"}),
        (LATENT, {"attention", "qkv", "latents", "attend", "output", "mlp", "router", "experts", "shared_expert"}),
    ],
)
def test_every_block_has_its_name_in_the_compiled_program(geometry: ModelGeometry, named: set[str]) -> None:
    shard = shard_of(geometry)
    compiled = jax.jit(lambda tokens: shard(tokens)).lower(np.zeros((1, 3), np.int32)).compile().as_text()
    assert named <= names_in(compiled)


def test_sampling_has_its_name() -> None:
    assert "sample" in names_in(pick_greedily.lower(jnp.zeros((1, 8))).compile().as_text())


def test_a_name_that_nobody_knows_is_none() -> None:
    with pytest.raises(ValueError, match="atention isn't one of"):
        scope("atention")
    assert "attention" in SCOPES


def test_a_program_is_found_compiled_whatever_its_parts_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of the compile cache don't have names in them: a new version with other names starts as quickly."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    kept: list[set[str]] = []
    monkeypatch.setattr(scopes, "SCOPES", SCOPES | {"other"})
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        reset_cache()
        for name in ("attend", "attend", "other"):
            jax.jit(lambda x, name=name: _named(name, x)).lower(jax.ShapeDtypeStruct((3,), jnp.float32)).compile()
            kept.append({path.name for path in tmp_path.glob("*-cache")})
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
    assert len(kept[0]) == 1
    assert kept[0] == kept[1] == kept[2]


def _named(name: str, numbers: jax.Array) -> jax.Array:
    with scope(name):
        return jnp.tanh(numbers) * 3
