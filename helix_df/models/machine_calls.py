"""Machine code for this processor, made when it is first asked for, and known to XLA as the target of a custom call.

Owns compiling and registering. Where LLVM can't be had, or makes no use of this processor, there is no such code.
Doesn't know what the code computes.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax

log = logging.getLogger(__name__)

Features = Mapping[str, bool]
"""What a processor has, by LLVM's names."""

_KEPT: list[Any] = []
"""Machine code lives as long as what made it."""

_KNOWN: dict[str, bool] = {}
_ASKING = threading.Lock()
"""Workers may be threads of one process, and XLA takes a name once."""


def has_handler(name: str, source: Callable[[Features], str]) -> bool:
    """Whether XLA can call ``name`` in this process; compiles it the first time.

    Args:
        name: of a function with the interface of XLA's handlers.
        source: LLVM's text with that function, for a processor.
    """
    if jax.default_backend() != "cpu":
        return False
    with _ASKING:
        if name not in _KNOWN:
            try:
                register(name, compile_handler(name, source))
                _KNOWN[name] = True
            except (ImportError, RuntimeError) as error:
                log.warning("products by machine code are left to XLA here, which is slower: %s", error)
                _KNOWN[name] = False
        return _KNOWN[name]


def register(target: str, address: int) -> None:
    """Tell XLA of a handler."""
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new(address, b"xla._CUSTOM_CALL_TARGET", None)
    jax.ffi.register_ffi_target(target, capsule, platform="cpu", api_version=1)


def compile_handler(name: str, source: Callable[[Features], str], features: Features | None = None) -> int:
    """The address of a function's machine code; it stays as long as the process.

    Args:
        name: of the function.
        source: LLVM's text with it, for a processor.
        features: of the processor; by default this one's.

    Raises:
        ImportError: without llvmlite.
        RuntimeError: when LLVM can't compile it for this processor.
    """
    return compile_module(lambda _, has: source(has), features)(name)


def compile_module(source: Callable[[str, Features], str], features: Features | None = None) -> Callable[[str], int]:
    """Where the functions of a module lie by their names; they stay as long as the process.

    Args:
        source: LLVM's text, for a triple and a processor.
        features: of the processor; by default this one's.

    Raises:
        ImportError: without llvmlite.
        RuntimeError: when LLVM can't compile it for this processor.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    found = llvm.get_host_cpu_features()
    has: Features = found if features is None else features
    triple = llvm.get_default_triple()
    if triple.startswith(("x86", "i386", "i686")) and not has.get("f16c"):
        raise RuntimeError("this processor has no instructions for float16 (F16C)")
    module = llvm.parse_assembly(source(triple, has))
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
    return lambda name: int(engine.get_function_address(name))
