"""How lines of logs look: in words for people, or as a JSON object each for what collects them.

Owns the fields of such an object, and how a person reads it. Doesn't know files, or who logs what.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from contextvars import ContextVar
from typing import Any

REQUEST_ID: ContextVar[str | None] = ContextVar("helix_df_request_id", default=None)
"""Of the request that is being answered, as its answer has it in ``X-Request-Id``."""

TRACE_ID: ContextVar[str | None] = ContextVar("helix_df_trace_id", default=None)
"""Of the trace that it is a part of, if it is traced."""

LOG_FORMATS = ("text", "json")

FIELDS = "helix_df_fields"
"""The attribute of a record with further fields of its object: ``extra=fields(…)``."""

LOG_FORMAT = "--log-format"
"""Of the commands of a job's processes, with ``runtime.log_format`` behind it where that isn't ``text``."""

WORDS = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """For the ``extra`` of a line: what an object says beside its message."""
    return {FIELDS: values}


class JsonLines(logging.Formatter):
    """An object a line: time (UTC), level, role, node, logger, message; request and trace where a line concerns one.

    Args:
        role: ``coordinator``, ``worker``, ``supervisor`` or ``launcher``.
        node: of a worker.
    """

    def __init__(self, role: str, node: str | None = None) -> None:
        super().__init__()
        self._own = {"role": role} if node is None else {"role": role, "node": node}

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            **self._own,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in (("request_id", REQUEST_ID.get()), ("trace_id", TRACE_ID.get())):
            if value is not None:
                line[name] = value
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """The argument by which a process is told ``runtime.log_format``."""
    parser.add_argument(LOG_FORMAT, default="text", choices=LOG_FORMATS, help="how lines of the log look")


def formatter(log_format: str, role: str, node: str | None = None) -> logging.Formatter:
    """How a process writes its lines, by ``runtime.log_format``."""
    return JsonLines(role, node) if log_format == "json" else logging.Formatter(WORDS)


def log_arguments(log_format: str) -> list[str]:
    """What tells a process how its lines are to look; nothing where it needn't be told."""
    return [] if log_format == "text" else [LOG_FORMAT, log_format]


def in_words(line: str) -> str:
    """A line of a log as a person reads it: an object of ``JsonLines`` in words, any other as it is."""
    if not line.startswith('{"time": "'):
        return line
    try:
        found = json.loads(line)
        head = f"{found['time'][:-1].replace('T', ' ').replace('.', ',')} {found['level']} {found['logger']}"
        known = (name for name in ("request_id", "trace_id") if str(found.get(name, "")) not in found["message"])
        marks = "".join(f" [{name} {found[name]}]" for name in known)
        exception = f"\n{found['exception']}" if "exception" in found else ""
        return f"{head}: {found['message']}{marks}{exception}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
