"""Keep compiled programs on disk, so that a second start is quick."""

from __future__ import annotations

from pathlib import Path

import jax


def enable_compile_cache(path: Path) -> None:
    """Store every compiled program under ``path``, however small or quickly compiled, and reuse what lies there."""
    path.mkdir(parents=True, exist_ok=True)
    settings = {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
