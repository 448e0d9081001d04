"""Weights of a Hugging Face directory: one ``*.safetensors`` file, or several with an index.

Owns which file holds which tensor. Doesn't know what the tensors mean. Files are mapped, so only what is asked for is
read.
"""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes  # noqa: F401  # lets numpy hold bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from helix_df.errors import ModelError
from helix_df.models.reader import missing_tensor, require_shape

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


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
        file = self._folder / (_SINGLE if self._index is None else self._index.get(name, _INDEX))
        if file.name == _INDEX:
            raise missing_tensor(name, str(file))
        try:
            with safe_open(file, framework="numpy") as weights:
                if name not in weights.keys():  # noqa: SIM118  # safe_open isn't a mapping
                    raise missing_tensor(name, str(file))
                array: np.ndarray = weights.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelError("the weights can't be read", where=str(file), found=str(error)) from error
        return require_shape(array, shape, name, str(file))


def _read_index(folder: Path) -> dict[str, str] | None:
    """File name by tensor name, or None when everything lies in one file."""
    path = folder / _INDEX
    if path.is_file():
        try:
            return dict(json.loads(path.read_text("utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError("the index of the weights is malformed", where=str(path), found=str(error)) from error
    if (folder / _SINGLE).is_file():
        return None
    raise ModelError(
        "there are no weights here",
        where=str(folder),
        found=", ".join(sorted(file.name for file in folder.iterdir())) or "an empty directory",
        expected=f"{_SINGLE}, or {_INDEX} with its files",
        hint="pytorch_model.bin isn't read (it runs code when loaded): convert it to safetensors",
    )
