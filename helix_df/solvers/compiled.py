"""Arithmetic of solvers as machine code, kept with helix-df's other caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from helix_df.paths import cache_folder


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code that holds no interpreter lock."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(cache_folder("compiled-surrogate"))
    try:
        made: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
        return made
    finally:
        numba.config.CACHE_DIR = before
