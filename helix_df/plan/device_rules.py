"""Serving rules that follow from how fast the devices are, for plans whose solver simulates none.

Owns two knees of a device's curves: how many steps a batch should take, and how long the pieces of prompts should be
that ride with them. Doesn't know requests, queues or limits on latency; a solver that simulates chooses better.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from helix_df.graph.problem import Placement, Problem
from helix_df.graph.stage_timing import stage_timing
from helix_df.plan.serving import ServingRules, free_rules, rules_of
from helix_df.profiles.timing import LayerTiming
from helix_df.spec.job import Job

STEPS = (16, 32, 64, 128)
"""Steps of a batch that a device may be best with."""

NEAR_BEST = 0.9
"""Share of the best decode speed that is worth no larger batch: every request waits for the others of its batch."""

PIECES = (64, 128, 256, 512, 1024)
"""Tokens of a piece. Shorter ones cost messages and passes that no curve knows of."""

_SAME = 0.01


def device_rules(job: Job, problem: Problem, placement: Placement) -> ServingRules | None:
    """What the curves of the devices that hold layers say where the job says nothing; ``None`` where that is nothing.

    All nodes have the same rules: of batches those of the device that wants the smallest, of pieces the mean by ratio.
    """
    free, rules = free_rules(job), rules_of(job)
    kinds = _kinds(job, problem, placement)
    # A speed that is one number of a table says that every token costs the same: there is no knee.
    if not kinds or not all(timing.prefill[0][1] > 0 for timing, _ in kinds):
        return None
    if "max_batch" in free:
        rules = replace(rules, max_batch=min(best_steps(timing) for timing, _ in kinds))
    if "max_prefill_tokens" in free:
        logs = sum(nodes * math.log(tokens_while_reading(timing)) for timing, nodes in kinds)
        tokens = math.exp(logs / sum(nodes for _, nodes in kinds))
        rules = replace(rules, max_prefill_tokens=min(PIECES, key=lambda piece: abs(math.log(piece / tokens))))
    return rules if rules != rules_of(job) else None


def best_steps(timing: LayerTiming) -> int:
    """The fewest decode steps of a batch that come near the best speed of any of ``STEPS``."""
    speeds = {steps: steps / timing.decode_s(steps) for steps in STEPS}
    return min(steps for steps, speed in speeds.items() if speed >= NEAR_BEST * max(speeds.values()))


def tokens_while_reading(timing: LayerTiming) -> float:
    """Prompt tokens that a pass computes in the time in which it reads the weights.

    A shorter piece pays for reading them all the same; a longer one computes no faster, and all who decode beside it
    wait for it. Prompts split so that they ride with decode steps: Sarathi (arXiv 2308.16369).
    """
    reading_s, low, high = timing.prefill_s(1), 1.0, float(PIECES[-1])
    for _ in range(20):
        tokens = math.sqrt(low * high)
        if timing.prefill_s(tokens) <= (1 + _SAME) * reading_s:
            low = tokens
        else:
            high = tokens
    return low


def _kinds(job: Job, problem: Problem, placement: Placement) -> list[tuple[LayerTiming, int]]:
    """The timings of nodes that hold layers, and how many have each; a node's ``speed`` moves no knee."""
    origin = problem.origin
    if origin is None:
        return []
    profiles = {node.name: node for node in problem.nodes}
    alike = Counter((profiles[name].gpu, len(layers)) for name, layers in placement.items())
    # Of those alone: one that `limits.avoid` leaves out has none, whatever its GPU.
    kv_tokens = {profiles[name].gpu: profiles[name].kv_tokens for name in placement}
    return [
        (stage_timing(job, origin.geometry, origin.requests, gpu, layers, kv_tokens[gpu][layers - 1]), nodes)
        for (gpu, layers), nodes in alike.items()
    ]
