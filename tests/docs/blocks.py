"""What the documentation tells people to do: fenced blocks with how they are tested, and commands between backticks.

A block is run in a folder of its page unless the line before its fence says otherwise:

    <!-- test: slow -->               it takes long; run with the slow tests
    <!-- test: job -->                it needs the quickstart running; with the slow tests, too
    <!-- test: not run: REASON -->    it can't run here; its helix-df commands are still parsed
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

Kind = Literal["fast", "slow", "job", "not run"]

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<how>slow|job|not run: [^\n]{8,}) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.M | re.S,
)
_INLINE = re.compile(r"`(helix-df [a-z][^`]*)`")
_COMMENT = re.compile(r"(^|\s)#.*$", re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page: its language, its text and how it is tested."""

    page: Path
    line: int
    language: str
    text: str
    kind: Kind

    @property
    def commands(self) -> list[str]:
        """The shell commands: every line of `sh`, and of a transcript those after a dollar sign."""
        text = _COMMENT.sub("", self.text.replace("\\\n", " "))
        if self.language == "sh":
            return [line.strip() for line in text.splitlines() if line.strip()]
        if self.language == "":
            return [line.removeprefix("$ ").strip() for line in text.splitlines() if line.startswith("$ ")]
        return []

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("text")), found["language"], found["text"], _kind(found["how"]))
        for found in _BLOCK.finditer(text)
    ]


def inline_commands(page: Path) -> list[str]:
    """The helix-df commands between backticks of a page's prose."""
    prose = _BLOCK.sub("", page.read_text("utf-8"))
    return [" ".join(found.split()) for found in _INLINE.findall(prose)]


def _kind(how: str | None) -> Kind:
    match how:
        case None:
            return "fast"
        case "slow" | "job":
            return how
        case _:
            return "not run"
