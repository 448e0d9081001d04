"""Record quantized matrices as their formats' own libraries write them, and logits that transformers computes of them.

Needs the oracle extra, compressed-tensors, and the sources of AutoAWQ 0.2.9 and AutoGPTQ 0.7.1 (their packages don't
install without CUDA): ``python -m tests.oracle.make_quantized_recordings AWQ AUTO_GPTQ``, the folders ``awq`` and
``auto_gptq``. Writes ``quantized.npz`` in ``recorded``.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
import transformers

from tests.oracle.cases import RECORDED, prompt_ids
from tests.oracle.make_recordings import last_logits
from tests.oracle.quantized_checkpoints import COMPARED, DEEPSEEK, LENGTH, vocabulary_of, write_quantized

SHAPE = 64, 96
GROUP = 32


def only_package(name: str, folder: Path) -> None:
    """Let modules under ``name`` be imported without what the packages above them import."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def matrix(seed: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(SHAPE), dtype=torch.float32)


def scales_and_zeros(weight: torch.Tensor, top: int, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of groups of inputs [groups, out], so that levels from 0 to ``top`` span each."""
    grouped = weight.T.reshape(-1, GROUP, weight.shape[0])
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scales = ((high - low) / top).half().float()
    return scales, (-low / scales).round().clamp(least, top)


def linear(weight: torch.Tensor) -> torch.nn.Linear:
    module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight.data = weight.clone()
    return module


def record_awq(folder: Path) -> dict[str, np.ndarray]:
    for name in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):
        only_package(name, folder.joinpath(*name.split(".")[1:]))
    gemm: Any = importlib.import_module("awq.modules.linear.gemm")
    weight = matrix(1)
    scales, zeros = scales_and_zeros(weight, 15, 0)
    packed = gemm.WQLinear_GEMM.from_linear(linear(weight), 4, GROUP, scales=scales, zeros=zeros)
    values = gemm.dequantize_gemm(packed.qweight, packed.qzeros, packed.scales.float(), 4, GROUP)
    held = {name: getattr(packed, name).numpy() for name in ("qweight", "qzeros", "scales")}
    return {f"awq.{name}": array for name, array in held.items()} | {"awq.values": values.T.numpy()}


def record_gptq(folder: Path) -> dict[str, np.ndarray]:
    for name in ("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear"):
        only_package(name, folder.joinpath(*name.split(".")[1:]))
    qlinear: Any = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda")
    arrays: dict[str, np.ndarray] = {}
    for name, bits, ordered in (("gptq-zeros", 4, False), ("gptq-int8-zeros", 8, False), ("gptq-order-zeros", 4, True)):
        weight, top = matrix(bits + ordered), (1 << bits) - 1
        scales, zeros = scales_and_zeros(weight, top, 1)
        group = torch.arange(SHAPE[1], dtype=torch.int32) // GROUP
        if ordered:
            group = group[torch.tensor(np.random.default_rng(0).permutation(SHAPE[1]))]
        packed = qlinear.QuantLinear(bits, GROUP, SHAPE[1], SHAPE[0], False, weight_dtype=torch.float32)
        # Its pack() takes one off the zeros that it is given.
        packed.pack(linear(weight), scales.T.contiguous(), zeros.T.clone(), group)
        with torch.no_grad():
            values = packed(torch.eye(SHAPE[1]))
        held = {key: getattr(packed, key).numpy() for key in ("qweight", "qzeros", "g_idx")}
        arrays |= {f"{name}.{key}": array for key, array in held.items()}
        arrays |= {f"{name}.scales": packed.scales.half().numpy(), f"{name}.values": values.T.numpy()}
    return arrays


def record_compressed() -> dict[str, np.ndarray]:
    """What the compressors of compressed-tensors make of a matrix, and what they make of that again."""
    compressors: Any = importlib.import_module("compressed_tensors.compressors")
    quantization: Any = importlib.import_module("compressed_tensors.quantization")
    cases = {
        "ct-int8": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
        "ct-int4": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}),
        "ct-fp8-channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    }
    cases["ct-int4-asymmetric"] = ("pack-quantized", {**cases["ct-int4"][1], "symmetric": False})
    arrays: dict[str, np.ndarray] = {}
    for name, (form, options) in cases.items():
        args = quantization.QuantizationArgs(**options)
        scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
        weight = matrix(9)
        groups = weight.reshape(SHAPE[0], -1, GROUP if "group_size" in options else SHAPE[1])
        scale, zero = importlib.import_module("compressed_tensors.quantization.utils").calculate_qparams(
            groups.amin(-1), groups.amax(-1), args
        )
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
        compressor = compressors.BaseCompressor.get_value_from_registry(form)
        stored = compressor.compress(state, scheme)
        values = compressor.decompress(stored, scheme)["weight"]
        for key, tensor in stored.items():
            array = tensor.view(torch.uint8).numpy() if tensor.dtype == torch.float8_e4m3fn else tensor.numpy()
            arrays[f"{name}.{key}"] = array
        arrays[f"{name}.values"] = values.float().numpy()
    return arrays


def record_logits() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in COMPARED:
            path, options = write_quantized(Path(folder), name, wide=True), dict[str, Any]()
            if name.startswith("ct-"):
                options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager", **options
            )
            assert not any(told.values()), f"{name}: {told}"
            arrays[f"{name}.logits"] = last_logits(model.eval(), prompt_ids(vocabulary_of(name), LENGTH).tolist())
    return arrays


def main(awq: str, auto_gptq: str) -> None:
    arrays = record_awq(Path(awq)) | record_gptq(Path(auto_gptq)) | record_compressed() | record_logits()
    assert {DEEPSEEK, "fp8"} < set(COMPARED)
    assert not any(array.dtype == ml_dtypes.bfloat16 for array in arrays.values())
    np.savez_compressed(RECORDED / "quantized.npz", **arrays)  # type: ignore[arg-type]  # its flag is no array of ours


if __name__ == "__main__":
    main(*sys.argv[1:])
