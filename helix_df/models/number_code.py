"""Machine code of products with matrices of numbers; those of 16 bits are widened as they are read.

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
    I32,
    INTS,
    LANES,
    POINTER,
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

_BESIDE = 2
"""Panels that are read side by side for few rows: one stream from memory leaves a core waiting."""

_LINE, _AHEAD = 64, 1024
"""Bytes of a line of the cache, and how far ahead of what is multiplied the next ones are asked for."""

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

    def multiply(build: CodeBuilder, pair: ir.Value, given: tuple[ir.Value, ...]) -> None:
        _multiply(build, kind, rows_at_once, build.mul(pair, build.int64(_BESIDE)), _BESIDE, given)

    given = (weights, panel_bytes, width, inputs, rows, outputs, of_row)
    pairs = build.udiv(panels, build.int64(_BESIDE))
    share_out(handler, pairs, build.mul(build.mul(panels, panel_bytes), rows), given, multiply)
    with build.counting(build.mul(pairs, build.int64(_BESIDE)), panels) as panel:
        _multiply(build, kind, rows_at_once, panel, 1, given)
    return handler.text()


def _multiply(
    build: CodeBuilder,
    kind: Number,
    rows_at_once: tuple[int, ...],
    panel: ir.Value,
    beside: int,
    given: tuple[ir.Value, ...],
) -> None:
    """All rows of inputs times so many panels from one on."""
    weights, panel_bytes, width, inputs, rows, outputs, of_row = given
    row_bytes, start = build.mul(width, build.int64(4)), build.int64(0)
    panels = [build.add(panel, build.int64(index)) for index in range(beside)]
    for together in rows_at_once:
        with build.counting(start, rows, together) as row:
            of_rows = [build.add(row, build.int64(index)) for index in range(together)]
            places = [build.at(inputs, build.mul(index, row_bytes)) for index in of_rows]
            # As many as registers hold the sums of: read side by side where rows are few, else one after the other.
            few = together * beside <= rows_at_once[0]
            for some in [panels] if few else [[one] for one in panels]:
                there = [build.at(weights, build.mul(one, panel_bytes)) for one in some]
                for one, of_panel in zip(some, _sums(build, kind, there, width, places), strict=True):
                    for index, sums in zip(of_rows, of_panel, strict=True):
                        place = build.add(build.mul(index, of_row), build.mul(one, build.int64(PANEL)))
                        at = build.at(outputs, build.mul(place, build.int64(4)))
                        for number, total in enumerate(sums):
                            build.write(total, build.at(at, 4 * LANES * number))
        start = build.mul(build.sdiv(rows, build.int64(together)), build.int64(together))


def _sums(
    build: CodeBuilder, kind: Number, panels: list[ir.Value], width: ir.Value, rows: list[ir.Value]
) -> list[list[list[ir.Value]]]:
    """Each panel's outputs of some rows of inputs, as vectors."""
    totals = [[[build.alloca_at_entry(FLOATS) for _ in range(_VECTORS)] for _ in rows] for _ in panels]
    for total in (total for of_panel in totals for of_row in of_panel for total in of_row):
        build.store(constant(FLOATS, 0.0), total)
    with build.counting(build.int64(0), width) as index:
        values = [build.splat(build.read(build.at(row, build.mul(index, build.int64(4))), F32), FLOATS) for row in rows]
        for panel, of_panel in zip(panels, totals, strict=True):
            here = build.at(panel, build.mul(index, build.int64(_BYTES[kind] * PANEL)))
            for line in range(0, _BYTES[kind] * PANEL, _LINE):
                _prefetch(build, build.at(here, _AHEAD + line))
            weights = [
                _widened(build, kind, build.at(here, _BYTES[kind] * LANES * number)) for number in range(_VECTORS)
            ]
            for value, of_row in zip(values, of_panel, strict=True):
                for weight, total in zip(weights, of_row, strict=True):
                    build.store(build.multiply_add(weight, value, build.load(total, typ=FLOATS)), total)
    return [[[build.load(total, typ=FLOATS) for total in of_row] for of_row in of_panel] for of_panel in totals]


def _prefetch(build: CodeBuilder, place: ir.Value) -> None:
    """Have a line on its way to the cache, as it is to be read and used again; beyond the end it does nothing."""
    name, kind = "llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
    known = build.module.globals.get(name) or ir.Function(build.module, kind, name)
    build.call(known, [place, *(ir.Constant(I32, number) for number in (0, 3, 1))])


def _widened(build: CodeBuilder, kind: Number, place: ir.Value) -> ir.Value:
    if kind == "float32":
        return build.read(place, FLOATS)
    if kind == "float16":
        return build.fpext(build.read(place, HALVES), FLOATS)
    # A bfloat16 is the upper half of a float32.
    wide = build.shl(build.zext(build.read(place, _SHORTS), INTS), constant(INTS, 16))
    return build.bitcast(wide, FLOATS)
