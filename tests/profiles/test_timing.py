"""Layer times from every source agree with the throughput that planning takes from the same source."""

from __future__ import annotations

import pytest

from helix_df.profiles.catalogue import find_measured
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.throughput import Requests, Roofline, from_curves, from_roofline, reading_weights
from helix_df.profiles.timing import closed_form, declared_timing, linear_timing, measured_timing, roofline_timing
from helix_df.spec.source import parse_source

GEOMETRY = read_geometry(parse_source("random:llama-2-70b"))
MEAN = Requests(750, 240, 64)


@pytest.mark.parametrize("gpu", ["A100-40GB", "L4", "T4", "4xT4", "V100-16GB"])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_measured_timing_gives_the_measured_throughput(gpu: str, layers: int):
    measured = find_measured(gpu, GEOMETRY, "float16")
    assert measured is not None
    planned = from_curves(measured, MEAN, 80)
    found = closed_form(measured_timing(measured, layers), planned.kv_tokens[layers - 1], layers, MEAN)
    # Planning smooths dents that measured batch limits make, and takes one request's step from a line through 0.
    assert found == pytest.approx(planned.tokens_per_s[layers - 1], rel=0.01)


def test_one_request_decodes_as_slowly_as_two():
    timing = measured_timing(find_measured("L4", GEOMETRY, "float16"), 2)
    assert timing.decode_s(1) == timing.decode_s(2) == pytest.approx(6.9e-3)
    assert timing.decode_s(0) == timing.prefill_s(0) == 0
    assert timing.prefill_s(375) == pytest.approx(16e-3)


@pytest.mark.parametrize("layers", [1, 3])
def test_roofline_timing_gives_the_rooflines_throughput(layers: int):
    roofline = Roofline(5e13, 4e11)
    kv_tokens = (40_000, 20_000, 12_000)
    planned = from_roofline(GEOMETRY, 2, roofline, kv_tokens, MEAN)
    timing = roofline_timing(GEOMETRY, 2, roofline, MEAN)
    found = closed_form(timing, kv_tokens[layers - 1], layers, MEAN)
    assert found == pytest.approx(planned.tokens_per_s[layers - 1], rel=1e-6)


def test_declared_tables_are_met_exactly_with_any_shape():
    shape = measured_timing(find_measured("A100-40GB", GEOMETRY, "float16"), 5)
    for timing in (declared_timing(1234.0, 100_000, 5, shape, MEAN), linear_timing(1234.0, 5)):
        assert closed_form(timing, 100_000, 5, MEAN) == pytest.approx(1234.0)
    stretched = declared_timing(1234.0, 100_000, 5, shape, MEAN)
    assert stretched.decode_s(8) / stretched.decode_s(64) == pytest.approx(shape.decode_s(8) / shape.decode_s(64))


@pytest.mark.parametrize("model", ["llama-2-70b", "llama-30b"])
@pytest.mark.parametrize("gpu", ["A100-40GB", "V100-16GB", "L4", "2xL4", "T4", "2xT4", "4xT4"])
def test_a_prompt_of_a_token_costs_what_a_decode_step_does(gpu: str, model: str) -> None:
    published = find_measured(gpu, read_geometry(parse_source(f"random:{model}")), "float16")
    assert published is not None
    raw, found = measured_timing(published, 1), measured_timing(reading_weights(published), 1)
    assert raw.prefill_s(1) < 0.02 * found.prefill_s(1)  # the published line starts at zero
    assert found.prefill_s(1) == found.decode_s(1) == raw.decode_s(2)
    first = published.prefill[1][0]
    assert [found.prefill_s(tokens) for tokens in (first, 763, 2048)] == [
        raw.prefill_s(tokens) for tokens in (first, 763, 2048)
    ]
