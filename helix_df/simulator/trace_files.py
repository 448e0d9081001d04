"""A user's own trace: CSV with a header, or one JSON object a line.

Columns: ``input_tokens`` and ``output_tokens``; ``arrival_s`` in seconds from the start, without which the trace can
only be saturating; ``max_tokens`` if requests ask for more than they get. Every mistake is told with its line.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helix_df.errors import SimulationError
from helix_df.simulator.trace import Trace, TraceRequest

NEEDED = ("input_tokens", "output_tokens")
KNOWN = (*NEEDED, "arrival_s", "max_tokens")


def read_trace(path: Path, *, saturating: bool = False) -> Trace:
    """Read a trace; requests are put in order of arrival.

    Raises:
        SimulationError: with file and line of the first mistake.
    """
    rows = list(_rows(path))
    if not rows:
        raise SimulationError("the trace has no requests", where=str(path))
    timed = ["arrival_s" in row for _, row in rows]
    if not saturating and not all(timed):
        number = rows[timed.index(False)][0]
        raise SimulationError(
            "the request has no arrival_s",
            where=f"{path}:{number}",
            expected="seconds from the start",
            hint="--offline needs none",
        )
    requests = [_request(path, number, row) for number, row in rows]
    return Trace(path.name, tuple(sorted(requests, key=lambda request: request.arrival_s)), saturating)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with the number of their line."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise SimulationError("the trace can't be read", where=str(path), found=error.strerror) from error
    except UnicodeDecodeError as error:
        raise SimulationError("the trace is not text in UTF-8", where=str(path), found=str(error)) from error
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return _json_rows(path, text)
    return _csv_rows(path, text)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SimulationError("this line is not JSON", where=f"{path}:{number}", found=line[:60]) from error
        if not isinstance(row, dict):
            raise SimulationError("this line is not a JSON object", where=f"{path}:{number}", found=line[:60])
        yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(text.splitlines())
    header = next(reader, None)
    names = [name.strip() for name in header or ()]
    if header is None or not set(NEEDED) <= set(names):
        raise SimulationError(
            "the first line must name the columns",
            where=f"{path}:1",
            found=",".join(names) or "nothing",
            expected=f"at least {', '.join(NEEDED)}; also {', '.join(KNOWN[2:])}",
        )
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise SimulationError(
                f"this line has {len(cells)} columns, the first one {len(names)}", where=f"{path}:{reader.line_num}"
            )
        yield reader.line_num, {name: cell.strip() for name, cell in zip(names, cells, strict=True) if cell.strip()}


def _request(path: Path, number: int, row: Mapping[str, Any]) -> TraceRequest:
    where = f"{path}:{number}"
    inputs = _count(where, row, "input_tokens")
    outputs = _count(where, row, "output_tokens")
    most = _count(where, row, "max_tokens") if "max_tokens" in row else outputs
    if most < outputs:
        raise SimulationError("max_tokens is less than output_tokens", where=where, found=f"{most} < {outputs}")
    return TraceRequest(_seconds(where, row.get("arrival_s", 0.0)), inputs, outputs, most)


def _count(where: str, row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not number.is_integer() or number < 1:
        raise SimulationError(
            f"{name} must be a whole number above zero", where=where, found="nothing" if value is None else repr(value)
        )
    return int(number)


def _seconds(where: str, value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds < math.inf:
        raise SimulationError("arrival_s must be seconds from the start", where=where, found=repr(value))
    return seconds
