"""Keep compiled programs on disk, so that a second start is quick, and count what is compiled."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.monitoring


class _Compilations:
    """Counts the programs that this process compiles, or loads compiled."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = dict.fromkeys((*_TRACED, _COMPILED), 0.0)
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event == _COMPILED
        if event in self.seconds:
            self.seconds[event] += duration_secs


_COMPILED = "/jax/core/compile/backend_compile_duration"
_TRACED = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
_compilations = _Compilations()


def compiled_programs() -> int:
    """Programs that jax has compiled, or loaded compiled, since this module was imported; of any engine and size."""
    return _compilations.count


def spent_s() -> tuple[float, float]:
    """Seconds that were spent so far on tracing programs, and on compiling them or loading them compiled."""
    seconds = _compilations.seconds
    return sum(seconds[event] for event in _TRACED), seconds[_COMPILED]


def enable_compile_cache(path: Path) -> None:
    """Store every compiled program under ``path``, however small or quickly compiled, and reuse what lies there."""
    settings = {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
