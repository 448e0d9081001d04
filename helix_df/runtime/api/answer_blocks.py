"""An answer as blocks, for endpoints whose answers are lists of what was thought, said and called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from helix_df.models.answer_formats.api import CallArguments, CallStart, Content, Part
from helix_df.runtime.api.answer_reading import AnswerEnd
from helix_df.runtime.api.text_pieces import TextPiece

BlockKind = Literal["said", "thought", "called"]


@dataclass(slots=True)
class AnswerBlock:
    """A block of an answer as it grows: ``text`` is what is said, thought, or given to the tool of this ``name``, whose
    call has this number in the answer."""

    kind: BlockKind
    text: str = ""
    name: str = ""
    call: int = 0


@dataclass(slots=True)
class AnswerBlocks:
    """All blocks of one answer, and what is counted beside them. ``finish`` says why it ended, ``stop_text`` at which
    stop string, if at one."""

    blocks: list[AnswerBlock] = field(default_factory=list)
    output_tokens: int = 0
    thought_tokens: int = 0
    cached_tokens: int = 0
    finish: AnswerEnd | None = None
    stop_text: str | None = None
    calls: int = 0

    def add(self, piece: TextPiece) -> Iterator[tuple[AnswerBlock, str]]:
        """Take in the next piece: the blocks that grow by it, with what they grow by; a new one begins with nothing."""
        self.output_tokens += len(piece.token_ids)
        self.cached_tokens += piece.cached_tokens
        self.finish, self.stop_text = piece.finish_reason, piece.stop_text
        for part in piece.told:
            yield from self._grown(part)
        if self.blocks and self.blocks[-1].kind == "thought":
            self.thought_tokens += len(piece.token_ids)

    def _grown(self, part: Part) -> Iterator[tuple[AnswerBlock, str]]:
        if isinstance(part, CallStart):
            yield from self._opened(AnswerBlock("called", name=part.name, call=part.index))
            self.calls += 1
            return
        kind: BlockKind = (
            "called" if isinstance(part, CallArguments) else "said" if isinstance(part, Content) else "thought"
        )
        if not self.blocks or self.blocks[-1].kind != kind:
            yield from self._opened(AnswerBlock(kind))
        self.blocks[-1].text += part.text
        yield self.blocks[-1], part.text

    def _opened(self, block: AnswerBlock) -> Iterator[tuple[AnswerBlock, str]]:
        self.blocks.append(block)
        yield block, ""
