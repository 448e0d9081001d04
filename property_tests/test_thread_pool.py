"""Products on several threads: the same numbers on any number of them, whoever helps."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_df.models.linear import lay_out
from helix_df.models.machine_calls import compile_handler, register
from helix_df.models.machine_code import LEAST_WORK, Pool
from helix_df.models.packed_call import (
    call_packed,
    call_panels,
    packed_source,
    packed_target,
    panel_source,
    panel_target,
)
from helix_df.models.pool_code import HELPERS
from helix_df.models.thread_pool import ThreadPool, new_pool
from helix_df.profiles.packed_kinds import KINDS, OUTPUTS, PackedKind

THREADS = (2, 3)
SOME_KINDS = (KINDS[0], next(kind for kind in KINDS if kind.minima and kind.nested), KINDS[-2], KINDS[-1])
NUMBERS = ("float32", "bfloat16", "float16")


@functools.cache
def pool_of(threads: int) -> ThreadPool:
    return new_pool(threads)


def shared(threads: int) -> Pool | None:
    if threads == 1:
        return None
    pool = pool_of(threads)
    return Pool(pool.run, pool.address, pool.pieces)


@functools.cache
def panels_on(dtype: str, threads: int):
    """The product with panels on so many threads."""
    name = f"{panel_target(dtype)}_on_{threads}"
    register(name, compile_handler(panel_target(dtype), functools.partial(panel_source, dtype, pool=shared(threads))))
    return jax.jit(lambda x, w: call_panels(x, w, name))


@functools.cache
def packed_on(kind: PackedKind, threads: int):
    """The product with packed weights on so many threads."""
    name = f"{packed_target(kind)}_on_{threads}"
    register(name, compile_handler(packed_target(kind), functools.partial(packed_source, kind, pool=shared(threads))))
    return jax.jit(lambda x, w: call_packed(x, w, name))


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(NUMBERS),
    panels=st.integers(1, 12),
    inputs=st.sampled_from([1, 32, 100, 576]),
    rows=st.sampled_from([1, 2, 3, 4, 7, 16, 33]),
    threads=st.sampled_from(THREADS),
    seed=st.integers(0, 1000),
)
def test_panels_give_the_same_on_any_number_of_threads(dtype, panels, inputs, rows, threads, seed) -> None:
    chance = np.random.default_rng(seed)
    plain = chance.standard_normal((64 * panels, inputs), dtype=np.float32)
    weight = jnp.asarray(lay_out(plain, "panels"), dtype)
    given = chance.standard_normal((rows, inputs), dtype=np.float32)
    alone = np.asarray(panels_on(dtype, 1)(given, weight))
    together = np.asarray(panels_on(dtype, threads)(given, weight))
    np.testing.assert_array_equal(together, alone)
    exact = given.astype(np.float64) @ np.asarray(jnp.asarray(plain, dtype), np.float64).T
    np.testing.assert_allclose(alone, exact, rtol=0, atol=1e-5 * inputs)
    # A row gives the same whoever else is there: what is drafted, batched or in pieces.
    one = np.asarray(panels_on(dtype, threads)(given[rows // 2 : rows // 2 + 1], weight))
    np.testing.assert_array_equal(one[0], alone[rows // 2])


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(SOME_KINDS),
    panels=st.integers(1, 40),
    blocks=st.integers(1, 4),
    rows=st.sampled_from([1, 3, 8, 17]),
    threads=st.sampled_from(THREADS),
    seed=st.integers(0, 1000),
)
def test_packed_weights_give_the_same_on_any_number_of_threads(kind, panels, blocks, rows, threads, seed) -> None:
    chance = np.random.default_rng(seed)
    weight = chance.integers(0, 60, (panels, blocks, kind.block_bytes), np.uint8)
    packed = jnp.asarray(weight.view(np.int8) if kind.curved else weight)
    given = chance.standard_normal((rows, blocks * kind.inputs), dtype=np.float32)
    alone = np.asarray(packed_on(kind, 1)(given, packed))
    assert alone.shape == (rows, panels * OUTPUTS)
    np.testing.assert_array_equal(np.asarray(packed_on(kind, threads)(given, packed)), alone)


def large(rows: int = 4) -> tuple[np.ndarray, jax.Array]:
    """Inputs and a matrix that is worth several threads."""
    chance = np.random.default_rng(7)
    weight = jnp.asarray(chance.standard_normal((24, 128, 64), dtype=np.float32))
    assert weight.nbytes * rows > LEAST_WORK
    return chance.standard_normal((rows, 128), dtype=np.float32), weight


def test_whoever_calls_at_once_gets_its_own_answer() -> None:
    given, weight = large()
    product = panels_on("float32", 3)
    wanted, wrong = np.asarray(panels_on("float32", 1)(given, weight)), []

    def call(sign: float) -> None:
        for _ in range(200):
            found = np.asarray(product(sign * given, weight))
            if not np.array_equal(found, sign * wanted):
                wrong.append(sign)

    callers = [threading.Thread(target=call, args=(sign,)) for sign in (1.0, -1.0, 2.0)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_products_go_on_when_the_helpers_have_ended() -> None:
    given, weight = large()
    pool = new_pool(2)
    name = "helix_df_test_closed"
    of_pool = Pool(pool.run, pool.address, pool.pieces)
    register(name, compile_handler(panel_target("float32"), functools.partial(panel_source, "float32", pool=of_pool)))
    product = jax.jit(lambda x, w: call_panels(x, w, name))
    before = np.asarray(product(given, weight))
    helpers = list(pool._helpers)
    pool.close()
    assert not any(helper.is_alive() for helper in helpers)
    np.testing.assert_array_equal(np.asarray(product(given, weight)), before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked off here")
def test_what_is_forked_off_computes_by_itself() -> None:
    pool = pool_of(2)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(pool.run)
    hits: list[int] = []
    piece = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
        lambda _, number, __: hits.append(number)
    )
    child = os.fork()
    if child == 0:  # pragma: no cover - not in this process
        run(pool.address, ctypes.cast(piece, ctypes.c_void_p), None, 8)
        os._exit(0 if hits == list(range(8)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ctypes.c_int64.from_address(pool.address + HELPERS).value == 1
    run(pool.address, ctypes.cast(piece, ctypes.c_void_p), None, 8)
    assert sorted(hits) == list(range(8)), "each piece is done once"


ENDS = """
import jax, numpy as np
from helix_df.models.thread_pool import use_threads, used_pool
use_threads(3)
use_threads(3)
use_threads(2)  # those that there are stay
from helix_df.models.linear import linear
weight = np.random.default_rng(0).standard_normal((24, 128, 64), dtype=np.float32)
product = jax.jit(linear)
for _ in range(50):
    product(np.ones((4, 128), np.float32), weight)  # perhaps still under way when the process ends
print(used_pool().threads)
"""


def test_a_process_ends_while_products_are_under_way() -> None:
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3", "")
