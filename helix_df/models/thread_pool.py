"""The threads that share products on a CPU: how many, who they are, and that they end with the process.

Owns the one pool of this process, whose protocol is ``pool_code``'s. With one thread there is none, and machine code is
as if there were no pools. Helpers are threads of Python that never run any: they hold no interpreter lock, look out for
a next product for a fraction of a millisecond and sleep otherwise. A process that is forked off has none of them, and
computes by itself.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import threading
import time
from dataclasses import dataclass, field

from helix_df.models.machine_calls import compile_module

log = logging.getLogger(__name__)

LOOK_OUT_S = 200e-6
"""So long a helper looks for the next product: the time between two of a layer. Waking one that sleeps takes longer
than a small product."""

PIECES_A_THREAD = 4
"""Pieces of a product: a thread that another process holds up leaves the rest of its pieces to others."""

MOST_THREADS = 256


@dataclass(slots=True)
class ThreadPool:
    """Helpers beside whoever calls; ``threads`` counts both.

    ``address`` is where its memory lies and ``run`` where its function does, as machine code calls it.
    """

    threads: int
    address: int
    run: int
    _memory: ctypes.Array[ctypes.c_char]
    _wake: ctypes._CFunctionType
    _helpers: list[threading.Thread] = field(default_factory=list)

    @property
    def pieces(self) -> int:
        """Pieces of a product that is large enough."""
        return self.threads * PIECES_A_THREAD

    def close(self) -> None:
        """Let the helpers end; products go on without them."""
        from helix_df.models.pool_code import HELPERS, STOP

        self._write(HELPERS, 0)
        self._write(STOP, 1)
        # Whoever falls asleep meanwhile is told as well.
        while any(helper.is_alive() for helper in self._helpers):
            self._wake(self.address)
            for helper in self._helpers:
                helper.join(0.01)
        self._helpers.clear()

    def leave(self) -> None:
        """Go on without helpers, in a process that was forked off and has none."""
        from helix_df.models.pool_code import HELPERS

        self._write(HELPERS, 0)
        self._helpers.clear()

    def _write(self, at: int, value: int) -> None:
        ctypes.c_int64.from_address(self.address + at).value = value


def new_pool(threads: int) -> ThreadPool:
    """A pool of so many threads, of which all but one are started.

    Raises:
        ImportError: without llvmlite.
        RuntimeError: when LLVM makes nothing for this processor.
    """
    from helix_df.models.pool_code import BEGIN, HELPERS, PAUSES, POOL_BYTES, ROUNDS, RUN_NAME, SERVE, WAKE, pool_source

    if not 1 < threads <= MOST_THREADS:
        raise ValueError(f"{threads} threads")
    address_of = compile_module(lambda triple, _: pool_source(triple))
    memory = ctypes.create_string_buffer(POOL_BYTES + 128)
    address = -(-ctypes.addressof(memory) // 128) * 128
    one_pointer = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    begin, serve, wake = (one_pointer(address_of(name)) for name in (BEGIN, SERVE, WAKE))
    begin(address)
    pool = ThreadPool(threads, address, address_of(RUN_NAME), memory, wake)
    pool._write(ROUNDS, _rounds(ctypes.CFUNCTYPE(None, ctypes.c_int64)(address_of(PAUSES))))
    for number in range(1, threads):
        helper = threading.Thread(target=serve, args=(address,), name=f"product-{number}", daemon=True)
        helper.start()
        pool._helpers.append(helper)
    pool._write(HELPERS, threads - 1)
    atexit.register(pool.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=pool.leave)
    return pool


def _rounds(pauses: ctypes._CFunctionType) -> int:
    """Pauses that take as long as a helper looks out."""
    each_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        pauses(500)
        each_s.append((time.perf_counter() - began_s) / 500)
    return max(1, round(LOOK_OUT_S / min(each_s)))


_used: ThreadPool | None = None


def use_threads(threads: int) -> None:
    """Compute products on so many threads from now on; it has to be said before the first one.

    Workers that are threads of one process share a pool: the first one says how large it is.
    """
    global _used
    if _used is not None:
        if _used.threads != threads:
            log.info("products are shared among the %d threads of this process, not %d", _used.threads, threads)
    elif threads > 1:
        try:
            _used = new_pool(min(threads, MOST_THREADS))
        except (ImportError, RuntimeError) as error:
            log.warning("products are computed on one thread: %s", error)


def used_pool() -> ThreadPool | None:
    """The pool of this process; ``None`` where one thread computes."""
    return _used
