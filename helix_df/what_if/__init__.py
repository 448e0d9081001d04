"""What if: another cluster or another load, planned and simulated beside what there is."""

from __future__ import annotations

from helix_df.what_if.changes import AddNodes, Change, RemoveNode, SetLink, SetRate, changed
from helix_df.what_if.compare import ComparisonRow, Simulated, Variant, compare, row_of
from helix_df.what_if.replan import keep_placement, replan
from helix_df.what_if.variants import WhatIf, find_variants

__all__ = [
    "AddNodes",
    "Change",
    "ComparisonRow",
    "RemoveNode",
    "SetLink",
    "SetRate",
    "Simulated",
    "Variant",
    "WhatIf",
    "changed",
    "compare",
    "find_variants",
    "keep_placement",
    "replan",
    "row_of",
]
