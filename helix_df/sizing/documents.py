"""A sizing as data: the answer as JSON, and the fleet as a job file.

Owns the shape of both. Doesn't search.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import yaml

from helix_df.sizing.answer import CheapestOf, SizedFleet, Sizing

_HEAD = """\
# Chosen by `helix-df size`: {fleet}, {cost:,.2f} an hour, for {rate:g} requests/s.
# Nodes without an address are started on this machine: give those of others theirs (nodes.NAME.address).
"""


def sizing_document(sizing: Sizing) -> dict[str, Any]:
    """The answer as a JSON document; costs are an hour's, flows in tokens/s."""
    return {
        "format": "helix-df-sizing",
        "version": 1,
        "job": sizing.job.name,
        "rate": sizing.rate,
        "needed_flow": sizing.needed_flow,
        "judged_by": sizing.judged_by,
        "cheapest": _cheapest(sizing.cheapest),
        "alternatives": [_cheapest(one) for one in sizing.alternatives],
        "losses": [asdict(one) for one in sizing.losses],
    }


def _cheapest(found: CheapestOf) -> dict[str, Any]:
    return {
        "offers": list(found.offers),
        "fleet": None if found.fleet is None else _fleet(found.fleet),
        "lower_bound": found.lower_bound,
        "ending": found.ending,
        "judged": found.judged,
        "undecided": [{"fleet": fleet, "why": why} for fleet, why in found.undecided],
        "seconds": found.seconds,
    }


def _fleet(fleet: SizedFleet) -> dict[str, Any]:
    prediction = None if fleet.prediction is None else asdict(fleet.prediction)
    plain = None if prediction is None else {name: None if math.isnan(v) else v for name, v in prediction.items()}
    return {"counts": fleet.counts, "cost": fleet.cost, "flow": fleet.flow, "prediction": plain}


def fleet_yaml(sizing: Sizing) -> str:
    """A job file with the fleet's nodes, and all else that the job says."""
    document = sizing.job.model_dump(mode="json", exclude_unset=True)
    document.pop("offers", None)
    head = _HEAD.format(fleet=sizing.fleet, cost=sizing.fleet.cost, rate=sizing.rate)
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
