"""Draw the state machines in docs/architecture.md from their tables: python scripts/draw_machines.py"""

from __future__ import annotations

import re
from pathlib import Path

from helix_df.runtime.coordinator.nodes_state import NODE
from helix_df.runtime.coordinator.request import REQUEST
from helix_df.runtime.worker.state import HELD

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"


def main() -> None:
    """Replace the page's drawings, which stand in this order."""
    drawings = iter([REQUEST.mermaid(), NODE.mermaid(), HELD.mermaid()])
    page = PAGE.read_text("utf-8")
    drawn = re.sub(r"```mermaid\n.*?\n```", lambda _: f"```mermaid\n{next(drawings)}\n```", page, flags=re.S)
    PAGE.write_text(drawn, "utf-8")


if __name__ == "__main__":
    main()
