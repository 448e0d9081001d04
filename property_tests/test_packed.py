"""Packed matrices hold the numbers of the file exactly, and every way to multiply with them gives the same."""

from __future__ import annotations

import functools
import itertools
import platform
import typing

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.models.experts import ExpertWeights, Routed, mix_experts
from helix_df.models.gguf_blocks import quantized_rows
from helix_df.models.linear import linear, take_rows
from helix_df.models.machine_calls import compile_handler, register
from helix_df.models.packed import kind_of, plain_product, unpack
from helix_df.models.packed_call import call_packed, has_machine_code, packed_source, packed_target
from helix_df.models.quantized import TINY, Quantized, in_runs, pack, quantize
from helix_df.profiles.gguf_types import GGML_TYPES
from helix_df.profiles.packed_kinds import (
    E4M3,
    FLOAT_INPUTS,
    INPUTS,
    KIND_OF_TYPE,
    KINDS,
    NO_POWER,
    OUTPUTS,
    POWER_BIAS,
    PackedKind,
)

LARGEST = 251
"""Exponents below are those of powers of two whose products with all numbers of four bits float32 has."""

TYPES = {kind.name: (number, kind) for number, kind in GGML_TYPES.items() if kind.name in KIND_OF_TYPE}
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEAST = {"sse4.2": True, "avx": True, "f16c": True} if X86 else {}
"""What a processor without instructions for such products has."""

kinds, seeds = st.sampled_from(KINDS), st.integers(0, 9)
sizes = st.tuples(st.sampled_from((OUTPUTS, 3 * OUTPUTS)), st.sampled_from((1, 3)))
"""Outputs, and blocks of inputs."""


def drawn(kind: PackedKind, outputs: int, blocks: int, seed: int) -> Quantized:
    """Any levels, and scales and minima of either sign."""
    chance = np.random.default_rng(seed)
    inputs = blocks * kind.inputs
    levels = chance.integers(0, 1 << kind.bits, (outputs, inputs), dtype=np.uint8)
    each = (chance.standard_normal((outputs, blocks)).astype(np.float16) for _ in range(2))
    scales, minima = typing.cast(tuple[np.ndarray, np.ndarray], tuple(each))
    if kind.floats:
        levels[(levels & 0x7F) == 0x7F] = 0  # that is no number
        scales = scales.astype(np.float32) * np.float32(1.0 / 448)
    if kind.powers:
        scales = chance.integers(POWER_BIAS - 9, POWER_BIAS + 2, (outputs, blocks), dtype=np.uint8)
    least, most = (0, 16) if kind.shared_bytes else (0, 64) if kind.minima else (-128, 128)
    factors, others = chance.integers(least, most, (2, outputs, inputs // kind.span)).astype(np.int8)
    lesser = others if kind.nested and kind.minima else None
    return Quantized(kind, levels, scales, minima if kind.minima else None, factors if kind.nested else None, lesser)


def magnitudes(matrix: Quantized) -> np.ndarray:
    """Of what is added to get each number: rounding errors are shares of that."""
    kind, wide = matrix.kind, matrix._replace(levels=np.zeros_like(matrix.levels)).values()
    minima = np.abs(wide.astype(np.float64)) if kind.minima else 0.0
    numbers = np.abs(matrix.values().astype(np.float64) - (wide if kind.minima else 0.0))
    # Sums begin at what the offset takes off.
    return numbers * max(1, 2 * kind.offset) + minima


@functools.cache
def least_target(kind: PackedKind) -> str:
    name = f"test_{packed_target(kind)}"
    register(name, compile_handler(packed_target(kind), functools.partial(packed_source, kind), LEAST))
    return name


def stored(kind: str, matrix: np.ndarray) -> np.ndarray:
    """Rows of a GGUF file."""
    return gguf.quants.quantize(matrix, gguf.GGMLQuantizationType[kind])


FLOATS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,)}
"""Where a block has float16."""


@settings(max_examples=40)
@given(name=st.sampled_from(sorted(TYPES)), size=sizes, scale=st.sampled_from((1e-6, 0.02, 3e3)), seed=seeds)
def test_numbers_of_a_gguf_are_those_of_its_own_package(name, size, scale, seed):
    chance, (number, kind) = np.random.default_rng(seed), TYPES[name]
    if name in ("IQ4_NL", *FLOATS):  # which that package only reads: any bits, and floats that are numbers
        raw = chance.integers(0, 256, (*size, kind.block_bytes), dtype=np.uint8)
        for at in FLOATS.get(name, (0,)):
            floats = (chance.standard_normal((*size, 1)) * scale).astype("<f2")
            raw[..., at : at + 2] = floats.view(np.uint8)
        raw = raw.reshape(size[0], -1)
    else:
        raw = stored(name, (chance.standard_normal((size[0], size[1] * INPUTS)) * scale).astype(np.float32))
        raw = raw ^ (chance.random(raw.shape) < 0.01).astype(np.uint8)  # and of blocks that nobody would write
    ours = quantized_rows(raw, kind)
    np.testing.assert_array_equal(ours.values(), gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number)))


@settings(max_examples=40)
@given(kind=kinds, size=sizes, seed=seeds, indices=st.lists(st.integers(-3, 60), min_size=1, max_size=5))
def test_what_is_packed_comes_out_again(kind, size, seed, indices):
    matrix = drawn(kind, size[0], size[1], seed)
    packed = pack(matrix)
    assert packed.shape == (size[0] // OUTPUTS, size[1], kind.block_bytes)
    assert kind_of(jnp.asarray(packed)) == kind
    assert packed.nbytes == kind.number_bytes * matrix.levels.size
    rows = np.asarray(unpack(jnp.asarray(packed))).reshape(matrix.levels.shape)
    np.testing.assert_array_equal(rows, matrix.values())
    taken = take_rows(jnp.asarray(packed), jnp.array(indices))
    np.testing.assert_array_equal(taken, matrix.values()[np.clip(indices, 0, size[0] - 1)])


@settings(max_examples=25)
@given(
    kinds=st.lists(st.sampled_from([kind for kind in KINDS if kind.inputs == INPUTS]), min_size=1, max_size=4),
    seed=seeds,
)
def test_matrices_of_a_kind_that_are_neighbours_lie_as_one(kinds, seed):
    parts = [drawn(kind, OUTPUTS, 2, seed + place) for place, kind in enumerate(kinds)]
    found = in_runs(parts)
    assert [run.kind for run in found] == [kind for kind, _ in itertools.groupby(kinds)]
    every = [part.values() for part in parts]
    np.testing.assert_array_equal(np.concatenate([run.values() for run in found]), np.concatenate(every))
    given_rows = jnp.ones((2, 2 * INPUTS))
    product = linear(given_rows, tuple(jnp.asarray(pack(run)) for run in found))
    np.testing.assert_allclose(product, given_rows @ np.concatenate(every).T, rtol=1e-3, atol=0.1)
    assert in_runs([*parts, None]) is None
    halves = [part.rows(np.arange(OUTPUTS // 2)) for part in parts]
    assert (in_runs(halves) is None) == any(len(list(run)) % 2 for _, run in itertools.groupby(kinds))


@settings(max_examples=25)
@given(kind=kinds, first=st.integers(0, 2), count=st.integers(1, 2), seed=seeds)
def test_some_blocks_of_inputs_are_a_matrix_of_their_own(kind, first, count, seed):
    matrix = drawn(kind, OUTPUTS, 4, seed)
    start, stop = first * kind.inputs, (first + count) * kind.inputs
    np.testing.assert_array_equal(matrix.columns(start, stop).values(), matrix.values()[:, start:stop])


@settings(max_examples=40)
@given(
    kind=kinds,
    size=sizes,
    rows=st.sampled_from((1, 2, 3, 4, 7, 8, 11, 16, 33)),
    power=st.sampled_from((-40, 0, 6)),
    seed=seeds,
)
def test_every_way_of_a_product_is_right(kind, size, rows, power, seed):
    matrix = drawn(kind, size[0], size[1], seed)
    chance = np.random.default_rng(seed).standard_normal((rows, size[1] * kind.inputs))
    inputs = chance.astype(np.float32) * np.float32(10.0**power)
    inputs[rows // 2, :INPUTS] = 0
    packed = jnp.asarray(pack(matrix))
    exact = inputs.astype(np.float64) @ matrix.values().T.astype(np.float64)
    largest = np.abs(inputs).reshape(rows, -1, INPUTS).max(axis=-1)
    of_block = np.abs(matrix.values()).reshape(size[0], -1, INPUTS).sum(axis=-1)
    # Half a step of each input, or all of it where a block counts as zero; then what floats lose in sums.
    step = np.where(largest <= TINY, 1.0, 0.0 if kind.floats else 0.501 / 127) * largest
    tolerance = 1e-5 * largest @ magnitudes(matrix).reshape(size[0], -1, INPUTS).sum(axis=-1).T
    plain = np.asarray(jax.jit(plain_product)(inputs, packed))
    assert (np.abs(plain - exact) <= step @ of_block.T + tolerance).all()
    for target in (None, least_target(kind)):
        if target is None and not has_machine_code(kind):
            continue
        fast = np.asarray(jax.jit(lambda x, w, target=target: call_packed(x, w, target))(inputs, packed))
        assert (np.abs(fast - plain) <= tolerance).all(), target
    assert np.array_equal(linear(jnp.asarray(inputs[None]), packed)[0], np.asarray(linear(jnp.asarray(inputs), packed)))


@pytest.mark.parametrize("kind", [PackedKind(4, True), PackedKind(8, False)])
def test_tokens_pass_packed_experts_as_they_pass_their_numbers(kind):
    chance = np.random.default_rng(1)
    # Gates, and what they let through, of 32 inner outputs each; then back.
    parts = [[quantize(chance.standard_normal((outputs, 32)) / 6, kind) for _ in range(3)] for outputs in (64, 32)]
    hidden = jnp.asarray(chance.standard_normal((9, 32)), jnp.float32)
    experts, shares = chance.integers(0, 3, (9, 2)), chance.random((9, 2))
    routed = Routed(jnp.asarray(experts, jnp.int32), jnp.asarray(shares, jnp.float32))
    found = []
    for form in (Quantized.values, pack):
        gate_up, down = (jnp.asarray(np.stack([form(one) for one in part])) for part in parts)
        found.append(np.asarray(mix_experts(hidden, routed, ExpertWeights(gate_up, down), "silu")))
    numbers, packed = found
    assert np.abs(numbers - packed).max() < 0.02 * np.abs(numbers).max()
    assert not np.array_equal(numbers, packed)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_none_and_reaches_no_other_row(kind):
    matrix = drawn(kind, OUTPUTS, 2, 0)
    packed, inputs = jnp.asarray(pack(matrix)), np.ones((4, 2 * kind.inputs), np.float32)
    inputs[1, 3], inputs[2, 40] = np.nan, np.inf
    for product in (plain_product, linear, lambda x, w: call_packed(x, w, least_target(kind))):
        found = np.asarray(product(jnp.asarray(inputs), packed))
        assert not np.isfinite(found[1]).any()
        assert not np.isfinite(found[2]).all()
        assert np.isfinite(found[[0, 3]]).all()


@pytest.mark.skipif(not X86, reason="only a processor of this family is known to have what is needed")
@pytest.mark.parametrize("kind", KINDS)
def test_this_processor_has_machine_code(kind):
    assert has_machine_code(kind)


@settings(max_examples=25)
@given(
    kind=st.sampled_from((PackedKind(8, False), PackedKind(4, True))),
    size=st.tuples(st.sampled_from((OUTPUTS, 3 * OUTPUTS)), st.integers(1, 3 * INPUTS)),
    scale=st.sampled_from((0.0, 1e-3, 1.0, 100.0)),
    seed=seeds,
)
def test_rounding_is_to_the_nearest_level(kind, size, scale, seed):
    matrix = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    rounded = quantize(matrix, kind)
    steps = np.repeat(rounded.scales.astype(np.float32), INPUTS, axis=1)[:, : size[1]]
    by_block = np.pad(np.abs(matrix), ((0, 0), (0, -size[1] % INPUTS))).reshape(size[0], -1, INPUTS)
    largest = np.repeat(by_block.max(axis=-1), INPUTS, axis=1)[:, : size[1]]
    # Half a step, and what float16 takes from scale and minimum.
    assert (np.abs(rounded.values() - matrix) <= 0.5 * steps + 2e-3 * largest + 1e-6).all()


@settings(max_examples=40)
@given(
    kind=st.sampled_from([kind for kind in KINDS if not kind.nested]),
    outputs=st.sampled_from((OUTPUTS, 3 * OUTPUTS)),
    inputs=st.integers(1, 3 * FLOAT_INPUTS),
    cut=st.integers(0, 2),
    seed=seeds,
)
def test_a_last_block_that_is_not_full_adds_nothing(kind, outputs, inputs, cut, seed):
    whole = drawn(kind, outputs, kind.blocks(inputs), seed)
    matrix = whole._replace(levels=whole.levels[:, :inputs])
    np.testing.assert_array_equal(matrix.values(), whole.values()[:, :inputs])
    packed = jnp.asarray(pack(matrix))
    assert packed.nbytes == kind.matrix_bytes(outputs, inputs)
    rows = np.asarray(take_rows(packed, jnp.arange(outputs)))
    np.testing.assert_array_equal(rows[:, :inputs], matrix.values())
    given_rows = np.random.default_rng(seed).standard_normal((3, inputs)).astype(np.float32)
    filled = np.pad(given_rows, ((0, 0), (0, rows.shape[1] - inputs)))
    found = np.asarray(linear(jnp.asarray(given_rows), packed))
    np.testing.assert_array_equal(found, np.asarray(linear(jnp.asarray(filled), packed)))
    np.testing.assert_array_equal(found, np.asarray(linear(jnp.asarray(filled), jnp.asarray(pack(whole)))))
    start = min(cut * kind.inputs, inputs)
    share = matrix.columns(start, inputs)
    if start < inputs:
        np.testing.assert_array_equal(share.values(), matrix.values()[:, start:])
    width = inputs + -inputs % kind.inputs + kind.inputs
    ended = share.followed_by(0, width - share.levels.shape[1])
    assert ended.values().shape == (outputs, width)
    assert pack(ended).nbytes == kind.matrix_bytes(outputs, width)


def test_powers_of_two_from_the_least_to_the_largest_and_what_is_none():
    kind = KIND_OF_TYPE["MXFP4"]
    exponents = np.arange(256, dtype=np.uint8).repeat(OUTPUTS).reshape(-1, OUTPUTS).T
    levels = np.tile(np.arange(OUTPUTS, dtype=np.uint8), (OUTPUTS, exponents.shape[1] * INPUTS // OUTPUTS))
    matrix = Quantized(kind, levels, np.ascontiguousarray(exponents), None)
    told = mxfp4_as_recorded(levels, exponents)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(matrix.values(), told)
    unpacked = np.asarray(unpack(jnp.asarray(pack(matrix)))).reshape(told.shape)
    normal = (exponents.repeat(INPUTS, axis=1) >= 2) & (exponents.repeat(INPUTS, axis=1) != NO_POWER)
    np.testing.assert_array_equal(unpacked[normal], told[normal])
    np.testing.assert_allclose(unpacked, told, atol=2.0**-123)
    one = np.zeros((1, levels.shape[1]), np.float32)
    for exponent in (0, 1, 2, 127, LARGEST - 1):
        one[:] = 0
        one[0, exponent * INPUTS + 7] = 0.5
        for product in (plain_product, lambda x, w: call_packed(x, w, least_target(kind))):
            with_none = np.asarray(product(jnp.asarray(one), jnp.asarray(pack(matrix))))
            assert np.isnan(with_none).all(), "a scale that is none reaches every sum"
            finite = matrix.columns(0, LARGEST * INPUTS)
            found = np.asarray(product(jnp.asarray(one[:, : LARGEST * INPUTS]), jnp.asarray(pack(finite))))
            np.testing.assert_allclose(found[0], 0.5 * told[:, exponent * INPUTS + 7], rtol=1e-6, atol=2.0**-123)


def mxfp4_as_recorded(codes: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """By ``ml_dtypes``, which has both formats."""
    numbers = codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    powers = np.ascontiguousarray(exponents).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    with np.errstate(over="ignore"):
        return numbers * powers.repeat(INPUTS, axis=1)


def test_floats_of_a_byte_are_widened_exactly_and_what_is_none_stays_none():
    levels = np.arange(256, dtype=np.uint8).repeat(OUTPUTS).reshape(-1, OUTPUTS).T
    scales = np.full((OUTPUTS, 2), 0.375, np.float32)
    matrix = Quantized(E4M3, np.ascontiguousarray(levels), scales, None)
    told = levels.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.375)
    np.testing.assert_array_equal(matrix.values(), told)
    one_by_one = np.eye(256, dtype=np.float32)
    finite = Quantized(E4M3, np.where((levels & 127) == 127, 0, levels).astype(np.uint8), scales, None)
    exact = np.nan_to_num(told).T
    for product in (plain_product, linear, lambda x, w: call_packed(x, w, least_target(E4M3))):
        found = np.asarray(product(jnp.asarray(one_by_one), jnp.asarray(pack(finite))))
        np.testing.assert_array_equal(found, exact)
        assert np.isnan(np.asarray(product(jnp.asarray(one_by_one), jnp.asarray(pack(matrix))))).all()
