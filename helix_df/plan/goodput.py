"""What a plan generates in simulation, and the bound that no placement, routing and serving rules exceed.

Owns the claim and its check. Doesn't know how prices are found (``graph.goodput_prices``) or what simulates.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from helix_df.graph.compile import origin_of
from helix_df.graph.goodput_bound import FlightPrices, ServingCluster, TimingOf, serving_cluster
from helix_df.graph.goodput_prices import find_flight_prices
from helix_df.graph.problem import NodeProfile, Problem
from helix_df.graph.serving_load import ServingLoad
from helix_df.graph.stage_timing import TIMINGS, TimingChoice, node_timing
from helix_df.profiles.kv_windows import shape_in_a_row
from helix_df.profiles.timing import LayerTiming
from helix_df.spec.job import Job

CLAIM = 1e-9
"""Share by which a claimed bound may be below what its witness proves, for rounding."""

SAME_LENGTHS = 0.02
"""Share by which mean lengths of the simulated requests may differ from the job's: whole tokens are no exact shares."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Generated tokens/s of a plan in simulation, of which requests, and by which seconds of passes."""

    tokens_per_s: float
    load: ServingLoad
    timing: TimingChoice


@dataclass(frozen=True, slots=True)
class GoodputCertificate:
    """What a plan generates when requests never run out, and a bound on it for any placement, routing and rules.

    ``witness.evaluate`` of the job's cluster under ``generated.load`` is at most ``bound``, in generated tokens/s.
    """

    generated: Generated
    kind: str
    bound: float
    witness: FlightPrices

    @property
    def gap(self) -> float:
        """``(bound − generated) / bound``: the share of the bound that the plan might still miss."""
        return max(0.0, self.bound - self.generated.tokens_per_s) / self.bound if self.bound > 0 else 0.0


def timing_of(job: Job, problem: Problem, choice: TimingChoice) -> TimingOf:
    """Seconds of a layer on any node of a job with any number of layers, as the simulator has them.

    Where some layers have a window, those of so many in a row that see least: no others are faster.
    """
    origin = problem.origin or origin_of(job)
    geometry, windows = origin.geometry, origin.geometry.attention.windows

    def timing(node: NodeProfile, layers: int) -> LayerTiming:
        kv_tokens, shape = node.kv_tokens[layers - 1], shape_in_a_row(windows, layers, fewest=True)
        return node_timing(job, geometry, origin.requests, node.name, layers, kv_tokens, choice, shape)

    return timing


def certify(job: Job, problem: Problem, generated: Generated) -> GoodputCertificate | None:
    """The claim with the lowest bound that prices are found for; ``None`` where none are."""
    cluster = _cluster(job, problem, generated)
    prices = find_flight_prices(cluster)
    return None if prices is None else GoodputCertificate(generated, prices.kind, prices.evaluate(cluster), prices)


def goodput_violations(job: Job, problem: Problem, claim: GoodputCertificate) -> list[str]:
    """Everything that is wrong with the claim, in words, but for what it says of the simulation."""
    if claim.kind != FlightPrices.kind:
        return [f"the goodput's bound is of the kind {claim.kind!r}; kinds that can be checked: {FlightPrices.kind}"]
    wrong = _load_violations(job, problem, claim.generated)
    if wrong:
        return wrong
    bound, served = claim.bound, claim.generated.tokens_per_s
    if not math.isfinite(bound) or not 0 <= served <= bound:
        return [f"the plan claims {served} generated tokens/s under the bound {bound}"]
    proven = claim.witness.evaluate(_cluster(job, problem, claim.generated))
    if bound >= proven * (1 - CLAIM):
        return []
    proof = "none" if math.isinf(proven) else f"no less than {proven}"
    return [f"the plan claims the bound {bound} on generated tokens/s, and its witness ({claim.kind}) proves {proof}"]


def _load_violations(job: Job, problem: Problem, generated: Generated) -> list[str]:
    load, requests = generated.load, (problem.origin or origin_of(job)).requests
    if not load.is_sound:
        return [f"no requests have the figures that the goodput's bound is for: {load}"]
    if generated.timing not in TIMINGS:
        return [f"the goodput's bound is for the timing {generated.timing!r}, not one of {', '.join(TIMINGS)}"]
    means = ((load.prompt_tokens, requests.input_tokens), (load.output_tokens, requests.output_tokens))
    return [
        f"the goodput's bound is for requests of {theirs:g} mean tokens where the job's have {ours:g}"
        for theirs, ours in means
        if abs(theirs - ours) > SAME_LENGTHS * ours + 1
    ]


def _cluster(job: Job, problem: Problem, generated: Generated) -> ServingCluster:
    return serving_cluster(problem, timing_of(job, problem, generated.timing), generated.load)


def goodput_document(claim: GoodputCertificate | None) -> dict[str, Any] | None:
    """The claim for a plan file."""
    return None if claim is None else asdict(claim)


def read_goodput(document: object) -> GoodputCertificate | None:
    """The claim of a plan file; files of earlier releases have none.

    Raises:
        ValueError: for fields that don't fit.
    """
    return None if document is None else TypeAdapter(GoodputCertificate).validate_python(document)
