"""What users are told about the speeds that their jobs declare.

Owns that each sentence is told once. Doesn't know what there is to say (``graph.speed_notices``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helix_df.spec.job import Job


def tell_speeds(jobs: Iterable[Job]) -> None:
    """Tell on stderr where declared speeds contradict measured curves, and what is assumed of them."""
    from helix_df.cli.console import messages
    from helix_df.graph.speed_notices import speed_notices

    console = messages()
    for sentence in dict.fromkeys(sentence for job in jobs for sentence in speed_notices(job)):
        console.print(f"note: {sentence}", soft_wrap=True)
