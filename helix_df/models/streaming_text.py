"""Text as it is generated: whole characters only, and nothing that may turn out to be a stop string.

Owns what can be shown yet. Doesn't know where tokens come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_MOST_INCOMPLETE_BYTES = 3


class StreamDecoder:
    """Decodes token by token. The pieces joined are the decoding of all tokens at once.

    A piece never ends inside a UTF-8 character: up to three trailing U+FFFD wait, because more bytes may complete
    them. Only a window of tokens is decoded again each time, from the last-but-one point where characters were whole.

    Some decoders read a run of single bytes as broken altogether once one in it is. What was shown of such a run stays;
    what follows is decoded on its own.

    Args:
        decode: ids to text, for example ``Tokenizer.decode``.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._whole_at = 0
        self._shown_to = 0  # tokens of the window that are shown
        self._shown = ""

    def push(self, token: int) -> str:
        """The text that ``token`` completes; often a word, sometimes nothing yet."""
        self._window.append(token)
        if not self._agrees():
            now = self._decode(self._window)
            rest = len(self._window) - self._shown_to
            if now.endswith(_BROKEN) and rest <= _MOST_INCOMPLETE_BYTES:
                return ""  # more bytes may make the run whole again
            self._part_window()
        return self._next_piece()

    def finish(self) -> str:
        """What is left at the end, broken characters included."""
        if not self._agrees():
            self._part_window()
        return self._decode(self._window)[len(self._shown) :]

    def _agrees(self) -> bool:
        """Whether the window still reads as what was shown of it, and more."""
        return self._decode(self._window).startswith(self._shown)

    def _part_window(self) -> None:
        """Leave what was shown as it is, and decode the rest on its own."""
        self._window = self._window[self._shown_to :]
        self._whole_at, self._shown_to, self._shown = 0, 0, ""

    def _next_piece(self) -> str:
        now = self._decode(self._window)
        broken = len(now) - len(now.rstrip(_BROKEN))
        held = min(broken, _MOST_INCOMPLETE_BYTES)
        stable = now[: len(now) - held]
        if not stable.startswith(self._shown):
            return ""
        piece = stable[len(self._shown) :]
        self._shown = stable
        if piece:
            self._shown_to = len(self._window) - held
        if piece and not broken:
            self._move_window()
        return piece

    def _move_window(self) -> None:
        """Begin at the previous whole point; what lies between it and now is context for what comes."""
        self._window = self._window[self._whole_at :]
        self._whole_at = self._shown_to = len(self._window)
        self._shown = self._decode(self._window)


@dataclass(frozen=True, slots=True)
class StopRule:
    """What ends an answer besides the model: ``texts``, looked for in what comes after its first ``after`` tokens.

    The text that ends it is the last of it if ``included``, else no part of it.
    """

    texts: tuple[str, ...] = ()
    included: bool = False
    after: int = 0


class StopMatcher:
    """Lets text through up to the first stop string, however the text is cut into pieces.

    The stop string that is complete first wins; of two that end together, the longer one. Neither it nor anything
    after it is let through.

    Args:
        stops: the stop strings; empty ones are ignored.
        included: whether the one that ends the text is let through.
    """

    def __init__(self, stops: Sequence[str], *, included: bool = False) -> None:
        self._included = included
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """What can be shown of the text so far. Sets ``stopped`` and ``matched`` when a stop string is complete."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, at, self.matched = min(found)
            self.stopped, self._held = True, ""
            return text[: end if self._included else at]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
