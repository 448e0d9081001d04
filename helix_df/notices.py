"""Word of what takes long once, for whoever shows it to users; nobody listens in a library."""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """Hear every notice from now on, a sentence each, on the thread that it is of."""
    _listeners.append(listener)


def tell(sentence: str) -> None:
    """Tell whoever listens."""
    for listener in _listeners:
        listener(sentence)
