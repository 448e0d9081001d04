"""More layers never make a device faster or its cache larger, whatever the device, model and workload."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.profiles.catalogue import Measured, devices, find_measured
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.read_geometry import catalogue
from helix_df.profiles.throughput import (
    Requests,
    Roofline,
    from_curves,
    from_roofline,
    kv_tokens_by_layers,
    reading_weights,
)
from helix_df.profiles.timing import measured_timing
from helix_df.profiles.weight_bytes import computed_bytes

geometries = st.one_of(
    st.sampled_from(list(catalogue().values())),
    st.builds(
        lambda layers, heads, groups, size, width, vocabulary, tied: ModelGeometry(
            "llama", layers, heads * groups * size, width, heads * groups, heads, size, vocabulary, 4096,
            tie_embeddings=tied,
        ),
        st.integers(1, 90),
        st.integers(1, 8),
        st.integers(1, 8),
        st.sampled_from([32, 64, 128]),
        st.integers(64, 30_000),
        st.integers(256, 200_000),
        st.booleans(),
    ),
)  # fmt: skip
requests = st.builds(Requests, st.floats(1, 8000), st.floats(1, 4000), st.integers(1, 512))


def assert_falling(values):
    assert all(value > 0 for value in values)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(values))


@given(geometries, st.sampled_from([2, 4]), st.floats(1e6, 2e12), requests, st.floats(1e9, 1e16), st.floats(1e8, 1e13))
@settings(max_examples=300, deadline=None)
def test_a_roofline_falls_with_layers(geometry, element_bytes, memory, mean, compute, bandwidth):
    kv_tokens = kv_tokens_by_layers(geometry, element_bytes, memory, mean)
    result = from_roofline(geometry, element_bytes, Roofline(compute, bandwidth), kv_tokens, mean)
    assert len(result.tokens_per_s) == len(result.kv_tokens) <= geometry.num_layers
    assert_falling(result.tokens_per_s)
    assert_falling(result.kv_tokens)


@given(geometries, st.sampled_from([2, 4]), st.floats(1e6, 2e12), requests)
@settings(max_examples=200, deadline=None)
def test_what_fits_is_within_memory(geometry, element_bytes, memory, mean):
    heaviest = computed_bytes(geometry, element_bytes).in_a_row(geometry, max)
    for layers, tokens in enumerate(kv_tokens_by_layers(geometry, element_bytes, memory, mean), start=1):
        kept = layers * tokens * geometry.kv_bytes_per_token_layer(element_bytes)
        used = heaviest[layers - 1] + kept
        assert used + geometry.embedding_parameters * element_bytes <= 0.9 * memory * (1 + 1e-9)
        assert tokens >= mean.tokens


@given(
    st.sampled_from(["llama-30b", "llama-2-70b"]),
    st.sampled_from([*devices(), "2xL4", "2xT4", "4xT4"]),
    requests,
)
@settings(max_examples=200, deadline=None)
def test_measured_throughput_falls_with_layers(model, device, mean):
    measured = find_measured(device, catalogue()[model], "float16")
    if measured is None:
        return
    result = from_curves(measured, mean, catalogue()[model].num_layers)
    assert_falling(result.tokens_per_s)
    assert_falling(result.kv_tokens)


@given(geometries, st.floats(1e9, 1e12), requests, st.floats(1e9, 1e16), st.floats(1e8, 1e13), st.floats(1, 10))
@settings(max_examples=100, deadline=None)
def test_a_faster_or_larger_device_is_never_slower(geometry, memory, mean, compute, bandwidth, factor):
    def rates(memory, compute, bandwidth):
        kv_tokens = kv_tokens_by_layers(geometry, 2, memory, mean)
        return from_roofline(geometry, 2, Roofline(compute, bandwidth), kv_tokens, mean).tokens_per_s

    base = rates(memory, compute, bandwidth)
    for better in (
        rates(memory * factor, compute, bandwidth),
        rates(memory, compute * factor, bandwidth),
        rates(memory, compute, bandwidth * factor),
    ):
        assert len(better) >= len(base)
        assert all(b >= a * (1 - 1e-9) for a, b in zip(base, better, strict=False))


points = st.lists(
    st.tuples(st.integers(1, 8000), st.floats(1e-5, 1.0)), min_size=1, max_size=6, unique_by=lambda p: p[0]
)


@st.composite
def rising(draw):
    """A curve as published: from zero through measured points, never falling."""
    found = draw(points)
    seconds = sorted(y for _, y in found)
    return ((0.0, 0.0), *zip((float(x) for x in sorted(x for x, _ in found)), seconds, strict=True))


@given(rising(), rising(), st.integers(1, 9000), st.integers(1, 9000))
@settings(max_examples=300, deadline=None)
def test_a_pass_reads_the_weights_however_few_tokens_it_is_for(prefill, decode, tokens, more):
    published = Measured(prefill, decode, (10**6,), (64,))
    raw, found = measured_timing(published, 1), measured_timing(reading_weights(published), 1)
    assert found.decode == raw.decode
    assert found.prefill_s(tokens) >= min(found.decode_s(1), prefill[1][1])
    assert found.prefill_s(tokens) >= raw.prefill_s(tokens) * (1 - 1e-12)
    assert found.prefill_s(min(tokens, more)) <= found.prefill_s(max(tokens, more)) * (1 + 1e-9)
    if tokens >= prefill[1][0]:
        assert found.prefill_s(tokens) == raw.prefill_s(tokens)
    again = reading_weights(reading_weights(published))
    assert again == reading_weights(published)


@given(rising(), rising(), requests)
@settings(max_examples=200, deadline=None)
def test_short_prompts_and_small_batches_make_no_device_faster(prefill, decode, mean):
    published = Measured(prefill, decode, (10**6, 10**5, 10**4), (64, 64, 1))
    found = from_curves(reading_weights(published), mean, 3).tokens_per_s
    assert all(
        rate <= other * (1 + 1e-9)
        for rate, other in zip(found, from_curves(published, mean, 3).tokens_per_s, strict=True)
    )
