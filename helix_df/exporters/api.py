"""What an export is: commands for every machine, the facts in them, and what to know before running them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """What to run on one host, and for which nodes of the plan; arguments are quoted for a POSIX shell."""

    host: str
    nodes: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Export:
    """A plan in another system's words.

    ``facts`` are the values that carry the plan (a partition, a split, layers by node), for programs to read; ``notes``
    say what the target does otherwise than the plan, or what the reader must fill in.
    """

    target: str
    commands: tuple[Command, ...]
    facts: Mapping[str, object]
    notes: tuple[str, ...]

    def script(self) -> str:
        """The commands with their hosts and the notes as comments."""
        # A line break in a model's path must not end the comment.
        lines = [f"# {' '.join(note.split())}" for note in self.notes]
        for command in self.commands:
            nodes = f" ({', '.join(command.nodes)})" if command.nodes else ""
            lines += ["", f"# on {command.host}{nodes}", command.text]
        return "\n".join(lines).strip() + "\n"
