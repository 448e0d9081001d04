"""Events of a job's machines as lines. Owns their words; doesn't read files or find jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helix_df.runtime.wire.event_log import LoggedEvent, RecordedLog

MOST_ITEMS = 8
"""Of a list, such as a prompt's tokens, that a line shows."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    "submit": ("request", "prompt", "max_tokens", "sampling", "stop_ids"),
    "cancel": ("request",),
    "exit": ("node", "words"),
}
"""Names of the values of events that aren't messages; those of messages are their fields."""


def event_lines(logs: Mapping[str, RecordedLog], request: str | None, tail: int, as_json: bool) -> Iterator[str]:
    """The last ``tail`` events of several logs (0: all) in the order of their times, or those of one request."""
    found = [
        (log.started + event.at_s - log.clock_s, event.number, name, event)
        for name, log in logs.items()
        for event in log.events
        if request is None or concerns(event.values, request)
    ]
    for at_s, _, name, event in sorted(found, key=lambda one: one[:3])[-tail if tail else 0 :]:
        yield _json(at_s, name, event) if as_json else _words(at_s, name, event)


def concerns(value: object, request: str) -> bool:
    """Whether a request, one of its attempts or one of its answers is named in a value."""
    if isinstance(value, str):
        return value == request or value.startswith((f"{request}/", f"{request}-"))
    return isinstance(value, Sequence) and any(concerns(item, request) for item in value)


def _json(at_s: float, name: str, event: LoggedEvent) -> str:
    document = {"time": at_s, "log": name, "number": event.number, "event": event.name, "values": event.values}
    return json.dumps(document, ensure_ascii=False)


def _words(at_s: float, name: str, event: LoggedEvent) -> str:
    time = datetime.fromtimestamp(at_s).isoformat(" ", "milliseconds")
    return f"{time} {name} #{event.number} {' '.join([event.name, *_values(event)])}"


def _values(event: LoggedEvent) -> Iterator[str]:
    from helix_df.runtime.wire.framing import field_names

    names = _NAMES.get(event.name) or field_names(event.name)
    for at, value in enumerate(event.values):
        yield f"{names[at]}={_short(value)}" if at < len(names) else _short(value)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        more = f", … {len(value)} in all" if len(value) > MOST_ITEMS else ""
        return f"[{', '.join(_short(item) for item in value[:MOST_ITEMS])}{more}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return str(value)
