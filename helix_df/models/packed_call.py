"""Products with packed weights as a custom call of XLA on a CPU.

Owns compiling for this processor and telling XLA of it, once a process and kind. Where LLVM can't be had, or makes no
use of this processor, there is no call.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from helix_df.profiles.packed_kinds import OUTPUTS, PackedKind, kind_of_bytes

log = logging.getLogger(__name__)

_KEPT: list[Any] = []
"""Machine code lives as long as what made it."""


def call_packed(flat: Array, weight: Array, target: str | None = None) -> Array:
    """float32 [rows, in] times a packed matrix → float32 [rows, out], on a CPU; by another ``target`` of XLA."""
    rows, inputs = flat.shape
    panels, blocks, block_bytes = weight.shape
    kind, shaped = kind_of_bytes(block_bytes), partial(jax.ShapeDtypeStruct)
    product: Array = jax.ffi.ffi_call(
        target or _name(kind),
        (
            shaped((rows, panels * OUTPUTS), jnp.float32),
            shaped((rows, inputs), jnp.int8),
            shaped((rows, blocks, 2), jnp.float32),
        ),
    )(weight, flat, jnp.int32(0))[0]
    return product


def has_machine_code(kind: PackedKind) -> bool:
    """Whether ``call_packed`` works in this process; compiles what it needs the first time."""
    return jax.default_backend() == "cpu" and _register(kind)


@cache
def _register(kind: PackedKind) -> bool:
    try:
        register(_name(kind), compile_handler(kind))
    except (ImportError, RuntimeError) as error:
        log.warning("products with packed weights are slow here: %s", error)
        return False
    return True


def _name(kind: PackedKind) -> str:
    return f"helix_df_packed_{kind.bits}{'_minima' if kind.minima else ''}"


def register(target: str, address: int) -> None:
    """Tell XLA of a handler."""
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new(address, b"xla._CUSTOM_CALL_TARGET", None)
    jax.ffi.register_ffi_target(target, capsule, platform="cpu", api_version=1)


def compile_handler(kind: PackedKind, features: Mapping[str, bool] | None = None) -> int:
    """The address of machine code for products with one kind; it stays as long as the process.

    Args:
        kind: of the weights.
        features: of the processor, by LLVM's names; by default this one's.

    Raises:
        ImportError: without llvmlite.
        RuntimeError: when LLVM can't compile it for this processor.
    """
    import llvmlite.binding as llvm

    from helix_df.models.packed_code import dot_by_instruction, dot_by_parts, handler_source

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    found = llvm.get_host_cpu_features()
    has = found if features is None else features
    triple = llvm.get_default_triple()
    if triple.startswith(("x86", "i386", "i686")) and not has.get("f16c"):
        raise RuntimeError("this processor has no instructions for float16 (F16C)")
    dot = dot_by_instruction if has.get("avx512vnni") else dot_by_parts
    module = llvm.parse_assembly(handler_source(_name(kind), kind, dot))
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name() if features is None else "",
        features=found.flatten() if features is None else ",".join(f"+{name}" for name, on in features.items() if on),
        opt=3,
        jit=True,
    )
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _KEPT.append(engine)
    return int(engine.get_function_address(_name(kind)))
