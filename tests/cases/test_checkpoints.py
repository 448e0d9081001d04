"""A checkpoint that says something which would be ignored is served right, or refused at ``validate``: table by table.

What is right comes from transformers: ``recorded/checkpoints.npz`` of the oracle, and ``recorded/ropes.npz``.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from helix_df.errors import SpecError
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.models.decoder_weights import build_decoder
from helix_df.models.random_weights import RandomReader
from helix_df.models.weights import load_shard
from helix_df.profiles.config_options import BOOKKEEPING
from helix_df.profiles.gguf_types import GGML_TYPES
from helix_df.profiles.read_geometry import catalogue, read_geometry
from helix_df.profiles.tensor_names import model_tensors
from tests.cases.files import checkpoint, gguf_file, job_text
from tests.cases.ropes import LLAMA3, ROPES
from tests.oracle.cases import RECORDED as ORACLE
from tests.oracle.cases import prompt_ids

RECORDED = Path(__file__).parent / "recorded"


def refusal(source) -> str:
    with pytest.raises(SpecError) as caught:
        parse_job(job_text(source))
    return str(caught.value)


def last_logits(source, length=150):
    ids = prompt_ids(320, length)
    return np.asarray(load_shard(source, read_geometry(source))(jnp.asarray(ids[None])))[0, -1]


# ---------------------------------------------------------------------- quantized


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_algo": "NVFP4", "producer": {"name": "modelopt"}}, "NVFP4"),
        ({"format": "pack-quantized"}, "pack-quantized"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantization_config_is_refused_by_the_name_of_its_method(tmp_path, key, entry, named):
    message = refusal(checkpoint(tmp_path, config={key: entry}))
    assert named in message
    assert "GGUF" in message


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, "config_groups"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "zero_point"),
        ({"quant_method": "gptq", "bits": 4, "desc_act": True}, "group_size"),
        ({"quant_method": "fp8", "activation_scheme": "every other"}, "activation_scheme"),
    ],
)
def test_one_that_says_too_little_is_refused_by_the_option(tmp_path, entry, named):
    assert f"quantization_config.{named}" in refusal(checkpoint(tmp_path, config={"quantization_config": entry}))


@pytest.mark.parametrize("file", ["hf_quant_config.json", "quantize_config.json", "quant_config.json"])
def test_so_is_what_a_quantizer_left_beside_the_config(tmp_path, file):
    assert file in refusal(checkpoint(tmp_path, files={file: {"bits": 4}}))


def test_so_is_an_adapter(tmp_path):
    assert "adapter" in refusal(checkpoint(tmp_path, files={"adapter_config.json": {"r": 8}}))


# ---------------------------------------------------------------------- tensors


def with_scales(tensors):
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        tensors[name] = tensors[name].astype(np.int8)
        tensors[f"{name}_scale"] = np.ones((len(tensors[name]), 1), ml_dtypes.bfloat16)


def adding(name, shape=(8,), dtype=np.float32):
    return lambda tensors: tensors.update({name: np.ones(shape, dtype)})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (with_scales, "weight_scale"),
        (adding("model.layers.0.self_attn.q_proj.bias"), "q_proj.bias"),
        (adding("model.layers.1.mlp.experts.3.w1.weight"), "experts.3.w1"),
        (adding("model.layers.5.input_layernorm.weight"), "model.layers.5"),
        (adding("model.layers.0.self_attn.q_norm.weight"), "q_norm"),
        (adding("score.weight"), "score.weight"),
        (adding("model.layers.0.mlp.gate_proj.qweight"), "qweight"),
        (adding("lm_head.bias"), "lm_head.bias"),
        (lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"), "model.layers.2.mlp.up_proj.weight"),
        (lambda tensors: tensors.pop("lm_head.weight"), "lm_head.weight"),
        (adding("model.norm.weight", (47,)), "(47,)"),
        (adding("model.norm.weight", (48,), np.int8), "I8"),
        (adding("model.norm.weight", (48,), ml_dtypes.float8_e4m3fn), "F8_E4M3"),
    ],
)
def test_tensors_that_nobody_reads_or_that_are_missing_or_misshapen(tmp_path, edit, named):
    assert named in refusal(checkpoint(tmp_path, edit=edit))


def test_scales_fail_at_load_too(tmp_path):
    source = checkpoint(tmp_path, edit=adding("model.layers.1.mlp.up_proj.weight_scale"))
    geometry = read_geometry(source)
    assert load_shard(source, geometry, LayerRange(2, 3)).blocks
    with pytest.raises(Exception, match="weight_scale"):
        load_shard(source, geometry, LayerRange(0, 2))


def test_what_old_checkpoints_store_though_it_is_computed_is_fine(tmp_path):
    edit = adding("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert parse_job(job_text(checkpoint(tmp_path, edit=edit)))


def test_a_tied_head_that_is_stored_all_the_same(tmp_path):
    def same(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    def other(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2

    source = checkpoint(tmp_path / "same", "tied", edit=same)
    np.testing.assert_allclose(last_logits(source), np.load(ORACLE / "checkpoints.npz")["tied.logits.150"], atol=1e-3)
    source = checkpoint(tmp_path / "other", "tied", edit=other)
    with pytest.raises(Exception, match="tie_word_embeddings"):
        load_shard(source, read_geometry(source))


def test_the_tensors_that_are_checked_are_those_that_are_read():
    class Noting(RandomReader):
        def tensor(self, name, shape):
            read[name] = shape
            return super().tensor(name, shape)

    geometry = catalogue()["tiny"]
    for layers in (None, LayerRange(0, 2), LayerRange(1, 3), LayerRange(2, 4)):
        read: dict[str, tuple[int, ...]] = {}
        build_decoder(Noting(0), geometry, layers or LayerRange(0, 4), jnp.float32, "rows")
        assert read == model_tensors(geometry, layers)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"attention_bias": True}, "self_attn.k_proj.bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"hidden_act": "relu2"}, "hidden_act"),
        ({"sliding_window": 256}, "sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"attention_multiplier": 0.0078125}, "attention_multiplier"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
        ({"residual_multiplier": 0.22}, "residual_multiplier"),
        ({"logits_scaling": 8.0}, "logits_scaling"),
        ({"logit_scale": 0.0625}, "logit_scale"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"num_local_experts": 8, "num_experts_per_tok": 2}, "num_local_experts"),
        ({"use_parallel_residual": True}, "use_parallel_residual"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"clip_qkv": 8.0}, "clip_qkv"),
        ({"no_rope_layers": [1, 1, 1, 0, 1]}, "no_rope_layers"),
        ({"attention_chunk_size": 128}, "attention_chunk_size"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers"),
        ({"scale_emb": 12}, "scale_emb"),
        ({"norm_type": "layernorm"}, "norm_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": ["LlamaForCausalLMEagle"]}, "LlamaForCausalLMEagle"),
        ({"model_type": "mixtral"}, "MixtralForCausalLM"),
        ({"head_dim": 16}, "(96, 48)"),
        ({"vocab_size": 300}, "(300, 48)"),
        ({"tie_word_embeddings": True, "vocab_size": 319}, "(319, 48)"),
    ],
)
def test_options_that_change_the_computation_are_refused(tmp_path, options, named):
    assert named in refusal(checkpoint(tmp_path, config=options))


@pytest.mark.parametrize(
    "options",
    [
        {"attention_bias": None, "mlp_bias": False, "hidden_act": "swish", "head_dim": None, "pretraining_tp": 4},
        {"sliding_window": 512, "max_window_layers": 3},
        {"sliding_window": 64, "use_sliding_window": False},
        {"partial_rotary_factor": 1.0, "rope_interleaved": False, "layer_types": ["full_attention"] * 5},
        {"num_local_experts": 0, "use_qk_norm": False, "clip_qkv": None, "no_rope_layers": []},
        {"architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048, "pad_token_id": -1},
        {"_flash_attn_2_enabled": True, "_attn_implementation": "sdpa", "torch_dtype": "bfloat16"},
        {"auto_map": {"AutoModelForCausalLM": "modeling.Custom"}, "unsloth_version": "2024.9"},
        dict.fromkeys(BOOKKEEPING, "anything"),
    ],
)
def test_what_real_configs_say_besides_is_no_reason_to_refuse(tmp_path, options):
    assert parse_job(job_text(checkpoint(tmp_path, config=options)))


# ---------------------------------------------------------------------- rotary positions


@pytest.mark.parametrize("name", ROPES)
def test_rope_settings_wherever_they_stand_equal_transformers(tmp_path, name):
    source = checkpoint(tmp_path, config=ROPES[name])
    assert parse_job(job_text(source))
    np.testing.assert_allclose(last_logits(source), np.load(RECORDED / "ropes.npz")[name], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": -4.0}}, "factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attn_factor": 1.0}}, "attn_factor"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}, "rope_scaling"),
        ({"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}}, "rope_scaling"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4}}, "long_factor"),
        ({"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}, "proportional"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "attention_factor": 0.7}}, "attention_factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, "factor"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 4.0},
                "rope_parameters": {"rope_type": "linear", "factor": 8.0},
            },
            "contradicts",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": LLAMA3}, "contradicts"),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_theta": 5e5}},
            "contradicts",
        ),
    ],
)
def test_rope_settings_that_arent_honoured_are_refused(tmp_path, options, named):
    assert named in refusal(checkpoint(tmp_path, config=options))


def ramp(*, factor, low, high, original, theta=500000.0, head_dim=8):
    """Divisors of Llama 3's frequencies, as converters to GGUF write them."""
    divisors = []
    for index in range(0, head_dim, 2):
        turns = original * theta ** (-index / head_dim) / (2 * np.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def test_the_divisors_of_a_gguf_are_used_as_they_stand(tmp_path):
    source = gguf_file(tmp_path, "llama3-rope", extra={"rope_freqs.weight": ramp(factor=8, low=1, high=4, original=64)})
    assert parse_job(job_text(source))
    recorded = np.load(ORACLE / "checkpoints.npz")["llama3-rope.logits.150"]
    np.testing.assert_allclose(last_logits(source), recorded, atol=1e-3)


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.factor": 4.0},
        {"llama.rope.scale_linear": 4.0},
    ],
)
def test_a_linear_factor_of_a_gguf_however_it_is_named(tmp_path, metadata):
    source = gguf_file(tmp_path, "grouped", metadata=metadata)
    np.testing.assert_allclose(last_logits(source), np.load(RECORDED / "ropes.npz")["older"], atol=1e-3)


def test_a_linear_factor_and_divisors_multiply(tmp_path):
    divisors = np.array([1, 1, 2, 4], np.float32)
    both = gguf_file(
        tmp_path / "both",
        metadata={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
        extra={"rope_freqs.weight": divisors},
    )
    alone = gguf_file(tmp_path / "alone", extra={"rope_freqs.weight": divisors * 2})
    np.testing.assert_array_equal(last_logits(both), last_logits(alone))


# ---------------------------------------------------------------------- GGUF


@pytest.mark.parametrize(
    ("metadata", "extra", "named"),
    [
        ({"llama.expert_count": 4, "llama.expert_used_count": 2}, {}, "blk.0.ffn_down.weight"),
        ({"llama.expert_used_count": 2}, {}, "expert_used_count"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": -4.0}, {}, "factor"),
        ({"llama.rope.scaling.type": "longrope"}, {}, "short_factor"),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.alpha": 2.0}, {}, "rope.scaling.alpha"),
        ({"llama.attention.sliding_window": 128}, {}, "sliding_window"),
        ({"llama.attention.key_length": 8, "llama.attention.value_length": 16}, {}, "value_length"),
        ({"llama.attention.key_length": 8, "llama.rope.dimension_count": 4}, {}, "partial_rotary_factor"),
        ({"llama.attention.key_length": 16}, {}, "(96, 48)"),
        ({"llama.attention.scale": 0.1}, {}, "attention.scale"),
        ({"llama.logit_scale": 0.5}, {}, "logit_scale"),
        ({"llama.embedding_scale": 12.0}, {}, "embedding_scale"),
        ({"llama.residual_scale": 0.22}, {}, "residual_scale"),
        ({"llama.attention.causal": False}, {}, "causal"),
        ({"llama.attn_logit_softcapping": 50.0}, {}, "attn_logit_softcapping"),
        ({"llama.use_parallel_residual": True}, {}, "parallel_residual"),
        ({"llama.attention.sliding_window_pattern": [True] * 80}, {}, "sliding_window_pattern"),
        ({"llama.attention.head_count_kv": [2, 2, 1, 2, 2]}, {}, "malformed"),
        ({"split.count": 2, "split.no": 0}, {}, "part 1 of 2"),
        ({"split.count": 3, "split.no": 2}, {}, "part 3 of 3"),
        ({"general.type": "adapter"}, {}, "adapter"),
        ({}, {"blk.0.ffn_gate_inp.weight": np.ones((4, 48), np.float32)}, "ffn_gate_inp"),
        ({}, {"blk.0.attn_q.scale": np.ones(1, np.float32)}, "attn_q.scale"),
        ({}, {"blk.0.attn_q.bias": np.ones(48, np.float32)}, "attn_q.bias"),
        ({}, {"rope_factors_long.weight": np.ones(4, np.float32)}, "rope_factors_long"),
        ({}, {"rope_freqs.weight": np.ones(3, np.float32)}, "rope_freqs"),
        ({}, {"rope_freqs.weight": np.zeros(4, np.float32)}, "rope_freqs"),
        ({}, {"rope_freqs.weight": np.ones(4, np.float16)}, "rope_freqs"),
    ],
)
def test_what_a_gguf_says_is_honoured_or_refused(tmp_path, metadata, extra, named):
    assert named in refusal(gguf_file(tmp_path, metadata=metadata, extra=extra))


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.expert_count": 0, "llama.expert_used_count": 0, "llama.attention.sliding_window": 0},
        {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.dimension_count": 8, "llama.attention.key_length": 8, "llama.attention.value_length": 8},
        {"llama.vocab_size": 320, "llama.attention.causal": True, "split.count": 1, "general.type": "model"},
        {"llama.tensor_data_layout": "Meta AI original pth", "llama.logit_scale": 1.0, "general.name": "x"},
    ],
)
def test_what_real_gguf_files_say_besides_is_no_reason_to_refuse(tmp_path, metadata):
    source = gguf_file(tmp_path, metadata=metadata)
    assert parse_job(job_text(source))
    np.testing.assert_allclose(
        last_logits(source), np.load(ORACLE / "checkpoints.npz")["grouped.logits.150"], atol=1e-3
    )


def test_a_gguf_type_that_nobody_dequantizes(tmp_path):
    source = gguf_file(tmp_path)
    path = Path(source.location)
    raw = path.read_bytes()
    at = raw.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    path.write_bytes(raw[:at] + (38).to_bytes(4, "little") + raw[at + 4 :])
    assert "GGML type 38" in refusal(source)


def test_a_gguf_that_is_cut_short_is_found_at_validate(tmp_path):
    source = gguf_file(tmp_path)
    path = Path(source.location)
    path.write_bytes(path.read_bytes()[:-5000])
    assert "cut short" in refusal(source)


def test_the_table_of_gguf_types_is_that_of_the_package():
    theirs = {
        int(kind): (kind.name, *gguf.constants.GGML_QUANT_SIZES[kind])
        for kind in (*gguf.quants._type_traits, gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    }
    assert theirs == {number: tuple(kind) for number, kind in GGML_TYPES.items()}


# ---------------------------------------------------------------------- more ids than rows


def vocabulary(count, **added):
    return {"model": {"type": "BPE", "vocab": {f"t{number}": number for number in range(count)}}, **added}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": vocabulary(325)},
        {"tokenizer.json": vocabulary(320, added_tokens=[{"id": 320, "content": "<x>"}])},
        {"tokenizer.json": {"model": {"type": "Unigram", "vocab": [["a", 0.0]] * 321}}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"321": {"content": "<x>"}}}},
    ],
)
def test_more_ids_than_rows_are_refused(tmp_path, files):
    assert "an embedding of 320 rows" in refusal(checkpoint(tmp_path, files=files))


def test_as_many_ids_as_rows_are_fine(tmp_path):
    files = {
        "tokenizer.json": vocabulary(318, added_tokens=[{"id": 318, "content": "<x>"}]),
        "tokenizer_config.json": {"added_tokens_decoder": {"319": {"content": "<y>"}}},
    }
    assert parse_job(job_text(checkpoint(tmp_path, files=files)))
    assert parse_job(job_text(gguf_file(tmp_path, tokens=320)))


def test_more_tokens_than_rows_in_a_gguf(tmp_path):
    assert "ids up to 320" in refusal(gguf_file(tmp_path, tokens=321))
