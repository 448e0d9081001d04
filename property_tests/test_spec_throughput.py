"""More layers never make a device faster or its cache larger, whatever the device, model and workload."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.profiles.catalogue import devices, find_measured
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.read_geometry import catalogue
from helix_df.profiles.throughput import Requests, Roofline, from_curves, from_roofline, kv_tokens_by_layers

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
    for layers, tokens in enumerate(kv_tokens_by_layers(geometry, element_bytes, memory, mean), start=1):
        used = layers * (
            geometry.layer_parameters * element_bytes + tokens * geometry.kv_bytes_per_token_layer(element_bytes)
        )
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
