"""Machine code of the product with packed weights: made by LLVM when a worker starts, called by XLA.

Owns the arithmetic. Inputs are rounded to 8 bits a block of 32, so that products are those of whole numbers
(``q``, exact), and only the scales are floating-point: with ``x = s * q`` and a weight ``d * (level - offset)`` or
``d * level + m`` a block adds ``s * d * sum(q * (level - offset))``, or ``s * d * sum(q * level) + s * sum(q) * m``.
Sixteen outputs stand beside each other in a vector, and up to eight rows of inputs share one reading of the weights.

The handler allocates nothing: XLA lends the buffers of the rounded inputs as results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from helix_df.models.machine_code import (
    F32,
    FLOATS,
    HALVES,
    I8,
    I32,
    I64,
    INTS,
    CodeBuilder,
    begin_handler,
    constant,
)
from helix_df.models.quantized import GROUP, TINY
from helix_df.profiles.packed_kinds import INPUTS, OUTPUTS, PackedKind

ROWS = (8, 4, 2, 1)
"""Rows that are multiplied together, most first: as many as vector registers hold the sums of."""

_ROUND = float(3 << 22)
"""Added to a small number it leaves the nearest whole number, ties to even, in the low bits."""

_BYTES = ir.VectorType(I8, OUTPUTS * GROUP)

Dot = Callable[[CodeBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""Sums int32 [16], levels uint8 [64] and inputs int8 [64] → sums, to each the four products of its lane added."""


def dot_by_instruction(build: CodeBuilder, sums: ir.Value, levels: ir.Value, inputs: ir.Value) -> ir.Value:
    """Where a processor has it for 64 bytes: x86's VPDPBUSD."""
    levels, inputs = build.bitcast(levels, INTS), build.bitcast(inputs, INTS)
    return build.intrinsic("llvm.x86.avx512.vpdpbusd.512", INTS, sums, levels, inputs)


def dot_by_parts(build: CodeBuilder, sums: ir.Value, levels: ir.Value, inputs: ir.Value) -> ir.Value:
    """On any processor. Pairs of 16 bits are multiplied and added, for which many have an instruction."""
    shorts = ir.VectorType(ir.IntType(16), 2 * OUTPUTS)
    levels, inputs, eight = build.bitcast(levels, shorts), build.bitcast(inputs, shorts), constant(shorts, 8)
    even = build.and_(levels, constant(shorts, 255)), build.ashr(build.shl(inputs, eight), eight)
    odd = build.lshr(levels, eight), build.ashr(inputs, eight)
    for pair in (even, odd):
        products = [build.mul(*(_each_second(build, value, first) for value in pair)) for first in (0, 1)]
        sums = build.add(sums, build.add(*products))
    return sums


def _each_second(build: CodeBuilder, value: ir.Value, first: int) -> ir.Value:
    places = ir.Constant(ir.VectorType(I32, OUTPUTS), list(range(first, 2 * OUTPUTS, 2)))
    return build.sext(build.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places), INTS)


def handler_source(name: str, kind: PackedKind, dot: Dot) -> str:
    """A module with the handler ``name`` of products with weights of one kind, as text.

    Arguments: uint8 [out / 16, in / 32, bytes], float32 [rows, in], int32 [] (the first panel to multiply with).
    Results: float32 [rows, some outputs]; scratch int8 [rows, in] and float32 [rows, in / 32, 2].
    """
    handler = begin_handler(name, (3, 2, 0), (2, 2, 3))
    build = handler.build
    weights, _, first = (one.data for one in handler.arguments)
    outputs, rounded, scales = (one.data for one in handler.results)
    inputs, (rows, width) = handler.arguments[1]
    of_row = handler.results[0].sizes[1]
    blocks = build.udiv(width, build.int64(INPUTS))
    _round_inputs(build, inputs, build.mul(rows, blocks), rounded, scales, kind.offset)
    panel_bytes = build.mul(blocks, build.int64(kind.block_bytes))
    weights = build.at(weights, build.mul(build.sext(build.read(first, I32), I64), panel_bytes))
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
    return handler.text()


def _round_inputs(
    build: CodeBuilder, inputs: ir.Value, count: ir.Value, rounded: ir.Value, scales: ir.Value, offset: int
) -> None:
    """Each of ``count`` blocks to whole numbers from -127 to 127, its scale, and what its sum adds.

    The last is ``scale * sum`` for minima, or as int32 ``-offset * sum``, where sums of products start.
    """
    with build.counting(build.int64(0), count) as block:
        here = build.at(inputs, build.mul(block, build.int64(4 * INPUTS)))
        values = [build.read(build.at(here, 4 * OUTPUTS * half), FLOATS) for half in range(2)]
        # As whole numbers, magnitudes are in the same order, and NaN is the largest: it reaches the scale.
        sizes = [build.and_(build.bitcast(value, INTS), constant(INTS, 0x7FFFFFFF)) for value in values]
        larger = build.intrinsic("llvm.umax.v16i32", INTS, *sizes)
        largest = build.bitcast(build.intrinsic("llvm.vector.reduce.umax.v16i32", I32, larger), F32)
        scale = build.fdiv(largest, ir.Constant(F32, 127.0))
        inverse = build.fdiv(ir.Constant(F32, 127.0), largest)
        some = build.fcmp_unordered(">", largest, ir.Constant(F32, TINY))
        factor = build.splat(build.select(some, inverse, ir.Constant(F32, 0.0)), FLOATS)
        sums = None
        for half, value in enumerate(values):
            shifted = build.fadd(build.fmul(value, factor), constant(FLOATS, _ROUND))
            whole = build.sub(build.bitcast(shifted, INTS), build.bitcast(constant(FLOATS, _ROUND), INTS))
            narrow = build.trunc(whole, ir.VectorType(I8, OUTPUTS))
            build.write(narrow, build.at(rounded, build.mul(block, build.int64(INPUTS)), OUTPUTS * half))
            sums = whole if sums is None else build.add(sums, whole)
        total = build.intrinsic("llvm.vector.reduce.add.v16i32", I32, sums)
        place = build.at(scales, build.mul(block, build.int64(8)))
        build.write(scale, place)
        if offset:
            build.write(build.mul(total, ir.Constant(I32, -offset)), build.at(place, 4))
        else:
            build.write(build.fmul(build.sitofp(total, F32), scale), build.at(place, 4))


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
    totals = [build.alloca_at_entry(FLOATS) for _ in rounded]
    for total in totals:
        build.store(constant(FLOATS, 0.0), total)
    with build.counting(build.int64(0), blocks) as block:
        here = build.at(weights, build.mul(block, build.int64(kind.block_bytes)))
        of_block = [build.at(row, build.mul(block, build.int64(8))) for row in scales]
        sums = [
            build.splat(build.read(build.at(row, 4), I32), INTS) if kind.offset else constant(INTS, 0)
            for row in of_block
        ]
        inputs = [build.at(row, build.mul(block, build.int64(INPUTS))) for row in rounded]
        for group in range(INPUTS // GROUP):
            levels = _levels(build, kind, here, group)
            for row, place in enumerate(inputs):
                four = build.bitcast(build.splat(build.read(build.at(place, GROUP * group), I32), INTS), _BYTES)
                sums[row] = dot(build, sums[row], levels, four)
        after = OUTPUTS * INPUTS * kind.bits // 8
        factors = build.fpext(build.read(build.at(here, after), HALVES), FLOATS)
        minima = kind.minima and build.fpext(build.read(build.at(here, after + 2 * OUTPUTS), HALVES), FLOATS)
        for row, total in enumerate(totals):
            factor = build.fmul(factors, build.splat(build.read(of_block[row], F32), FLOATS))
            mixed = build.multiply_add(build.sitofp(sums[row], FLOATS), factor, build.load(total, typ=FLOATS))
            if minima:
                shift = build.splat(build.read(build.at(of_block[row], 4), F32), FLOATS)
                mixed = build.multiply_add(shift, minima, mixed)
            build.store(mixed, total)
    return [build.load(total, typ=FLOATS) for total in totals]


def _levels(build: CodeBuilder, kind: PackedKind, block: ir.Value, group: int) -> ir.Value:
    """Levels uint8 [16 * 4] of four inputs of a block."""
    size = OUTPUTS * GROUP
    if kind.bits == 8:
        return build.read(build.at(block, size * group), _BYTES)
    both = build.read(build.at(block, size * (group // 2)), _BYTES)
    low = build.lshr(both, constant(_BYTES, 4)) if group % 2 else build.and_(both, constant(_BYTES, 15))
    if kind.bits == 4:
        return low
    plane = build.read(build.at(block, OUTPUTS * INPUTS // 2 + size // 8 * group), I64)
    bits = build.bitcast(plane, ir.VectorType(ir.IntType(1), size))
    return build.select(bits, build.or_(low, constant(_BYTES, 16)), low)
