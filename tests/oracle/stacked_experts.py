"""Experts of a layer in one tensor, as gpt-oss has them: transformers' ``GptOssExperts``, and MXFP4 as it is published.

Four-bit numbers are made by the gguf package, which orders the two in a byte differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import gguf
import numpy as np

_OF_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate|up|down)_proj\.(weight|bias)")
_MXFP4 = gguf.GGMLQuantizationType.MXFP4


def is_matrix_of_expert(name: str) -> bool:
    match = _OF_EXPERT.fullmatch(name)
    return match is not None and match[4] == "weight"


def on_the_grid(array: np.ndarray) -> np.ndarray:
    """The nearest numbers that MXFP4 can say: there is then nothing to lose."""
    return gguf.quants.dequantize(gguf.quants.quantize(array, _MXFP4), _MXFP4)


def stacked(tensors: Mapping[str, np.ndarray], *, mxfp4: bool) -> dict[str, np.ndarray]:
    """``tensors`` with those of all experts in one: gate and up in turns, matrices [experts, in, out], or in MXFP4."""
    out: dict[str, np.ndarray] = {}
    parts: dict[tuple[str, str, str], dict[int, np.ndarray]] = {}
    for name, array in tensors.items():
        match = _OF_EXPERT.fullmatch(name)
        if match is None:
            out[name] = array
        else:
            parts.setdefault((match[1], match[3], match[4]), {})[int(match[2])] = array
    whole = {key: np.stack([each[expert] for expert in sorted(each)]) for key, each in parts.items()}
    for layer, projection, kind in whole:
        if projection == "up":
            continue
        array = whole[layer, projection, kind]
        if projection == "gate":
            array = np.stack([array, whole[layer, "up", kind]], axis=2).reshape(len(array), -1, *array.shape[2:])
        name = f"{layer}.{'gate_up' if projection == 'gate' else projection}_proj"
        if kind == "bias":
            out[f"{name}_bias"] = array
        elif mxfp4:
            out[f"{name}_blocks"], out[f"{name}_scales"] = _in_mxfp4(array)
        else:
            out[name] = np.ascontiguousarray(array.swapaxes(1, 2))
    return out


def _in_mxfp4(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[experts, out, in] → uint8 [experts, out, in / 32, 16] and [experts, out, in / 32]."""
    packed = gguf.quants.quantize(array, _MXFP4).reshape(*array.shape[:2], -1, 17)
    halves = packed[..., 1:]
    codes = np.concatenate([halves & 15, halves >> 4], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << 4, np.ascontiguousarray(packed[..., 0])
