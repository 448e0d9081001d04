"""Codecs: as small as they say, no further off than they say, and harmless to what the model answers."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from helix_df.codecs import BLOCK, Codec, packed_bytes
from helix_df.errors import ProtocolError
from helix_df.layers import LayerRange
from helix_df.models.weights import load_shard
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire import framing
from helix_df.runtime.wire import messages as m
from helix_df.runtime.wire.packing import dtype_of, pack, unpack
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.steps import Step
from helix_df.spec.source import parse_source

CODECS: list[Codec] = ["none", "bfloat16", "int8"]


def hidden_states(tokens: int, hidden: int) -> np.ndarray:
    """Normal values with a few huge ones, as residual streams have them."""
    chance = np.random.default_rng(tokens * hidden)
    values = chance.normal(size=(tokens, hidden)).astype(np.float32)
    values[:, :: max(1, hidden // 3)] *= 300
    return values


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1, 576), (7, 100), (3, 1), (2, 64)])
def test_a_packed_tensor_has_the_size_that_planning_counts_on(codec: Codec, dtype: str, shape: tuple[int, int]) -> None:
    tensor = hidden_states(*shape).astype(dtype_of(dtype))
    packed = pack(tensor, codec)
    assert packed.nbytes == shape[0] * packed_bytes(shape[1], tensor.itemsize, codec)
    back = unpack(packed, dtype, shape, codec)
    assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)


def test_bfloat16_rounds_to_eight_bits_and_no_codec_to_none() -> None:
    tensor = hidden_states(5, 200)
    assert np.array_equal(unpack(pack(tensor, "none"), "float32", (5, 200), "none"), tensor)
    back = unpack(pack(tensor, "bfloat16"), "float32", (5, 200), "bfloat16")
    assert np.all(np.abs(back - tensor) <= np.abs(tensor) * 2**-8)
    again = unpack(pack(back, "bfloat16"), "float32", (5, 200), "bfloat16")
    assert np.array_equal(again, back)


@pytest.mark.parametrize("shape", [(5, 192), (3, 200), (2, 5)])
def test_int8_is_off_by_at_most_half_a_step_of_its_block(shape: tuple[int, int]) -> None:
    tensor = hidden_states(*shape)
    back = unpack(pack(tensor, "int8"), "float32", shape, "int8")
    for start in range(0, shape[1], BLOCK):
        block, found = tensor[:, start : start + BLOCK], back[:, start : start + BLOCK]
        step = np.abs(block).max(axis=1, keepdims=True) / 127 * (1 + 2**-7)  # the scale is rounded up
        assert np.all(np.abs(found - block) <= step * (0.5 + 1e-4))


def test_a_token_is_packed_alike_whoever_travels_with_it() -> None:
    tensor = hidden_states(6, 130)
    together = unpack(pack(tensor, "int8"), "float32", (6, 130), "int8")
    alone = [unpack(pack(row[None], "int8"), "float32", (1, 130), "int8")[0] for row in tensor]
    assert np.array_equal(together, np.stack(alone))


def test_zeros_and_what_is_not_finite_survive_int8() -> None:
    tensor = np.zeros((1, 192), np.float32)
    tensor[0, 70], tensor[0, 150] = np.inf, 3.0
    back = unpack(pack(tensor, "int8"), "float32", (1, 192), "int8")
    assert np.array_equal(back[0, :64], np.zeros(64))
    assert np.all(np.isnan(back[0, 64:80]))
    assert back[0, 150] == pytest.approx(3.0, rel=0.005)


@pytest.mark.parametrize("codec", CODECS)
def test_a_message_says_how_its_tensor_is_packed(codec: Codec) -> None:
    tensor = hidden_states(4, 96)
    frames = [bytes(frame) for frame in framing.encode(m.Forward("r/1", 3, True, None, tensor, codec), "t")]
    assert len(frames[1]) == 4 * packed_bytes(96, 4, codec)
    back = framing.decode(frames, "t")
    assert isinstance(back, m.Forward)
    assert np.array_equal(back.tensor, unpack(pack(tensor, codec), "float32", (4, 96), codec))
    for broken in ([frames[0], frames[1][:-1]], [frames[0], frames[1] + b"x"]):
        with pytest.raises(ProtocolError, match="wrong fields"):
            framing.decode(broken, "t")


def two_stages() -> tuple[Engine, Engine]:
    """A tiny random model of four layers, split in the middle."""
    source = parse_source("random:tiny")
    geometry = read_geometry(source)
    first, second = (
        Engine(
            load_shard(source, geometry, layers, dtype="float32", seed=0), num_pages=32, max_batch=2, max_context=128
        )
        for layers in (LayerRange(0, 2), LayerRange(2, 4))
    )
    return first, second


# Largest difference of a logit, as a share of the largest logit of the answer without a codec.
@pytest.mark.parametrize(("codec", "most"), [("none", 0.0), ("bfloat16", 0.02), ("int8", 0.04)])
def test_what_a_codec_does_to_logits(codec: Codec, most: float, record_property: Callable[[str, object], None]) -> None:
    first, second = two_stages()
    prompt = np.arange(3, 40, dtype=np.int32)
    hidden = first.run([Step("r", LayerRange(0, 2), 0, tokens=prompt)])[0].hidden
    assert hidden is not None
    sent = framing.decode(framing.encode(m.Forward("r", 0, True, None, hidden, codec), "t"), "t")
    assert isinstance(sent, m.Forward)
    top = SamplingParams(logprobs=20)

    def logprobs(name: str, states: np.ndarray) -> dict[int, float]:
        result = second.run([Step(name, LayerRange(2, 4), 0, hidden=states, sampling=top)])[0]
        assert result.logprobs is not None
        return dict(result.logprobs.top)

    exact, found = logprobs("exact", hidden), logprobs("packed", sent.tensor)
    shared = exact.keys() & found.keys()
    worst = max(abs(exact[token] - found[token]) for token in shared)
    record_property("largest_logprob_difference", worst)
    assert max(exact, key=exact.__getitem__) == max(found, key=found.__getitem__)
    assert len(shared) >= 15
    assert worst <= most * max(abs(value) for value in exact.values())
    assert jnp.isfinite(worst)
