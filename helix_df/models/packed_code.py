"""Machine code of the product with packed weights: made by LLVM when a worker starts, called by XLA.

Owns the arithmetic. Inputs are rounded to 8 bits a block of 32, so that products are those of whole numbers
(``q``, exact), and only the scales are floating-point: with ``x = s * q`` and a weight ``d * (level - offset)`` or
``d * level + m`` a block adds ``s * d * sum(q * (level - offset))``, or ``s * d * sum(q * level) + s * sum(q) * m``.
Sixteen outputs stand beside each other in a vector, and up to eight rows of inputs share one reading of the weights.

The handler has the C interface of XLA's typed FFI (jaxlib's ``include/xla/ffi/api/c_api.h``), whose structures are
read here in words of 8 bytes. It allocates nothing: XLA lends the buffers of the rounded inputs as results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from helix_df.models.quantized import GROUP, TINY
from helix_df.profiles.packed_kinds import INPUTS, OUTPUTS, PackedKind

ROWS = (8, 4, 2, 1)
"""Rows that are multiplied together, most first: as many as vector registers hold the sums of."""

_API_VERSION = (0, 1)
_ROUND = float(3 << 22)
"""Added to a small number it leaves the nearest whole number, ties to even, in the low bits."""

_I8, _I32, _I64, _F16, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.HalfType(), ir.FloatType()
_POINTER = ir.PointerType()
_INTS, _FLOATS, _HALVES = (ir.VectorType(kind, OUTPUTS) for kind in (_I32, _F32, _F16))
_BYTES = ir.VectorType(_I8, OUTPUTS * GROUP)

Dot = Callable[["CodeBuilder", ir.Value, ir.Value, ir.Value], ir.Value]
"""Sums int32 [16], levels uint8 [64] and inputs int8 [64] → sums, to each the four products of its lane added."""


class CodeBuilder(ir.IRBuilder):  # type: ignore[misc]  # llvmlite is untyped
    """An instruction builder with what the product needs most."""

    def int64(self, value: int) -> ir.Value:
        """A constant."""
        return ir.Constant(_I64, value)

    def at(self, base: ir.Value, *offset_bytes: ir.Value | int) -> ir.Value:
        """A pointer so many bytes further."""
        for offset in offset_bytes:
            base = self.gep(base, [self.int64(offset) if isinstance(offset, int) else offset], source_etype=_I8)
        return base

    def read(self, pointer: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
        """What lies there, however it is aligned."""
        return self.load(pointer, align=align, typ=kind)

    def write(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store it, however it is aligned."""
        self.store(value, pointer, align=1)

    def splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        """A vector of one value."""
        one = self.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
        return self.shuffle_vector(
            one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, kind.count), None)
        )

    def intrinsic(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """Call an operation that LLVM itself knows."""
        kind = ir.FunctionType(result, [value.type for value in values])
        found = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return self.call(found, values)

    def multiply_add(self, left: ir.Value, right: ir.Value, added: ir.Value) -> ir.Value:
        """``left * right + added`` of float vectors."""
        return self.intrinsic("llvm.fmuladd.v16f32", _FLOATS, left, right, added)

    @contextmanager
    def counting(self, start: ir.Value, stop: ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """A loop while ``index + step <= stop``."""
        place = self.alloca_at_entry(_I64)
        self.store(start, place)
        check, body, after = (self.append_basic_block(name) for name in ("check", "body", "after"))
        self.branch(check)
        self.position_at_end(check)
        index = self.load(place, typ=_I64)
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


def dot_by_instruction(build: CodeBuilder, sums: ir.Value, levels: ir.Value, inputs: ir.Value) -> ir.Value:
    """Where a processor has it for 64 bytes: x86's VPDPBUSD."""
    levels, inputs = build.bitcast(levels, _INTS), build.bitcast(inputs, _INTS)
    return build.intrinsic("llvm.x86.avx512.vpdpbusd.512", _INTS, sums, levels, inputs)


def dot_by_parts(build: CodeBuilder, sums: ir.Value, levels: ir.Value, inputs: ir.Value) -> ir.Value:
    """On any processor. Pairs of 16 bits are multiplied and added, for which many have an instruction."""
    shorts = ir.VectorType(ir.IntType(16), 2 * OUTPUTS)
    levels, inputs, eight = build.bitcast(levels, shorts), build.bitcast(inputs, shorts), _constant(shorts, 8)
    even = build.and_(levels, _constant(shorts, 255)), build.ashr(build.shl(inputs, eight), eight)
    odd = build.lshr(levels, eight), build.ashr(inputs, eight)
    for pair in (even, odd):
        products = [build.mul(*(_each_second(build, value, first) for value in pair)) for first in (0, 1)]
        sums = build.add(sums, build.add(*products))
    return sums


def _each_second(build: CodeBuilder, value: ir.Value, first: int) -> ir.Value:
    places = ir.Constant(ir.VectorType(_I32, OUTPUTS), list(range(first, 2 * OUTPUTS, 2)))
    return build.sext(build.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places), _INTS)


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def handler_module(name: str, kind: PackedKind, dot: Dot) -> ir.Module:
    """A module with the handler ``name`` of products with weights of one kind.

    Arguments: uint8 [out / 16, in / 32, bytes], float32 [rows, in], int32 [] (the first panel to multiply with).
    Results: float32 [rows, some outputs]; scratch int8 [rows, in] and float32 [rows, in / 32, 2].
    """
    module = ir.Module(name)
    function = ir.Function(module, ir.FunctionType(_POINTER, [_POINTER]), name)
    build = CodeBuilder(function.append_basic_block("entry"))
    frame = function.args[0]
    with build.if_then(build.icmp_unsigned("!=", _word(build, frame, 1, _I64), build.int64(0))):
        # XLA asks once for metadata: which version of the interface this was made for.
        version = _word(build, _word(build, frame, 1), 3)
        for place, number in zip((6 * 4, 7 * 4), _API_VERSION, strict=True):
            build.write(ir.Constant(_I32, number), build.at(version, place))
        build.ret(ir.Constant(_POINTER, None))
    weights, inputs, first = (_word(build, _word(build, frame, 9), index) for index in range(3))
    outputs, rounded, scales = (_word(build, _word(build, frame, 14), index) for index in range(3))
    rows, width = (_word(build, _word(build, inputs, 5), index, _I64) for index in range(2))
    of_row = _word(build, _word(build, outputs, 5), 1, _I64)
    blocks = build.udiv(width, build.int64(INPUTS))
    weights, inputs, first, outputs, rounded, scales = (
        _word(build, buffer, 3) for buffer in (weights, inputs, first, outputs, rounded, scales)
    )
    _round_inputs(build, inputs, build.mul(rows, blocks), rounded, scales, kind.offset)
    panel_bytes = build.mul(blocks, build.int64(kind.block_bytes))
    weights = build.at(weights, build.mul(build.sext(build.read(first, _I32), _I64), panel_bytes))
    with build.counting(build.int64(0), build.udiv(of_row, build.int64(OUTPUTS))) as panel:
        there = build.at(weights, build.mul(panel, panel_bytes))
        start = build.int64(0)
        for together in ROWS:
            with build.counting(start, rows, together) as row:
                of_rows = [build.add(row, build.int64(index)) for index in range(together)]
                sums = _panel_sums(
                    build,
                    kind,
                    dot,
                    there,
                    blocks,
                    [build.at(rounded, build.mul(index, width)) for index in of_rows],
                    [build.at(scales, build.mul(index, build.mul(blocks, build.int64(8)))) for index in of_rows],
                )
                for index, total in zip(of_rows, sums, strict=True):
                    place = build.add(build.mul(index, of_row), build.mul(panel, build.int64(OUTPUTS)))
                    build.write(total, build.at(outputs, build.mul(place, build.int64(4))))
            start = build.mul(build.sdiv(rows, build.int64(together)), build.int64(together))
    build.ret(ir.Constant(_POINTER, None))
    return module


def _word(build: CodeBuilder, structure: ir.Value, index: int, kind: ir.Type = _POINTER) -> ir.Value:
    return build.read(build.at(structure, 8 * index), kind, 8)


def _round_inputs(
    build: CodeBuilder, inputs: ir.Value, count: ir.Value, rounded: ir.Value, scales: ir.Value, offset: int
) -> None:
    """Each of ``count`` blocks to whole numbers from -127 to 127, its scale, and what its sum adds.

    The last is ``scale * sum`` for minima, or as int32 ``-offset * sum``, where sums of products start.
    """
    with build.counting(build.int64(0), count) as block:
        here = build.at(inputs, build.mul(block, build.int64(4 * INPUTS)))
        values = [build.read(build.at(here, 4 * OUTPUTS * half), _FLOATS) for half in range(2)]
        # As whole numbers, magnitudes are in the same order, and NaN is the largest: it reaches the scale.
        sizes = [build.and_(build.bitcast(value, _INTS), _constant(_INTS, 0x7FFFFFFF)) for value in values]
        larger = build.intrinsic("llvm.umax.v16i32", _INTS, *sizes)
        largest = build.bitcast(build.intrinsic("llvm.vector.reduce.umax.v16i32", _I32, larger), _F32)
        scale = build.fdiv(largest, ir.Constant(_F32, 127.0))
        inverse = build.fdiv(ir.Constant(_F32, 127.0), largest)
        some = build.fcmp_unordered(">", largest, ir.Constant(_F32, TINY))
        factor = build.splat(build.select(some, inverse, ir.Constant(_F32, 0.0)), _FLOATS)
        sums = None
        for half, value in enumerate(values):
            shifted = build.fadd(build.fmul(value, factor), _constant(_FLOATS, _ROUND))
            whole = build.sub(build.bitcast(shifted, _INTS), build.bitcast(_constant(_FLOATS, _ROUND), _INTS))
            narrow = build.trunc(whole, ir.VectorType(_I8, OUTPUTS))
            build.write(narrow, build.at(rounded, build.mul(block, build.int64(INPUTS)), OUTPUTS * half))
            sums = whole if sums is None else build.add(sums, whole)
        total = build.intrinsic("llvm.vector.reduce.add.v16i32", _I32, sums)
        place = build.at(scales, build.mul(block, build.int64(8)))
        build.write(scale, place)
        if offset:
            build.write(build.mul(total, ir.Constant(_I32, -offset)), build.at(place, 4))
        else:
            build.write(build.fmul(build.sitofp(total, _F32), scale), build.at(place, 4))


def _panel_sums(
    build: CodeBuilder,
    kind: PackedKind,
    dot: Dot,
    weights: ir.Value,
    blocks: ir.Value,
    rounded: Sequence[ir.Value],
    scales: Sequence[ir.Value],
) -> list[ir.Value]:
    """Sixteen outputs of some rows, float32 [16] each: a panel's blocks times the blocks of those rows."""
    totals = [build.alloca_at_entry(_FLOATS) for _ in rounded]
    for total in totals:
        build.store(_constant(_FLOATS, 0.0), total)
    with build.counting(build.int64(0), blocks) as block:
        here = build.at(weights, build.mul(block, build.int64(kind.block_bytes)))
        of_block = [build.at(row, build.mul(block, build.int64(8))) for row in scales]
        sums = [
            build.splat(build.read(build.at(row, 4), _I32), _INTS) if kind.offset else _constant(_INTS, 0)
            for row in of_block
        ]
        inputs = [build.at(row, build.mul(block, build.int64(INPUTS))) for row in rounded]
        for group in range(INPUTS // GROUP):
            levels = _levels(build, kind, here, group)
            for row, place in enumerate(inputs):
                four = build.bitcast(build.splat(build.read(build.at(place, GROUP * group), _I32), _INTS), _BYTES)
                sums[row] = dot(build, sums[row], levels, four)
        after = OUTPUTS * INPUTS * kind.bits // 8
        factors = build.fpext(build.read(build.at(here, after), _HALVES), _FLOATS)
        minima = kind.minima and build.fpext(build.read(build.at(here, after + 2 * OUTPUTS), _HALVES), _FLOATS)
        for row, total in enumerate(totals):
            factor = build.fmul(factors, build.splat(build.read(of_block[row], _F32), _FLOATS))
            mixed = build.multiply_add(build.sitofp(sums[row], _FLOATS), factor, build.load(total, typ=_FLOATS))
            if minima:
                shift = build.splat(build.read(build.at(of_block[row], 4), _F32), _FLOATS)
                mixed = build.multiply_add(shift, minima, mixed)
            build.store(mixed, total)
    return [build.load(total, typ=_FLOATS) for total in totals]


def _levels(build: CodeBuilder, kind: PackedKind, block: ir.Value, group: int) -> ir.Value:
    """Levels uint8 [16 * 4] of four inputs of a block."""
    size = OUTPUTS * GROUP
    if kind.bits == 8:
        return build.read(build.at(block, size * group), _BYTES)
    both = build.read(build.at(block, size * (group // 2)), _BYTES)
    low = build.lshr(both, _constant(_BYTES, 4)) if group % 2 else build.and_(both, _constant(_BYTES, 15))
    if kind.bits == 4:
        return low
    plane = build.read(build.at(block, OUTPUTS * INPUTS // 2 + size // 8 * group), _I64)
    bits = build.bitcast(plane, ir.VectorType(ir.IntType(1), size))
    return build.select(bits, build.or_(low, _constant(_BYTES, 16)), low)


def handler_source(name: str, kind: PackedKind, dot: Dot) -> str:
    """``handler_module`` as text."""
    module: Any = handler_module(name, kind, dot)
    return str(module)
