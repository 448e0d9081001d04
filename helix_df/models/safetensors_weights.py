"""Weights of a Hugging Face directory: one ``*.safetensors`` file, or several with an index.

Owns which file holds which tensor, takes those of experts out of stacks, and gathers what a quantized matrix consists
of. Doesn't know what the tensors mean. Files are mapped, so only what is asked for is read.
"""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes  # noqa: F401  # lets numpy hold bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from helix_df.errors import ModelError
from helix_df.models.coded_matrices import coded_levels, coded_values
from helix_df.models.mxfp4 import from_mxfp4, mxfp4_levels
from helix_df.models.quantized import Quantized
from helix_df.models.reader import missing_tensor, require_shape
from helix_df.profiles.checkpoint import INDEX, SINGLE, StoredTensor, read_index, read_weight_map
from helix_df.profiles.families.family import Family
from helix_df.profiles.quantization_config import read_quantization
from helix_df.profiles.quantized_matrices import FLOAT8, Coding
from helix_df.profiles.stacked_experts import BLOCKS, SCALES, StackedPlace, place_of


class SafetensorsReader:
    """Reads tensors of a model of ``family`` lazily from the directory ``folder``.

    Quantized matrices that can are kept ``packed`` if asked for.

    Raises:
        ModelError: when there is neither a single file nor an index, or weights are quantized in another way than those
            that are read.
    """

    def __init__(self, folder: Path, family: Family, *, packed: bool = False) -> None:
        self._folder = folder
        self._family = family
        self._packed = packed
        self._index = _read_index(folder)
        self._quantization = read_quantization(folder, family)
        self._stored = {} if self._quantization is None else read_index(folder) or {}

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """See ``WeightReader``. Keeps the stored dtype, bfloat16 included; what is quantized becomes float32."""
        coding = self._coding(name)
        if coding is not None and len(shape) == 2:
            return coded_values(coding, self._parts(coding, name, (shape[0], shape[1])), (shape[0], shape[1]))
        place = place_of(name, self._family)
        array = self._held(name) if place is None else self._of_expert(place)
        return require_shape(array, shape, name, str(self._folder))

    def quantized(self, name: str, shape: tuple[int, int]) -> Quantized | None:
        """See ``WeightReader``."""
        if not self._packed:
            return None
        place = place_of(name, self._family)
        if place is not None and self._holds(place.stored + BLOCKS):
            matrix = mxfp4_levels(*self._in_mxfp4(place))
            require_shape(matrix.levels, shape, name, str(self._folder))
            return matrix
        coding = self._coding(name)
        return None if coding is None else coded_levels(coding, self._parts(coding, name, shape), shape, name)

    def _coding(self, name: str) -> Coding | None:
        return None if self._quantization is None else self._quantization.coding(name, self._stored)

    def _parts(self, coding: Coding, name: str, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """What is stored for a quantized matrix, by the names after its module's."""
        module, parts = name.removesuffix(".weight"), dict[str, np.ndarray]()
        for part, expected in coding.tensors(shape).items():
            stored = f"{module}.{part}"
            if expected.dtypes == FLOAT8:
                parts[part] = self._octets(stored)
            else:
                parts[part] = self._held(stored)
            if parts[part].shape not in expected.shapes:
                require_shape(parts[part], expected.shape, stored, str(self._folder))
        return parts

    def _octets(self, name: str) -> np.ndarray:
        """Numbers of a byte each, as bytes: numpy has no name for FP8.

        Raises:
            ModelError: when they aren't here.
        """
        tensor = self._stored.get(name, StoredTensor())
        if tensor.file is None or tensor.offset is None or tensor.shape is None:
            raise missing_tensor(name, str(self._file(name)))
        count = math.prod(tensor.shape)
        try:
            return np.fromfile(tensor.file, np.uint8, count, offset=tensor.offset).reshape(tensor.shape)
        except (OSError, ValueError) as error:
            raise ModelError("the weights can't be read", where=str(tensor.file), found=str(error)) from error

    def require_equal(self, one: str, other: str, shape: tuple[int, ...]) -> None:
        """Compare two tensors that the config ties to each other, where both are stored.

        Raises:
            ModelError: when they differ.
        """
        file = self._file(other)
        stored = None if file.name == INDEX else self._read(file, other, None)
        if stored is not None and not np.array_equal(stored, self.tensor(one, shape)):
            raise ModelError(
                f"the config ties {other} to {one}, but the weights hold two that differ",
                where=str(file),
                expected="one of them, or the same twice",
                hint="set tie_word_embeddings to false in config.json",
            )

    def _of_expert(self, place: StackedPlace) -> np.ndarray:
        name, expert, rows = place
        if self._holds(name + BLOCKS):
            return from_mxfp4(*self._in_mxfp4(place))
        return self._held(name, expert).T[rows.first :: rows.step]

    def _in_mxfp4(self, place: StackedPlace) -> tuple[np.ndarray, np.ndarray]:
        """Blocks and scales of one expert's matrix."""
        name, expert, rows = place
        blocks, scales = self._held(name + BLOCKS, expert), self._held(name + SCALES, expert)
        return blocks[rows.first :: rows.step], scales[rows.first :: rows.step]

    def _file(self, name: str) -> Path:
        """The file that holds a tensor; the index itself where none does."""
        return self._folder / (SINGLE if self._index is None else self._index.get(name, INDEX))

    def _holds(self, name: str) -> bool:
        file = self._file(name)
        return file.name != INDEX and self._read(file, name, 0) is not None

    def _held(self, name: str, entry: int | None = None) -> np.ndarray:
        """The tensor, or one entry of its first axis.

        Raises:
            ModelError: when it isn't there.
        """
        file = self._file(name)
        array = None if file.name == INDEX else self._read(file, name, entry)
        if array is None:
            raise missing_tensor(name, str(file))
        return array

    def _read(self, file: Path, name: str, entry: int | None) -> np.ndarray | None:
        try:
            with safe_open(file, framework="numpy") as weights:
                if name not in weights.keys():  # noqa: SIM118
                    return None
                array: np.ndarray = weights.get_tensor(name) if entry is None else weights.get_slice(name)[entry]
        except (OSError, SafetensorError) as error:
            raise ModelError("the weights can't be read", where=str(file), found=str(error)) from error
        return array


def _read_index(folder: Path) -> dict[str, str] | None:
    """File name by tensor name, or None when everything lies in one file."""
    if (folder / INDEX).is_file():
        return read_weight_map(folder)
    if (folder / SINGLE).is_file():
        return None
    raise ModelError(
        "there are no weights here",
        where=str(folder),
        found=", ".join(sorted(file.name for file in folder.iterdir())) or "an empty directory",
        expected=f"{SINGLE}, or {INDEX} with its files",
        hint="pytorch_model.bin isn't read (it runs code when loaded): convert it to safetensors",
    )
