"""Throughput from tables, curves and rooflines, against numbers worked out by hand."""

import json
from pathlib import Path

import pytest

from helix_df.profiles.catalogue import TENSOR_PARALLEL_SHARE, Measured, find_device, find_measured
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.read_geometry import catalogue
from helix_df.profiles.throughput import Requests, Roofline, from_curves, from_roofline, from_table, kv_tokens_by_layers

# One layer: 100·(4·1·100) attention + 3·100·200 + 200 norms = 100,200 parameters.
GEOMETRY = ModelGeometry("llama", 4, 100, 200, 1, 1, 100, 1000, 512)
LAYER = 100_200
REQUESTS = Requests(100, 50, 8)
DATA = Path(__file__).parents[2] / "helix_df" / "profiles" / "data"


def test_kv_cache_is_what_weights_and_vocabulary_leave():
    memory = 1_000_100 / 0.9
    # 4 bytes an element: 400,000 for the vocabulary, 400,800 a layer, 800 a token and layer.
    assert kv_tokens_by_layers(GEOMETRY, 4, memory, REQUESTS) == ((1_000_000 - 400_000 - 400_800) // 800,)


def test_all_layers_take_both_vocabulary_matrices_unless_tied():
    def fits(tied):
        geometry = ModelGeometry("llama", 2, 100, 200, 1, 1, 100, 1000, 512, tie_embeddings=tied)
        return kv_tokens_by_layers(geometry, 2, 1.2e6, REQUESTS)

    assert fits(tied=True)[1] - fits(tied=False)[1] == 100_000 * 2 / (2 * 400)


def test_a_layer_that_leaves_no_room_for_one_request_does_not_fit():
    longer = Requests(10_000, 10_000, 8)
    memory = (400_000 + LAYER * 4 + 800 * 19_999) / 0.9
    assert kv_tokens_by_layers(GEOMETRY, 4, memory, longer) == ()
    assert len(kv_tokens_by_layers(GEOMETRY, 4, memory + 2000, longer)) == 1


def test_a_roofline_bound_by_compute():
    result = from_roofline(GEOMETRY, 4, Roofline(1e9, 1e15), (10_000, 5_000), REQUESTS)
    per_token = 2 * LAYER / 1e9
    assert result.tokens_per_s == pytest.approx([1 / per_token, 1 / (2 * per_token)])


def test_a_roofline_bound_by_memory_reads_weights_once_for_the_batch():
    bandwidth = 1e9
    result = from_roofline(GEOMETRY, 4, Roofline(1e18, bandwidth), (600,), REQUESTS)
    batch = 600 / 150  # cache for four requests, fewer than max_batch
    prefill = LAYER * 4 / bandwidth
    decode = (LAYER * 4 / batch + 125 * 800) / bandwidth
    assert result.tokens_per_s == pytest.approx([150 / (prefill + 50 * decode)])


def test_the_batch_is_capped():
    def rate(limit):
        return from_roofline(GEOMETRY, 4, Roofline(1e18, 1e9), (10**9,), Requests(100, 50, limit)).tokens_per_s[0]

    assert rate(1) < rate(8) < rate(64)


def test_curves_are_read_between_their_points():
    measured = Measured(
        prefill=((0, 0.0), (200, 0.2)),
        decode=((0, 0.0), (2, 0.010), (4, 0.012), (8, 0.040)),
        kv_tokens=(10_000, 450, 150),
        max_batch=(100, 100, 100),
    )
    result = from_curves(measured, Requests(100, 50, 8), 80)
    # 1 layer: 8 requests fit, yet 4 together cost the least a token: 3 ms. 2 layers: 3 requests, 11/3 ms. 3: one, 5 ms.
    expected = [150 / (1 * (0.1 + 50 * 0.003)), 150 / (2 * (0.1 + 50 * 0.011 / 3)), 150 / (3 * (0.1 + 50 * 0.005))]
    assert result.tokens_per_s == pytest.approx(expected)
    assert result.kv_tokens == measured.kv_tokens


def test_curves_go_on_in_proportion_beyond_their_end():
    measured = Measured(((0, 0.0), (100, 0.1)), ((0, 0.0), (2, 0.01)), (10_000,), (100,))
    assert from_curves(measured, Requests(400, 1e-9, 1), 1).tokens_per_s == pytest.approx([400 / 0.4])


def test_tables_are_cut_to_the_model():
    assert from_table((3.0, 2.0, 1.0), (30, 20, 10), 2).tokens_per_s == (3.0, 2.0)
    assert from_table((3.0, 2.0, 1.0), (30,), 9).kv_tokens == (30,)


def test_several_devices_of_one_node():
    single, double = find_device("L4"), find_device("2xL4")
    assert double.memory_bytes == 2 * single.memory_bytes
    assert double.bytes_per_s == 2 * TENSOR_PARALLEL_SHARE * single.bytes_per_s
    assert find_device("8xH200").name == "8xH200"
    assert find_device("1xT4").bytes_per_s == find_device("T4").bytes_per_s


@pytest.mark.parametrize("name", ["l4", "0xL4", "xL4", "2xL5", "2x2xL4", "", "100xL4"])
def test_unknown_devices(name):
    assert find_device(name) is None


def test_every_row_of_the_catalogue_says_where_its_numbers_are_from():
    assert all(row["source"] for row in json.loads((DATA / "gpus.json").read_text("utf-8")).values())


@pytest.mark.parametrize("model", ["llama-30b", "llama-2-70b"])
@pytest.mark.parametrize("device", ["A100-40GB", "V100-16GB", "L4", "2xL4", "T4", "2xT4", "4xT4"])
def test_measured_curves_are_found_for_their_model_only(model, device):
    measured = find_measured(device, catalogue()[model], "float16")
    assert measured is not None
    assert len(measured.kv_tokens) == len(measured.max_batch)
    assert find_measured(device, catalogue()[model], "float32") is None
    assert find_measured(device, catalogue()["llama-3.1-70b"], "float16") is None
    assert find_measured("H200", catalogue()[model], "float16") is None


def test_rooflines_are_of_the_order_of_what_was_measured():
    geometry, mean = catalogue()["llama-2-70b"], Requests(750, 240, 16)
    for name in ("A100-40GB", "L4", "T4", "V100-16GB"):
        device = find_device(name)
        kv_tokens = kv_tokens_by_layers(geometry, 2, device.memory_bytes, mean)
        peak = Roofline(0.5 * device.flop_per_s["float16"], 0.5 * device.bytes_per_s)
        estimate = from_roofline(geometry, 2, peak, kv_tokens, mean)
        measured = from_curves(find_measured(name, geometry, "float16"), mean, geometry.num_layers)
        assert 0.5 < estimate.tokens_per_s[1] / measured.tokens_per_s[1] < 2
