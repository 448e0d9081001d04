"""Where a trace's time went: jax's own files, read back."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from helix_df.measuring.trace_scopes import OTHER, newest_trace, read_programs, scope_of, scope_times
from helix_df.models.scopes import scope


@pytest.mark.parametrize(
    ("operation", "found"),
    [
        ("jit(run)/attention/qkv/dot_general", "attention/qkv"),
        ("jit(run)/mlp/norm/mul", "mlp/norm"),
        ("jit(run)/attention/attend/while/body/closed_call/attention/attend/exp", "attention/attend"),
        ("jit(run)/add", OTHER),
        ("", OTHER),
    ],
)
def test_a_scope_is_what_is_known_of_a_name(operation: str, found: str) -> None:
    assert scope_of(operation) == found


def test_operations_are_found_by_scope_and_phase(tmp_path: Path) -> None:
    @jax.jit
    def large(numbers: jax.Array) -> jax.Array:
        with scope("mlp"):
            return jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), numbers)

    @jax.jit
    def small(numbers: jax.Array) -> jax.Array:
        with scope("attention"), scope("qkv"):
            return jnp.sort(numbers)

    matrix, vector = jnp.ones((256, 256)), jnp.arange(3.0)
    for once in range(2):
        if once:
            jax.profiler.start_trace(str(tmp_path))
        large(matrix).block_until_ready()  # of no phase
        with jax.profiler.TraceAnnotation("first"):
            large(matrix).block_until_ready()
        with jax.profiler.TraceAnnotation("second"):
            small(vector).block_until_ready()
    jax.profiler.stop_trace()

    found = {one.scope: one for one in scope_times(tmp_path, ("first", "second"))}
    assert next(iter(found)) == "mlp", "what takes longest is first"
    assert set(found["mlp"].seconds) == {"first"}
    assert set(found["attention/qkv"].seconds) == {"second"}
    assert found["mlp"].operations >= 20
    assert found["mlp"].total_s > found["attention/qkv"].total_s > 0
    assert any(name.startswith("jit_large(") for name in read_programs(newest_trace(tmp_path).read_bytes()))


def test_no_trace_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no trace"):
        newest_trace(tmp_path)


def test_what_is_no_trace_is_told() -> None:
    assert read_programs(b"") == {}
    with pytest.raises(ValueError, match="a field of kind 3 at byte 1"):
        read_programs(b"\x0b")
