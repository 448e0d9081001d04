"""Machine code of products with matrices of 16-bit numbers, which are widened as they are read.

Owns the arithmetic: float32 throughout. A matrix lies in panels of 64 outputs (``models.linear``), whose numbers for
one input stand beside each other in four vectors; up to four rows of inputs share one reading of the weights.
"""

from __future__ import annotations

from typing import Literal

from llvmlite import ir

from helix_df.models.machine_code import (
    F32,
    FLOATS,
    HALVES,
    I16,
    INTS,
    LANES,
    CodeBuilder,
    Pool,
    begin_handler,
    constant,
    share_out,
)

Number = Literal["float32", "bfloat16", "float16"]
_BYTES: dict[Number, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

PANEL = 64
"""Outputs beside each other."""

_VECTORS = PANEL // LANES
_SHORTS = ir.VectorType(I16, LANES)


def number_source(name: str, kind: Number, rows_at_once: tuple[int, ...], pool: Pool | None = None) -> str:
    """A module with the handler ``name``, as text.

    Arguments: numbers of ``kind`` [out / 64, in, 64], float32 [rows, in]. Result: float32 [rows, out].
    ``rows_at_once``, most first and 1 last: as many as vector registers hold the sums of. The threads of a ``pool``
    share the panels.
    """
    handler = begin_handler(name, (3, 2), (2,), pool)
    build = handler.build
    (weights, (panels, width, _)), (inputs, (rows, _)), (outputs, (_, of_row)) = (*handler.arguments, *handler.results)
    panel_bytes = build.mul(width, build.int64(_BYTES[kind] * PANEL))

    def multiply(build: CodeBuilder, panel: ir.Value, given: tuple[ir.Value, ...]) -> None:
        weights, panel_bytes, width, inputs, rows, outputs, of_row = given
        there, row_bytes = build.at(weights, build.mul(panel, panel_bytes)), build.mul(width, build.int64(4))
        start = build.int64(0)
        for together in rows_at_once:
            with build.counting(start, rows, together) as row:
                of_rows = [build.add(row, build.int64(index)) for index in range(together)]
                places = [build.at(inputs, build.mul(index, row_bytes)) for index in of_rows]
                for index, sums in zip(of_rows, _sums(build, kind, there, width, places), strict=True):
                    place = build.add(build.mul(index, of_row), build.mul(panel, build.int64(PANEL)))
                    at = build.at(outputs, build.mul(place, build.int64(4)))
                    for number, total in enumerate(sums):
                        build.write(total, build.at(at, 4 * LANES * number))
            start = build.mul(build.sdiv(rows, build.int64(together)), build.int64(together))

    work = build.mul(build.mul(panels, panel_bytes), rows)
    share_out(handler, panels, work, (weights, panel_bytes, width, inputs, rows, outputs, of_row), multiply)
    return handler.text()


def _sums(
    build: CodeBuilder, kind: Number, panel: ir.Value, width: ir.Value, rows: list[ir.Value]
) -> list[list[ir.Value]]:
    """A panel's outputs of some rows of inputs, as vectors."""
    totals = [[build.alloca_at_entry(FLOATS) for _ in range(_VECTORS)] for _ in rows]
    for total in (total for of_row in totals for total in of_row):
        build.store(constant(FLOATS, 0.0), total)
    with build.counting(build.int64(0), width) as index:
        here = build.at(panel, build.mul(index, build.int64(_BYTES[kind] * PANEL)))
        weights = [_widened(build, kind, build.at(here, _BYTES[kind] * LANES * number)) for number in range(_VECTORS)]
        for row, of_row in zip(rows, totals, strict=True):
            value = build.splat(build.read(build.at(row, build.mul(index, build.int64(4))), F32), FLOATS)
            for weight, total in zip(weights, of_row, strict=True):
                build.store(build.multiply_add(weight, value, build.load(total, typ=FLOATS)), total)
    return [[build.load(total, typ=FLOATS) for total in of_row] for of_row in totals]


def _widened(build: CodeBuilder, kind: Number, place: ir.Value) -> ir.Value:
    if kind == "float32":
        return build.read(place, FLOATS)
    if kind == "float16":
        return build.fpext(build.read(place, HALVES), FLOATS)
    # A bfloat16 is the upper half of a float32.
    wide = build.shl(build.zext(build.read(place, _SHORTS), INTS), constant(INTS, 16))
    return build.bitcast(wide, FLOATS)
