"""What if: another cluster or another load, planned and simulated beside what there is."""

from __future__ import annotations

from helix_df.what_if.changes import AddNodes, Change, RemoveNode, SetLink, SetRate, changed
from helix_df.what_if.compare import Row, Simulated, Variant, compare, row_of
from helix_df.what_if.replan import keep_placement, replan

__all__ = [
    "AddNodes",
    "Change",
    "RemoveNode",
    "Row",
    "SetLink",
    "SetRate",
    "Simulated",
    "Variant",
    "changed",
    "compare",
    "keep_placement",
    "replan",
    "row_of",
]
