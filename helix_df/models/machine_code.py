"""LLVM's instructions as the products here need them, and the frame of a function that XLA can call.

Owns the C interface of XLA's typed FFI (jaxlib's ``include/xla/ffi/api/c_api.h``), whose structures are read here in
words of 8 bytes. Doesn't know products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from llvmlite import ir

LANES = 16
"""Outputs that stand beside each other in a vector."""

_API_VERSION = (0, 1)

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
POINTER = ir.PointerType()
INTS, FLOATS, HALVES = (ir.VectorType(kind, LANES) for kind in (I32, F32, F16))


class CodeBuilder(ir.IRBuilder):  # type: ignore[misc]  # llvmlite is untyped
    """An instruction builder with what the product needs most."""

    def int64(self, value: int) -> ir.Value:
        """A constant."""
        return ir.Constant(I64, value)

    def at(self, base: ir.Value, *offset_bytes: ir.Value | int) -> ir.Value:
        """A pointer so many bytes further."""
        for offset in offset_bytes:
            base = self.gep(base, [self.int64(offset) if isinstance(offset, int) else offset], source_etype=I8)
        return base

    def read(self, pointer: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
        """What lies there, however it is aligned."""
        return self.load(pointer, align=align, typ=kind)

    def write(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store it, however it is aligned."""
        self.store(value, pointer, align=1)

    def splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        """A vector of one value."""
        one = self.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.shuffle_vector(
            one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), None)
        )

    def intrinsic(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """Call an operation that LLVM itself knows."""
        kind = ir.FunctionType(result, [value.type for value in values])
        found = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return self.call(found, values)

    def multiply_add(self, left: ir.Value, right: ir.Value, added: ir.Value) -> ir.Value:
        """``left * right + added`` of float vectors."""
        return self.intrinsic("llvm.fmuladd.v16f32", FLOATS, left, right, added)

    @contextmanager
    def counting(self, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """A loop while ``index + step <= stop``."""
        place = self.alloca_at_entry(I64)
        self.store(start, place)
        check, body, after = (self.append_basic_block(name) for name in ("check", "body", "after"))
        self.branch(check)
        self.position_at_end(check)
        index = self.load(place, typ=I64)
        follows = self.add(index, self.int64(step))
        self.cbranch(self.icmp_signed("<=", follows, stop), body, after)
        self.position_at_end(body)
        yield index
        self.store(follows, place)
        self.branch(check)
        self.position_at_end(after)

    def alloca_at_entry(self, kind: ir.Type) -> ir.Value:
        """A variable; LLVM makes a register of it."""
        with self.goto_entry_block():
            return self.alloca(kind)


def constant(kind: ir.VectorType, value: float) -> ir.Constant:
    """A vector of one value."""
    return ir.Constant(kind, [value] * kind.count)


class Buffer(NamedTuple):
    """An array that a function of XLA's is given or is to fill: where its numbers lie, and its sizes."""

    data: ir.Value
    sizes: tuple[ir.Value, ...]


class Handler(NamedTuple):
    """A function while it is written: its module, its instructions, its arguments and its results."""

    module: ir.Module
    build: CodeBuilder
    arguments: tuple[Buffer, ...]
    results: tuple[Buffer, ...]

    def text(self) -> str:
        """The module, after the function's end."""
        self.build.ret(ir.Constant(POINTER, None))
        return str(self.module)


def begin_handler(name: str, arguments: tuple[int, ...], results: tuple[int, ...]) -> Handler:
    """A function ``name`` of arrays with so many axes each, up to where they are known."""
    module = ir.Module(name)
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), name)
    build = CodeBuilder(function.append_basic_block("entry"))
    frame = function.args[0]
    with build.if_then(build.icmp_unsigned("!=", _word(build, frame, 1, I64), build.int64(0))):
        # XLA asks once for metadata: which version of the interface this was made for.
        version = _word(build, _word(build, frame, 1), 3)
        for place, number in zip((6 * 4, 7 * 4), _API_VERSION, strict=True):
            build.write(ir.Constant(I32, number), build.at(version, place))
        build.ret(ir.Constant(POINTER, None))
    given, made = (
        tuple(_buffer(build, _word(build, _word(build, frame, at), index), axes) for index, axes in enumerate(each))
        for at, each in ((9, arguments), (14, results))
    )
    return Handler(module, build, given, made)


def _buffer(build: CodeBuilder, buffer: ir.Value, axes: int) -> Buffer:
    sizes = _word(build, buffer, 5)
    return Buffer(_word(build, buffer, 3), tuple(_word(build, sizes, axis, I64) for axis in range(axes)))


def _word(build: CodeBuilder, structure: ir.Value, index: int, kind: ir.Type = POINTER) -> ir.Value:
    return build.read(build.at(structure, 8 * index), kind, 8)
