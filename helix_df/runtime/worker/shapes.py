"""The padded shapes that passes run in: few, so that few programs are compiled.

Owns which there are, in which order they are needed, and which one a pass takes. Those that nobody is served without
are known before anybody asks. Passes that mix decode steps with a piece of a prompt have shapes of their own, which are
compiled when they have been asked for often enough (``ASKED``): until then, both run apart. Knows steps by their sizes
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helix_df.rules.speculation import MOST_DRAFTS
from helix_df.runtime.worker.buckets import bucket_for, bucket_sizes

_SMALLEST_PREFILL = 16
_SMALLEST_CONTEXT_PAGES = 8
ASKED = 16
"""Passes of one shape that mix, from which on it is worth its compiling."""

ASKED_DRAFTED = 4
"""Passes of one shape with drafts, from which on it is worth its compiling: until then, steps run without theirs."""

_MOST_LOGITS = 256
"""Rows of the vocabulary that are there together when drafts are verified."""

_MOST_FILLED = 2
"""Times the tokens of decode steps that their shape may have: beyond, those without drafts run on their own."""

_FEWEST_BESIDE = 4
"""Decode steps beside a piece of a prompt: so many rows take as long as one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """``rows`` requests of ``tokens`` tokens each, with ``pages`` pages of context.

    With ``steps``, so many decode steps run in the same pass. Of one that is ``drafted`` the tokens are decode steps
    with drafts, and there are logits for each of them.
    """

    rows: int
    tokens: int
    pages: int
    steps: int = 0
    drafted: bool = False

    @property
    def decodes(self) -> Shape:
        """That of the decode steps in the same pass."""
        return Shape(self.steps, 1, self.pages)


class ShapePlan:
    """All shapes of one engine.

    Args:
        pages_for: pages that hold so many tokens.
        max_batch: most decode steps in a pass.
        max_context: most tokens of a request.
        max_prefill: most prompt tokens in a pass.
        pages_at_once: see ``attend_in_pages``. With stretches, the shape of a pass is the same for all contexts.
        drafts: most drafts of a decode step that are to be expected; shapes for them come last.
    """

    def __init__(
        self,
        pages_for: Callable[[int], int],
        max_batch: int,
        max_context: int,
        max_prefill: int,
        pages_at_once: int | None,
        drafts: int = 0,
    ) -> None:
        self.pages_for = pages_for
        self.draft_rows = bucket_sizes(1, max_batch, ratio=4)
        self.draft_columns = bucket_sizes(2, 1 + MOST_DRAFTS)
        self.batch_sizes = bucket_sizes(1, max_batch)
        self.prefill_sizes = bucket_sizes(_SMALLEST_PREFILL, max(max_prefill, _SMALLEST_PREFILL))
        most = pages_for(max_context)
        self.decode_pages = bucket_sizes(_SMALLEST_CONTEXT_PAGES, most)
        self.prefill_pages = bucket_sizes(_SMALLEST_CONTEXT_PAGES, most, ratio=4)
        if pages_at_once is not None:
            self.decode_pages = self.prefill_pages = (-(-most // pages_at_once) * pages_at_once,)
        # Of passes that mix there are many: where shapes depend on contexts, padding costs less than more of them.
        self.beside_sizes = bucket_sizes(_FEWEST_BESIDE, max_batch, ratio=4)
        ratio = 4 if pages_at_once is None else 2
        self.riding_sizes = bucket_sizes(_SMALLEST_PREFILL, self.prefill_sizes[-1], ratio)
        self.in_order, self.num_first = self._in_order()
        self.in_order += self._drafted(drafts)

    def apart(self, rows: int, tokens: int, longest: int) -> Shape:
        """For ``rows`` steps of ``tokens`` tokens each; ``longest`` is the longest context, these included."""
        if tokens == 1:
            pages = bucket_for(self.pages_for(longest), self.decode_pages)
            return Shape(bucket_for(rows, self.batch_sizes), 1, pages)
        columns, pages = bucket_for(tokens, self.prefill_sizes), bucket_for(self.pages_for(longest), self.prefill_pages)
        return Shape(bucket_for(rows, self.batch_sizes), columns, pages)

    def mixed(self, steps: int, tokens: int, longest: int) -> Shape | None:
        """For decode steps and a piece of a prompt in one pass; none where the piece is too long for any."""
        if tokens > self.riding_sizes[-1]:
            return None
        pages = bucket_for(self.pages_for(longest), self.prefill_pages)
        return Shape(1, bucket_for(tokens, self.riding_sizes), pages, bucket_for(steps, self.beside_sizes))

    def drafted(self, rows: int, tokens: int, longest: int) -> Shape:
        """For ``rows`` decode steps of ``tokens`` tokens at most, drafts included."""
        pages = bucket_for(self.pages_for(longest), self.decode_pages)
        return Shape(bucket_for(rows, self.draft_rows), bucket_for(tokens, self.draft_columns), pages, drafted=True)

    def drafted_rows(self, tokens: int) -> int:
        """Decode steps of ``tokens`` tokens that run in a pass: of each token there are logits at the same time."""
        return max(1, min(self.batch_sizes[-1], _MOST_LOGITS // bucket_for(tokens, self.draft_columns)))

    def is_filled(self, rows: int, tokens: int, real: int) -> bool:
        """Whether decode steps of up to ``tokens`` tokens, ``real`` in all, run together: what fills their shape up
        costs as much as tokens do, and reading the weights once more costs as much as a few."""
        padded = bucket_for(rows, self.batch_sizes) * bucket_for(tokens, self.draft_columns)
        return padded <= _MOST_FILLED * real

    def words(self, shape: Shape) -> str:
        """A shape for people."""
        context = f", {shape.pages} pages of context" if len(self.decode_pages) > 1 else ""
        return f"{shape.rows} x {shape.tokens} tokens{context}"

    def _drafted(self, drafts: int) -> list[Shape]:
        """Those of decode steps with up to so many drafts."""
        if not drafts:
            return []
        most = bucket_for(1 + drafts, self.draft_columns)
        columns = [count for count in self.draft_columns if count <= most]
        return [
            Shape(rows, count, pages, drafted=True)
            for pages in self.decode_pages
            for rows in self.draft_rows
            for count in columns
            if rows <= self.drafted_rows(count)
        ]

    def _in_order(self) -> tuple[list[Shape], int]:
        """Every shape but those that mix, in order of need, and how many make a first short request."""
        decode = [Shape(rows, 1, pages) for pages in self.decode_pages for rows in self.batch_sizes]
        most = self.prefill_pages[-1]
        prefill = [
            Shape(1, tokens, pages)
            for pages in self.prefill_pages
            for tokens in self.prefill_sizes
            if pages >= min(self.pages_for(tokens), most)
        ]
        # A longer prompt runs in several passes of the shortest, until there is more.
        first = [decode[0], min(prefill, key=lambda shape: (shape.tokens, shape.pages))]
        rest = sorted((s for s in decode + prefill if s not in first), key=lambda s: (s.pages, s.rows, s.tokens))
        return first + rest, len(first)
