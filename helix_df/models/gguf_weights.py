"""Weights of a GGUF file, turned back into what the Hugging Face checkpoint held.

Owns the row order that GGUF uses for some families, what it adds to norms, and dequantizing. Doesn't know the block.
Files are mapped, and only the tensors that are asked for are dequantized.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from helix_df.errors import ModelError
from helix_df.models.gguf_blocks import quantized_rows
from helix_df.models.quantized import Quantized
from helix_df.models.reader import blank_array, missing_tensor, require_shape
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry, Shape
from helix_df.profiles.gguf_header import GgufTensor
from helix_df.profiles.gguf_parts import read_gguf_header
from helix_df.profiles.gguf_types import GGML_TYPES
from helix_df.profiles.packed_kinds import KIND_OF_TYPE
from helix_df.profiles.tensor_names import expert_of, gguf_name, latent_halves, without_ones

_PIECE_BYTES = 1 << 17
"""Of a tensor that are made numbers at a time: what comes of them stays in a core's cache."""

_PIECE_ROWS = 64


class GgufReader:
    """Reads and dequantizes tensors of the GGUF model at ``path``; those that can are kept ``packed`` if asked for."""

    def __init__(self, path: Path, geometry: ModelGeometry, *, packed: bool = False) -> None:
        self._path = path
        self._packed = packed
        self._geometry = geometry
        self._family = family_of(geometry.family, str(path))
        self._tensors = read_gguf_header(path).tensors
        files = {tensor.file for tensor in self._tensors.values()}
        self._bytes = {file: np.memmap(file, mode="r") for file in files}

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """See ``WeightReader``. Always float32."""
        stored = gguf_name(name, self._family)
        halves = latent_halves(stored, self._geometry)
        if halves and stored not in self._tensors:
            return require_shape(self._joined(halves), shape, name, str(self._path))
        array = self._dequantize(self._find(name), expert_of(name))
        array = require_shape(array, without_ones(shape), name, str(self._path)).reshape(shape)
        if self._family.norm_offset and name.endswith("norm.weight"):
            # GGUF stores what multiplies, Hugging Face that less the offset.
            return array - np.float32(self._family.norm_offset)
        heads = self._interleaved_heads(name)
        return array if heads is None else unpermute(array, heads)

    def pieces(self, name: str, shape: tuple[int, int]) -> Iterator[np.ndarray]:
        """See ``PieceReader``."""
        stored = gguf_name(name, self._family)
        tensor = self._tensors.get(stored)
        is_plain = tensor is not None and self._interleaved_heads(name) is None and expert_of(name) is None
        if tensor is None or not is_plain or tensor.shape != shape:
            yield self.tensor(name, shape)  # or what is wrong
            return
        with self._explained(tensor):
            for piece in _pieces(self._raw(tensor, None), GGMLQuantizationType(tensor.ggml_type)):
                yield piece.astype(np.float32, copy=False)

    def _joined(self, halves: Mapping[str, Shape]) -> np.ndarray:
        """Each head's rows of keys, then those of values."""
        for name in halves:
            if name not in self._tensors:
                raise missing_tensor(name, str(self._path))
        keys, values = (
            require_shape(self._dequantize(self._tensors[name], None), shape, name, str(self._path))
            for name, shape in halves.items()
        )
        return np.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(-1, values.shape[2])

    def quantized(self, name: str, shape: tuple[int, int]) -> Quantized | None:
        """See ``WeightReader``."""
        tensor = self._find(name)
        kind = GGML_TYPES.get(tensor.ggml_type)
        if not self._packed or kind is None or kind.name not in KIND_OF_TYPE:
            return None
        try:
            matrix = quantized_rows(self._raw(tensor, expert_of(name)), kind)
        except ValueError as error:
            raise self._damaged(tensor, error) from error
        require_shape(matrix.levels, shape, name, str(self._path))
        heads = self._interleaved_heads(name)
        return matrix if heads is None else matrix.rows(unpermute(np.arange(shape[0]), heads))

    def _find(self, name: str) -> GgufTensor:
        stored = gguf_name(name, self._family)
        if stored not in self._tensors:
            raise missing_tensor(f"{stored} ({name})", str(self._path))
        return self._tensors[stored]

    def _interleaved_heads(self, name: str) -> int | None:
        """Heads of queries or keys whose rows GGUF stores in another order (``unpermute``); ``None`` for all else."""
        gguf, projection = self._family.gguf, name.rpartition(".")[0]
        if gguf is None or not gguf.interleaved or not projection.endswith(("q_proj", "k_proj")):
            return None
        return self._geometry.num_heads if projection.endswith("q_proj") else self._geometry.num_kv_heads

    def _raw(self, tensor: GgufTensor, expert: int | None) -> np.ndarray:
        """Bytes of the tensor, or of one expert's of it: uint8 [rows, bytes]."""
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
        row_bytes = tensor.shape[-1] // block * block_bytes
        shape, first = (tensor.shape, 0) if expert is None else (tensor.shape[1:], expert)
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        start = tensor.offset + first * rows * row_bytes
        return np.ascontiguousarray(self._bytes[tensor.file][start : start + rows * row_bytes].reshape(rows, row_bytes))

    def _damaged(self, tensor: GgufTensor, error: ValueError) -> ModelError:
        where = f"{tensor.file}: {tensor.name}"
        return ModelError("the tensor's data is cut short or damaged", where=where, found=str(error))

    def _dequantize(self, tensor: GgufTensor, expert: int | None) -> np.ndarray:
        """The tensor, or one expert's of it."""
        with self._explained(tensor):
            flat = _numbers(self._raw(tensor, expert), GGMLQuantizationType(tensor.ggml_type))
            return flat.astype(np.float32, copy=False).reshape(tensor.shape if expert is None else tensor.shape[1:])

    @contextmanager
    def _explained(self, tensor: GgufTensor) -> Iterator[None]:
        """What is wrong with a tensor, said for people."""
        try:
            yield
        except (NotImplementedError, KeyError) as error:
            where = f"{tensor.file}: {tensor.name}"
            raise ModelError("this quantization isn't supported", where=where, found=str(error)) from error
        except ValueError as error:
            raise self._damaged(tensor, error) from error


def _numbers(raw: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Rows of a tensor, uint8 [rows, bytes] → [rows, numbers]."""
    rows, row_bytes = raw.shape
    if rows * row_bytes <= _PIECE_BYTES:
        return _dequantized(raw, kind)
    found: np.ndarray | None = None
    at = 0
    for piece in _pieces(raw, kind):
        found = blank_array((rows, piece.shape[1]), piece.dtype) if found is None else found
        found[at : at + len(piece)] = piece
        at += len(piece)
    assert found is not None
    return found


def _pieces(raw: np.ndarray, kind: GGMLQuantizationType) -> Iterator[np.ndarray]:
    at_once = max(1, _PIECE_BYTES // raw.shape[1] // _PIECE_ROWS) * _PIECE_ROWS
    for start in range(0, len(raw), at_once):
        yield _dequantized(raw[start : start + at_once], kind)


def _dequantized(raw: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """The gguf package takes sixteen rows at a time, which are short. Blocks don't know of rows: so it gets one."""
    numbers: np.ndarray = dequantize(raw.reshape(1, -1), kind)
    return numbers.reshape(len(raw), -1)


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo GGUF's interleaving of rotary pairs.

    Within each head GGUF stores dimension i beside i + head_dim / 2; Hugging Face stores the halves one after the
    other. ``rows`` is [heads * head_dim, …].
    """
    head_dim = rows.shape[0] // heads
    pairs = rows.reshape(heads, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
