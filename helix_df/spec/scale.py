"""Which nodes a job may do without while little is asked, and when it takes them or lets them go.

Owns the section's fields, and which nodes it names. Doesn't know plans, or what is asked.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

from helix_df.spec.section import Count, Number, Section
from helix_df.spec.units import Duration


class Scale(Section):
    """Nodes that have layers only while they are needed. A job starts with all of them."""

    nodes: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1,
        description="Names of these nodes, or patterns such as `spot-*`: those named first are taken first, and let go "
        "last. Nodes that aren't named here always have layers.",
        examples=[["spot-*"]],
    )
    min: Count = Field(default=0, ge=0, description="Fewest of them that have layers at any time.")
    max: Count | None = Field(default=None, ge=1, description="Most of them; by default all.")
    queue_time: Duration = Field(
        default=1.0,
        gt=0,
        description="Target: once a request has waited longer than this for `up_after`, more nodes are taken.",
    )
    up_after: Duration = Field(default=5.0, gt=0, description="How long requests must wait too long for that.")
    down_after: Duration = Field(
        default=300.0, gt=0, description="How long fewer nodes must have been enough before some are let go."
    )
    headroom: Number = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Target: share of a plan's tokens/s that is asked for at most; once it is more, nodes are taken.",
    )
    average_over: Duration = Field(
        default=60.0, gt=0, description="Over which time what is asked for is averaged, for that."
    )

    def named(self, nodes: Collection[str]) -> tuple[str, ...]:
        """The nodes of a job that it names, in the order in which they are taken."""
        found = dict.fromkeys(
            name for pattern in self.nodes for name in nodes if name == pattern or fnmatchcase(name, pattern)
        )
        return tuple(found)
