"""Weights of a Hugging Face directory: one ``*.safetensors`` file, or several with an index.

Owns which file holds which tensor, and takes those of experts out of stacks. Doesn't know what the tensors mean. Files
are mapped, so only what is asked for is read.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes  # noqa: F401  # lets numpy hold bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from helix_df.errors import ModelError
from helix_df.models.mxfp4 import from_mxfp4
from helix_df.models.quantized import Quantized
from helix_df.models.reader import missing_tensor, require_shape
from helix_df.profiles.checkpoint import INDEX, SINGLE, read_weight_map
from helix_df.profiles.families.family import Family
from helix_df.profiles.stacked_experts import BLOCKS, SCALES, StackedPlace, place_of


class SafetensorsReader:
    """Reads tensors of a model of ``family`` lazily from the directory ``folder``.

    Raises:
        ModelError: when there is neither a single file nor an index.
    """

    def __init__(self, folder: Path, family: Family) -> None:
        self._folder = folder
        self._family = family
        self._index = _read_index(folder)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """See ``WeightReader``. Keeps the stored dtype, bfloat16 included; MXFP4 becomes float32."""
        place = place_of(name, self._family)
        array = self._held(name) if place is None else self._of_expert(place)
        return require_shape(array, shape, name, str(self._folder))

    def quantized(self, name: str, shape: tuple[int, int]) -> Quantized | None:
        """See ``WeightReader``. Nothing is."""
        return None

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
        taken = slice(rows.first, None, rows.step)
        if self._holds(name + BLOCKS):
            blocks, scales = self._held(name + BLOCKS, expert), self._held(name + SCALES, expert)
            return from_mxfp4(blocks[taken], scales[taken])
        return self._held(name, expert).T[taken]

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
