"""How the functions of this package are compiled, and where the machine code is kept.

Compiling takes about a minute, once: the code is kept with helix-df's other caches, in a folder for exactly these
sources, because numba looks only at the file of the function that is called from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from helix_df.paths import cache_root


def _sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_FOLDER = str(cache_root() / "compiled-simulator" / _sources())


def _compile(**more: Any) -> Callable[[Any], Any]:
    # Counting references to arrays, which all outlive the call, took most of the time.
    make = numba.njit(cache=True, nogil=True, _nrt=False, error_model="numpy", **more)

    def compiling(function: Any) -> Any:
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, _FOLDER
        try:
            return make(function)
        finally:
            numba.config.CACHE_DIR = before

    return compiling


compiled = _compile()
inlined = _compile(forceinline=True)
"""For small functions that are called often: passing all arrays takes longer than what they do."""
