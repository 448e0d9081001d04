"""How much to rent: the cheapest fleet of a job's offers that serves its rate, with a lower bound on what any costs."""

from __future__ import annotations

from helix_df.sizing.answer import CheapestOf, SizedFleet, Sizing, cheapest_of, size
from helix_df.sizing.curve import CostCurve, CostPoint, cost_curve
from helix_df.sizing.documents import fleet_yaml, sizing_document
from helix_df.sizing.search import Effort

__all__ = [
    "CheapestOf",
    "CostCurve",
    "CostPoint",
    "Effort",
    "SizedFleet",
    "Sizing",
    "cheapest_of",
    "cost_curve",
    "fleet_yaml",
    "size",
    "sizing_document",
]
