"""Weights of a Hugging Face directory: one ``*.safetensors`` file, or several with an index.

Owns which file holds which tensor. Doesn't know what the tensors mean. Files are mapped, so only what is asked for is
read.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes  # noqa: F401  # lets numpy hold bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from helix_df.errors import ModelError
from helix_df.models.reader import missing_tensor, require_shape
from helix_df.profiles.checkpoint import INDEX, SINGLE, read_weight_map


class SafetensorsReader:
    """Reads tensors lazily from the directory ``folder``.

    Raises:
        ModelError: when there is neither a single file nor an index.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index = _read_index(folder)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """See ``WeightReader``. Keeps the stored dtype, bfloat16 included."""
        file = self._folder / (SINGLE if self._index is None else self._index.get(name, INDEX))
        if file.name == INDEX:
            raise missing_tensor(name, str(file))
        array = self._read(file, name)
        if array is None:
            raise missing_tensor(name, str(file))
        return require_shape(array, shape, name, str(file))

    def require_equal(self, one: str, other: str, shape: tuple[int, ...]) -> None:
        """Compare two tensors that the config ties to each other, where both are stored.

        Raises:
            ModelError: when they differ.
        """
        file = self._folder / (SINGLE if self._index is None else self._index.get(other, INDEX))
        stored = None if file.name == INDEX else self._read(file, other)
        if stored is not None and not np.array_equal(stored, self.tensor(one, shape)):
            raise ModelError(
                f"the config ties {other} to {one}, but the weights hold two that differ",
                where=str(file),
                expected="one of them, or the same twice",
                hint="set tie_word_embeddings to false in config.json",
            )

    def _read(self, file: Path, name: str) -> np.ndarray | None:
        try:
            with safe_open(file, framework="numpy") as weights:
                array: np.ndarray | None = weights.get_tensor(name) if name in weights.keys() else None  # noqa: SIM118
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
