"""Machine code of products with matrices of FP8 (E4M3) and scales, which are widened as they are read.

Owns the arithmetic: float32 throughout. A block has 16 outputs for each of 128 inputs (``models.quantized``); of each
row of inputs four sums grow side by side, so that none waits for another, and up to four rows share one reading.
"""

from __future__ import annotations

from llvmlite import ir

from helix_df.models.machine_code import (
    F32,
    FLOATS,
    HALVES,
    I8,
    I16,
    LANES,
    CodeBuilder,
    Pool,
    begin_handler,
    constant,
    share_out,
)
from helix_df.profiles.packed_kinds import E4M3, OUTPUTS

_SUMS = 4
_BYTES, _SHORTS = ir.VectorType(I8, LANES), ir.VectorType(I16, LANES)

_TOO_SMALL = 256.0
"""The exponents of float16 and E4M3 are 15 and 7 more than what they say: its bits in a float16 say 2**-8 of it."""

_ALL_BUT_EXPONENTS_FIRST = 0xBFFF


def float8_source(name: str, rows_at_once: tuple[int, ...], pool: Pool | None = None) -> str:
    """A module with the handler ``name``, as text.

    Arguments: uint8 [out / 16, blocks, bytes], float32 [rows, in] with as many inputs as blocks have. Result: float32
    [rows, out]. ``rows_at_once``, most first and 1 last: as many as vector registers hold the sums of. The threads of a
    ``pool`` share the panels.
    """
    handler = begin_handler(name, (3, 2), (2,), pool)
    build = handler.build
    weights, (panels, blocks, _) = handler.arguments[0]
    (inputs, (rows, width)), (outputs, (_, of_row)) = handler.arguments[1], handler.results[0]
    panel_bytes = build.mul(blocks, build.int64(E4M3.block_bytes))

    def multiply(build: CodeBuilder, panel: ir.Value, given: tuple[ir.Value, ...]) -> None:
        weights, panel_bytes, blocks, inputs, rows, width, outputs, of_row = given
        there, row_bytes = build.at(weights, build.mul(panel, panel_bytes)), build.mul(width, build.int64(4))
        start = build.int64(0)
        for together in rows_at_once:
            with build.counting(start, rows, together) as row:
                of_rows = [build.add(row, build.int64(index)) for index in range(together)]
                places = [build.at(inputs, build.mul(index, row_bytes)) for index in of_rows]
                for index, total in zip(of_rows, _panel_sums(build, there, blocks, places), strict=True):
                    place = build.add(build.mul(index, of_row), build.mul(panel, build.int64(OUTPUTS)))
                    build.write(total, build.at(outputs, build.mul(place, build.int64(4))))
            start = build.mul(build.sdiv(rows, build.int64(together)), build.int64(together))

    work = build.mul(build.mul(panels, panel_bytes), rows)
    given = (weights, panel_bytes, blocks, inputs, rows, width, outputs, of_row)
    share_out(handler, panels, work, given, multiply)
    return handler.text()


def _panel_sums(build: CodeBuilder, panel: ir.Value, blocks: ir.Value, rows: list[ir.Value]) -> list[ir.Value]:
    """Sixteen outputs of some rows of inputs, float32 [16] each."""
    totals = [_zeros(build) for _ in rows]
    with build.counting(build.int64(0), blocks) as block:
        here = build.at(panel, build.mul(block, build.int64(E4M3.block_bytes)))
        first = build.mul(block, build.int64(4 * E4M3.inputs))
        sums = [[_zeros(build) for _ in range(_SUMS)] for _ in rows]
        with build.counting(build.int64(0), build.int64(E4M3.inputs), _SUMS) as index:
            levels = build.at(here, build.mul(index, build.int64(OUTPUTS)))
            at = build.add(first, build.mul(index, build.int64(4)))
            for place in range(_SUMS):
                weight = _widened(build, build.at(levels, OUTPUTS * place))
                for row, of_row in zip(rows, sums, strict=True):
                    value = build.splat(build.read(build.at(row, at, 4 * place), F32), FLOATS)
                    added = build.multiply_add(weight, value, build.load(of_row[place], typ=FLOATS))
                    build.store(added, of_row[place])
        scales = build.read(build.at(here, OUTPUTS * E4M3.inputs), FLOATS)
        scales = build.fmul(scales, constant(FLOATS, _TOO_SMALL))
        for total, of_row in zip(totals, sums, strict=True):
            one, two, three, four = (build.load(each, typ=FLOATS) for each in of_row)
            whole = build.fadd(build.fadd(one, two), build.fadd(three, four))
            build.store(build.multiply_add(whole, scales, build.load(total, typ=FLOATS)), total)
    return [build.load(total, typ=FLOATS) for total in totals]


def _zeros(build: CodeBuilder) -> ir.Value:
    place = build.alloca_at_entry(FLOATS)
    build.store(constant(FLOATS, 0.0), place)
    return place


def _widened(build: CodeBuilder, place: ir.Value) -> ir.Value:
    """Sixteen numbers, ``_TOO_SMALL`` times smaller; what is none isn't told here but by its block's scale."""
    wide = build.shl(build.sext(build.read(place, _BYTES), _SHORTS), constant(_SHORTS, 7))
    bits = build.and_(wide, constant(_SHORTS, _ALL_BUT_EXPONENTS_FIRST))
    return build.fpext(build.bitcast(bits, HALVES), FLOATS)
