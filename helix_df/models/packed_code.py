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
    Handler,
    Pool,
    begin_handler,
    constant,
    share_out,
)
from helix_df.models.quantized import GROUP, TINY
from helix_df.profiles.packed_kinds import INPUTS, NO_POWER, OUTPUTS, PLANES, PackedKind

ROWS = (8, 4, 2, 1)
"""Rows that are multiplied together, most first: as many as vector registers hold the sums of."""

_ROUND = float(3 << 22)
"""Added to a small number it leaves the nearest whole number, ties to even, in the low bits."""

_NAN = 0x7FC00000
"""The bits of a float32 that is no number."""

_BYTES = ir.VectorType(I8, OUTPUTS * GROUP)

Dot = Callable[[CodeBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""Sums int32 [16], levels uint8 [64] and inputs int8 [64] → sums, to each the four products of its lane added."""


Curved = Callable[[CodeBuilder, ir.Value], ir.Value]
"""Places in the table of curved levels, uint8 [64] → what stands there, plus 128."""


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


def curved_by_instruction(curve: Sequence[int], build: CodeBuilder, places: ir.Value) -> ir.Value:
    """Where a processor has it for 64 bytes: x86's VPSHUFB, which looks up in each 16 of them."""
    table = ir.Constant(_BYTES, [number + 128 for number in curve] * (_BYTES.count // len(curve)))
    return build.intrinsic("llvm.x86.avx512.pshuf.b.512", _BYTES, table, places)


def curved_by_bits(curve: Sequence[int], build: CodeBuilder, places: ir.Value) -> ir.Value:
    """On any processor: the table's halves, quarters and so on, by each bit."""
    left: list[ir.Value] = [constant(_BYTES, number + 128) for number in curve]
    for bit in range(4):
        on = build.icmp_unsigned("!=", build.and_(places, constant(_BYTES, 1 << bit)), constant(_BYTES, 0))
        left = [build.select(on, high, low) for low, high in zip(left[::2], left[1::2], strict=True)]
    return left[0]


def _each_second(build: CodeBuilder, value: ir.Value, first: int) -> ir.Value:
    places = ir.Constant(ir.VectorType(I32, OUTPUTS), list(range(first, 2 * OUTPUTS, 2)))
    return build.sext(build.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places), INTS)


def handler_source(name: str, kind: PackedKind, dot: Dot, curved: Curved, pool: Pool | None = None) -> str:
    """A module with the handler ``name`` of products with weights of one kind, as text.

    Arguments: uint8 [out / 16, blocks, bytes], float32 [rows, in], int32 [] (the first panel to multiply with).
    Results: float32 [rows, some outputs]; scratch int8 [rows, in] and float32 [rows, in / 32, 1 + spans]. The threads
    of a ``pool`` share the panels.
    """
    handler = begin_handler(name, (3, 2, 0), (2, 2, 3), pool)
    build = handler.build
    weights, _, first = (one.data for one in handler.arguments)
    outputs, rounded, scales = (one.data for one in handler.results)
    inputs, (rows, width) = handler.arguments[1]
    of_row = handler.results[0].sizes[1]
    pieces, blocks = build.udiv(width, build.int64(INPUTS)), build.udiv(width, build.int64(kind.inputs))
    _round_inputs(handler, inputs, build.mul(rows, pieces), rounded, scales, kind)
    panel_bytes = build.mul(blocks, build.int64(kind.block_bytes))
    weights = build.at(weights, build.mul(build.sext(build.read(first, I32), I64), panel_bytes))

    def multiply(build: CodeBuilder, panel: ir.Value, given: tuple[ir.Value, ...]) -> None:
        weights, panel_bytes, blocks, rounded, scales, pieces, rows, width, outputs, of_row = given
        there, piece_bytes = build.at(weights, build.mul(panel, panel_bytes)), 4 * (1 + INPUTS // kind.span)
        start = build.int64(0)
        for together in ROWS:
            with build.counting(start, rows, together) as row:
                of_rows = [build.add(row, build.int64(index)) for index in range(together)]
                words = [build.mul(index, build.mul(pieces, build.int64(piece_bytes))) for index in of_rows]
                sums = _panel_sums(
                    build,
                    kind,
                    dot,
                    curved,
                    there,
                    blocks,
                    [build.at(rounded, build.mul(index, width)) for index in of_rows],
                    [build.at(scales, place) for place in words],
                )
                for index, total in zip(of_rows, sums, strict=True):
                    place = build.add(build.mul(index, of_row), build.mul(panel, build.int64(OUTPUTS)))
                    build.write(total, build.at(outputs, build.mul(place, build.int64(4))))
            start = build.mul(build.sdiv(rows, build.int64(together)), build.int64(together))

    panels = build.udiv(of_row, build.int64(OUTPUTS))
    given = (weights, panel_bytes, blocks, rounded, scales, pieces, rows, width, outputs, of_row)
    share_out(handler, panels, build.mul(build.mul(panels, panel_bytes), rows), given, multiply)
    return handler.text()


def _round_inputs(
    handler: Handler, inputs: ir.Value, count: ir.Value, rounded: ir.Value, scales: ir.Value, kind: PackedKind
) -> None:
    """Each of ``count`` blocks to whole numbers from -127 to 127, its scale, and what the sum of each span adds.

    That is ``scale * sum`` for minima, or as int32 ``-offset * sum``, where sums of products start.
    """

    def one(build: CodeBuilder, block: ir.Value, given: tuple[ir.Value, ...]) -> None:
        inputs, rounded, scales = given
        _round_block(build, block, inputs, rounded, scales, kind)

    work = handler.build.mul(count, handler.build.int64(4 * INPUTS))
    share_out(handler, count, work, (inputs, rounded, scales), one)


def _round_block(
    build: CodeBuilder, block: ir.Value, inputs: ir.Value, rounded: ir.Value, scales: ir.Value, kind: PackedKind
) -> None:
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
    sums: list[ir.Value] = []
    for half, value in enumerate(values):
        shifted = build.fadd(build.fmul(value, factor), constant(FLOATS, _ROUND))
        whole = build.sub(build.bitcast(shifted, INTS), build.bitcast(constant(FLOATS, _ROUND), INTS))
        narrow = build.trunc(whole, ir.VectorType(I8, OUTPUTS))
        build.write(narrow, build.at(rounded, build.mul(block, build.int64(INPUTS)), OUTPUTS * half))
        sums.append(whole)
    if kind.span == INPUTS:
        sums = [build.add(*sums)]
    place = build.at(scales, build.mul(block, build.int64(4 * (1 + len(sums)))))
    build.write(scale, place)
    for span, of_span in enumerate(sums):
        total = build.intrinsic("llvm.vector.reduce.add.v16i32", I32, of_span)
        if kind.offset:
            adds = build.mul(total, ir.Constant(I32, -kind.offset))
        else:
            adds = build.fmul(build.sitofp(total, F32), scale)
        build.write(adds, build.at(place, 4 * (1 + span)))


def _panel_sums(
    build: CodeBuilder,
    kind: PackedKind,
    dot: Dot,
    curved: Curved,
    weights: ir.Value,
    blocks: ir.Value,
    rounded: Sequence[ir.Value],
    scales: Sequence[ir.Value],
) -> list[ir.Value]:
    """Sixteen outputs of some rows, float32 [16] each: a panel's blocks times the blocks of those rows."""
    totals = [build.alloca_at_entry(FLOATS) for _ in rounded]
    for total in totals:
        build.store(constant(FLOATS, 0.0), total)
    pieces = kind.inputs // INPUTS
    with build.counting(build.int64(0), blocks) as block:
        here = build.at(weights, build.mul(block, build.int64(kind.block_bytes)))
        after = build.at(here, pieces * kind.level_bytes)
        factors = (_powers if kind.powers else _halves)(build, build.at(after, kind.factor_bytes))
        minima = _halves(build, build.at(after, kind.factor_bytes + 2 * OUTPUTS)) if kind.minima else None
        with build.counting(build.int64(0), build.int64(pieces)) as piece:
            levels = build.at(here, build.mul(piece, build.int64(kind.level_bytes)))
            at = build.add(build.mul(block, build.int64(pieces)), piece)
            words = [build.at(row, build.mul(at, build.int64(4 * (1 + INPUTS // kind.span)))) for row in scales]
            inputs = [build.at(row, build.mul(at, build.int64(INPUTS))) for row in rounded]
            steps = [build.splat(build.read(word, F32), FLOATS) for word in words]
            for span in range(INPUTS // kind.span):
                sums = [_first_sum(build, kind, word, span) for word in words]
                for group in range(span * kind.span // GROUP, (span + 1) * kind.span // GROUP):
                    of_group = _levels(build, kind, levels, group)
                    of_group = curved(build, of_group) if kind.curved else of_group
                    for row, place in enumerate(inputs):
                        four = build.splat(build.read(build.at(place, GROUP * group), I32), INTS)
                        sums[row] = dot(build, sums[row], of_group, build.bitcast(four, _BYTES))
                whole, whole_minima = _factors(build, kind, after, piece, span)
                scale = factors if whole is None else build.fmul(factors, whole)
                minimum = minima if whole_minima is None else build.fmul(minima, whole_minima)
                for row, total in enumerate(totals):
                    factor = build.fmul(scale, steps[row])
                    mixed = build.multiply_add(build.sitofp(sums[row], FLOATS), factor, build.load(total, typ=FLOATS))
                    if minimum is not None:
                        shift = build.splat(build.read(build.at(words[row], 4 * (1 + span)), F32), FLOATS)
                        mixed = build.multiply_add(shift, minimum, mixed)
                    build.store(mixed, total)
    return [build.load(total, typ=FLOATS) for total in totals]


def _halves(build: CodeBuilder, place: ir.Value) -> ir.Value:
    return build.fpext(build.read(place, HALVES), FLOATS)


def _powers(build: CodeBuilder, place: ir.Value) -> ir.Value:
    """Powers of two, float32 [16], of exponents in a byte each."""
    exponents = build.zext(build.read(place, ir.VectorType(I8, OUTPUTS)), INTS)
    normal = build.shl(build.sub(exponents, constant(INTS, 1)), constant(INTS, 23))
    small = build.shl(constant(INTS, 1 << 21), build.and_(exponents, constant(INTS, 1)))
    bits = build.select(build.icmp_unsigned("<", exponents, constant(INTS, 2)), small, normal)
    none = build.icmp_unsigned("==", exponents, constant(INTS, NO_POWER))
    return build.bitcast(build.select(none, constant(INTS, _NAN), bits), FLOATS)


def _first_sum(build: CodeBuilder, kind: PackedKind, words: ir.Value, span: int) -> ir.Value:
    if not kind.offset:
        return constant(INTS, 0)
    return build.splat(build.read(build.at(words, 4 * (1 + span)), I32), INTS)


def _factors(
    build: CodeBuilder, kind: PackedKind, factors: ir.Value, piece: ir.Value, span: int
) -> tuple[ir.Value | None, ir.Value | None]:
    """The whole numbers of a nested kind's span, as floats: those of scales, and of minima."""
    if not kind.nested:
        return None, None
    spans = INPUTS // kind.span
    here = build.at(factors, build.mul(piece, build.int64(OUTPUTS * spans)), OUTPUTS * span)
    bytes_of = ir.VectorType(I8, OUTPUTS)
    whole = build.read(here, bytes_of)
    if kind.shared_bytes:
        each = build.and_(whole, constant(bytes_of, 15)), build.lshr(whole, constant(bytes_of, 4))
    elif kind.minima:
        each = whole, build.read(build.at(here, kind.factor_bytes // 2), bytes_of)
    else:
        return build.sitofp(build.sext(whole, INTS), FLOATS), None
    scales, minima = (build.sitofp(build.sext(one, INTS), FLOATS) for one in each)
    return scales, minima


def _levels(build: CodeBuilder, kind: PackedKind, block: ir.Value, group: int) -> ir.Value:
    """Levels uint8 [16 * 4] of four inputs of a block."""
    size = OUTPUTS * GROUP
    levels, at, shift = None, 0, 0
    for width in PLANES[kind.bits]:
        if width == 1:
            bits = build.read(build.at(block, at + size // 8 * group), I64)
            on = build.bitcast(bits, ir.VectorType(ir.IntType(1), size))
            levels = build.select(on, build.or_(levels, constant(_BYTES, 1 << shift)), levels)
        else:
            places = 8 // width
            plane = build.read(build.at(block, at + size * (group // places)), _BYTES)
            place = group % places
            plane = build.lshr(plane, constant(_BYTES, place * width)) if place else plane
            plane = build.and_(plane, constant(_BYTES, (1 << width) - 1)) if place < places - 1 else plane
            levels = build.or_(levels, build.shl(plane, constant(_BYTES, shift))) if shift else plane
        at, shift = at + OUTPUTS * INPUTS * width // 8, shift + width
    return levels
