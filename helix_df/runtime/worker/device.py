"""What suits the default device of this process.

Owns the choices that depend on the device alone, so that workers, profiles and benchmarks make the same ones. Doesn't
know models or batches.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TypedDict

import jax

from helix_df.errors import DeploymentError
from helix_df.models.linear import Layout
from helix_df.models.packed_call import has_panel_code
from helix_df.models.thread_pool import use_threads
from helix_df.runtime.threads import granted_cores, threads_for_products, usable_cores

_LAYERS_PER_CALL = {"cpu": 1}
"""Layers unrolled in one program, by backend. On one core of a CPU more gain nothing and take longer to compile; on an
accelerator each call costs a launch."""

_PAGES_AT_ONCE = {"cpu": 8}
"""Pages of context that attention reads at a time, by backend. With 128 tokens, the scores of a piece of a prompt stay
in a core's cache: 512 tokens at the end of 1,100 take a third of the time they take all at once."""

_PANEL_THREADS = 2
"""Threads up to which panels are faster where XLA multiplies: its products on panels use one."""


def several_devices(count: int) -> tuple[jax.Device, ...]:
    """``count`` devices of this process; on a CPU as many as are asked for, if jax hasn't begun yet.

    Raises:
        DeploymentError: when there are fewer.
    """
    with suppress(RuntimeError):  # it has begun, and there are as many as there are
        jax.config.update("jax_num_cpu_devices", count)  # type: ignore[no-untyped-call]
    found = jax.local_devices()
    if len(found) < count:
        raise DeploymentError(
            "this process sees fewer devices than its node has",
            where=jax.default_backend(),
            found=f"{len(found)} devices",
            expected=f"{count}",
            hint="CUDA_VISIBLE_DEVICES may hide some; workers in one process share its devices, and on a CPU "
            "jax_num_cpu_devices has to be set before jax begins",
        )
    return tuple(found[:count])


class BackendDefaults(TypedDict):
    """Options of an ``Engine``: layers to unroll in one program, and pages of context to read at a time (None: all)."""

    layers_per_call: int
    pages_at_once: int | None


def backend_defaults() -> BackendDefaults:
    """The options that suit the default backend of this process."""
    backend = jax.default_backend()
    return BackendDefaults(layers_per_call=_LAYERS_PER_CALL.get(backend, 8), pages_at_once=_PAGES_AT_ONCE.get(backend))


def matrix_layout() -> Layout:
    """How weight matrices should lie in memory."""
    if jax.default_backend() != "cpu":
        return "rows"
    few = threads_for_products(os.environ, len(usable_cores())) <= _PANEL_THREADS
    return "panels" if few or has_panel_code("float32") else "rows"


def share_products(cpus: int | None) -> None:
    """Have threads share the products of this process, if a CPU computes them.

    Args:
        cpus: cores of the node as the job declares them; ``None`` for as many as this process may use.

    Raises:
        DeploymentError: when there are fewer.
    """
    if jax.default_backend() != "cpu":
        return
    usable = min(len(usable_cores()), granted_cores())
    if cpus is not None and cpus > usable:
        raise DeploymentError(
            "this process has fewer cores than its node",
            where="cpus",
            found=f"{usable} cores",
            expected=f"{cpus}",
            hint="declare fewer cpus, or let the process have more",
        )
    use_threads(cpus or threads_for_products(os.environ, usable))
