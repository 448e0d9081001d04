"""What a checkpoint's configuration says of how its weights are quantized, or a refusal of what isn't read.

Owns the keys of ``quantization_config`` by method: compressed-tensors
(https://github.com/vllm-project/compressed-tensors), ``fp8`` (DeepSeek V3, transformers' fine-grained FP8), AutoAWQ and
AutoGPTQ. A key that nobody reads stops everything, unless it says nothing. Activations are computed with as they are,
whatever a configuration says of rounding them, which is nearer to the model before it was quantized.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.families.family import Family
from helix_df.profiles.quantized_matrices import Coding, Form, Group, Quantization

KEYS = ("quantization_config", "compression_config")
"""Where ``config.json`` says it."""

SIDECARS = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files beside it in which quantizers say the same again, or, where ``config.json`` doesn't, alone."""

_WHOLE_MODELS = "numbers in float32, float16 or bfloat16 | compressed-tensors | fp8 | awq | gptq | GGUF (gguf:FILE)"
_STATIC = frozenset({"input_scale", "input_zero_point", "output_scale", "output_zero_point"})
_CACHE = frozenset({"k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point"})


class _QuantizationEntry:
    """Options that are asked for one by one; in the end, those that nobody asked for must say nothing."""

    def __init__(self, given: object, where: str) -> None:
        if not isinstance(given, Mapping):
            raise ModelError("this isn't a JSON object", where=where, found=str(given)[:80])
        self._given: Mapping[str, Any] = given
        self._asked: set[str] = set()
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default`` where there is none."""
        self._asked.add(key)
        value = self._given.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            ModelError: when it isn't one.
        """
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, "a whole number")
        return value

    def size(self, key: str) -> int:
        """How many share a scale, as ``Coding`` has it: -1 is all, so 0."""
        value = self.whole(key)
        if value != -1 and value < 1:
            raise self.wrong(key, "a number of inputs, or -1 for all")
        return max(value, 0)

    def one_of(self, key: str, *possible: Any, default: Any = None) -> Any:
        """The value, which is one of ``possible``.

        Raises:
            ModelError: when it isn't.
        """
        value = self.get(key, default)
        if value not in possible:
            raise self.wrong(key, " | ".join(map(str, possible)))
        return value

    def inner(self, key: str) -> _QuantizationEntry:
        """The options under a key."""
        return _QuantizationEntry(self.get(key, {}), f"{self.where}.{key}")

    def wrong(self, key: str, expected: str) -> ModelError:
        """The error for a value that isn't supported."""
        return ModelError(
            "this way to quantize weights isn't supported",
            where=f"{self.where}.{key}",
            found=str(self._given.get(key))[:80],
            expected=expected,
        )

    def end(self, *harmless: str) -> None:
        """Make sure that what nobody asked for says nothing.

        Raises:
            ModelError: when it does.
        """
        for key, value in self._given.items():
            if key not in self._asked and key not in harmless and value not in (None, False, "", [], {}):
                raise ModelError(
                    "nobody reads this option of how weights are quantized",
                    where=f"{self.where}.{key}",
                    found=str(value)[:80],
                )


def read_quantization(folder: Path, family: Family) -> Quantization | None:
    """What the checkpoint in ``folder`` says; ``None`` where weights are numbers, or only ``family`` reads them.

    Raises:
        ModelError: when it says something that isn't supported, with the path of the option.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError("the model's config.json can't be read", where=str(path), found=str(error)) from error
    return quantization_of(config, family, str(path))


def quantization_of(config: Mapping[str, Any], family: Family, where: str) -> Quantization | None:
    """As ``read_quantization``, of a config that is named ``where`` in errors."""
    for key in KEYS:
        entry = config.get(key)
        if not entry:
            continue
        method = _method(entry)
        if method in family.quantized:
            return None
        if method not in _METHODS:
            raise _unsupported(where, f"{key}: {method}")
        options = _QuantizationEntry(entry, f"{where}: {key}")
        options.get("quant_method")
        return _METHODS[method](options)
    return None


def check_quantization(config: Mapping[str, Any], family: Family, folder: Path) -> None:
    """Stop at weights that are stored with scales that nobody reads.

    Raises:
        ModelError: with the method of quantization, or the option at fault.
    """
    where = str(folder / "config.json")
    quantization = quantization_of(config, family, where)
    for name in SIDECARS:
        if quantization is None and (folder / name).is_file():
            raise _unsupported(str(folder / name), f"{name}, and no quantization_config in config.json")


def _unsupported(where: str, found: str) -> ModelError:
    return ModelError(
        "weights that are quantized in this way aren't supported", where=where, found=found, expected=_WHOLE_MODELS
    )


def _method(entry: object) -> str:
    if not isinstance(entry, Mapping):
        return str(entry)
    method = entry.get("quant_method") or entry.get("quant_algo") or entry.get("format") or "(no method named)"
    return str(method)


def _compressed_tensors(options: _QuantizationEntry) -> Quantization:
    unread = frozenset[str]()
    form = str(options.get("format", "(none)"))
    groups: list[Group] = []
    named = options.inner("config_groups")
    for name in options.get("config_groups", {}):
        group = named.inner(name)
        if group.get("weights") is not None:
            weights = group.inner("weights")
            groups.append(Group(_targets(group), _compressed_weights(weights, str(group.get("format", form)))))
        for activations in ("input_activations", "output_activations"):
            found_beforehand = group.get(activations) and group.inner(activations).get("dynamic") is not True
            unread |= _STATIC if found_beforehand else frozenset()
        group.end("targets", "format")
    if not groups:
        raise options.wrong("config_groups", "at least one group with weights")
    if options.get("kv_cache_scheme"):
        unread |= _CACHE
    sparsity = options.inner("sparsity_config")
    sparsity.one_of("format", "dense", default="dense")
    options.get("ignore")
    options.end("format", "quantization_status", "global_compression_ratio", "version")
    return Quantization("compressed-tensors", tuple(groups), unread)


def _targets(group: _QuantizationEntry) -> tuple[str, ...]:
    targets = group.get("targets", [])
    if not isinstance(targets, list) or not targets:
        raise group.wrong("targets", "names of modules, patterns, or Linear")
    return tuple(map(str, targets))


_OBSERVED = ("dynamic", "observer", "observer_kwargs", "scale_dtype", "zp_dtype")
"""Keys that tell how scales were found, or are stored, which headers say."""


def _compressed_weights(weights: _QuantizationEntry, form: str) -> Coding:
    kind = weights.one_of("type", "int", "float", default="int")
    bits = weights.whole("num_bits", 8)
    symmetric = weights.one_of("symmetric", True, False, default=True)
    rows, columns = _compressed_blocks(weights)
    ordered = weights.one_of("actorder", None, False, "weight", "static", "group", "dynamic") in ("group", "dynamic")
    weights.end(*_OBSERVED)
    coded: Mapping[str, tuple[Form, tuple[str, ...], tuple[int, ...]]] = {
        "float-quantized": ("float8", ("float",), (8,)),
        "int-quantized": ("int8", ("int",), (8,)),
        "naive-quantized": ("float8" if kind == "float" else "int8", ("int", "float"), (8,)),
        "pack-quantized": ("packed", ("int",), (4, 8)),
    }
    if form not in coded:
        raise ModelError(
            "this way to quantize weights isn't supported",
            where=f"{weights.where}: format",
            found=form,
            expected=" | ".join(coded),
        )
    stored, kinds, possible = coded[form]
    weights.one_of("type", *kinds, default="int")
    weights.one_of("num_bits", *possible, default=8)
    return Coding(stored, bits, rows, columns, zeros=not symmetric, ordered=ordered, symmetric=symmetric)


def _compressed_blocks(weights: _QuantizationEntry) -> tuple[int, int]:
    """How many outputs and inputs share a scale."""
    size = weights.get("group_size")
    strategy = weights.one_of("strategy", "tensor", "channel", "group", "block", default="group" if size else "tensor")
    structure = weights.get("block_structure")
    if strategy == "group":
        return 1, weights.size("group_size")
    if strategy == "block":
        if not isinstance(structure, list) or len(structure) != 2 or not all(isinstance(one, int) for one in structure):
            raise weights.wrong("block_structure", "[rows, columns]")
        return int(structure[0]), int(structure[1])
    return (1, 0) if strategy == "channel" else (0, 0)


def _fp8(options: _QuantizationEntry) -> Quantization:
    options.one_of("fmt", "e4m3", default="e4m3")
    static = options.one_of("activation_scheme", "dynamic", "static", default="dynamic") == "static"
    blocks = options.get("weight_block_size")
    if blocks is None:
        coding = Coding("float8", 8)
    elif isinstance(blocks, list) and len(blocks) == 2 and all(isinstance(one, int) and one > 0 for one in blocks):
        coding = Coding("float8", 8, blocks[0], blocks[1], scale="weight_scale_inv")
    else:
        raise options.wrong("weight_block_size", "[rows, columns]")
    options.one_of("scale_fmt", None, "ue8m0", "float")
    options.end("modules_to_not_convert", "ignored_layers", "dequantize")
    return Quantization("fp8", (Group(("Linear",), coding),), _STATIC if static else frozenset())


def _awq(options: _QuantizationEntry) -> Quantization:
    options.one_of("version", "gemm", "GEMM", default="gemm")
    options.one_of("zero_point", True)
    coding = Coding(
        "awq",
        options.one_of("bits", 4),
        1,
        options.size("group_size"),
        zeros=True,
        scale="scales",
        symmetric=False,
    )
    options.end("modules_to_not_convert", "backend", "do_fuse", "fuse_max_seq_len", "modules_to_fuse", "exllama_config")
    return Quantization("awq", (Group(("Linear",), coding),))


_GPTQ_MADE = (
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "cache_examples_on_gpu",
    "damp_percent",
    "dataset",
    "exllama_config",
    "lm_head",
    "max_input_length",
    "meta",
    "method",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "pad_token_id",
    "quant_method",
    "static_groups",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
)
"""Keys that tell how levels were found, with which kernels they are to be used, or which modules have them."""


def _gptq(options: _QuantizationEntry) -> Quantization:
    options.one_of("pack_dtype", "int32", default="int32")
    version = options.one_of("checkpoint_format", "gptq", "gptq_v2", default=options.get("format", "gptq"))
    coding = Coding(
        "gptq",
        options.one_of("bits", 4, 8),
        1,
        options.size("group_size"),
        zeros=True,
        ordered=options.one_of("desc_act", True, False, default=False),
        scale="scales",
        zero_less=1 if version == "gptq" else 0,
        symmetric=options.one_of("sym", True, False, default=True),
    )
    options.end(*_GPTQ_MADE)
    return Quantization("gptq", (Group(("Linear",), coding),))


_METHODS: Mapping[str, Callable[[_QuantizationEntry], Quantization]] = {
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "gptq": _gptq,
}
