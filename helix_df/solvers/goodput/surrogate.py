"""An estimate of what a placement serves when requests never run out: fast enough to search with.

A closed queueing network, solved by fixed-point iteration. Owns the formulas. Doesn't simulate, and isn't trusted: the
simulator judges what the search finds. The arithmetic is compiled (``network_kernel``).

With ``X`` requests/s, of which a share ``s_i`` passes node ``i`` and runs ``w_i`` layers there:

* A prompt takes ``p_i = w_i·P_i``, so ``u_i = X·s_i·p_i`` of the node's time is spent on prompts. A cycle of ``b_i``
  decode steps takes ``d_i = w_i·D_i(b_i)``, ``d_i / (1 − u_i)`` with its share of prompts, and meets the steps that
  arrived during the last one: ``b_i = X·s_i·out·d_i / (1 − u_i)``. A step waits for half of the cycle under way.
* Prompts hold up steps: on the same node nobody overtakes. A step meets a prompt there with probability
  ``f_i = 1 − exp(−X·s_i·p_i)`` and then waits for what is left of it, ``X·s_i·E[p²] / (2·(1 − u_i))`` on average. From
  then on it is right behind the prompt, and waits for all of it (``E[p²] / E[p]``, since long ones are met more often)
  on each next node, for as long as both go the same way: ``h_i = f_i + (1 − f_i)·g_i`` is the share of steps that leave
  a node right behind a prompt, and ``g_i = Σ_j h_j·(share of i's steps from j)·(share of j's prompts to i)`` that come
  so. This is what makes long chains of slow nodes so bad, and one replica beside another so good.
* Where prompts travel in pieces that ride with decode steps (``pieces_kernel``), a batch takes
  ``w_i·(D_i(b_i) + q·R_i)`` instead: ``q`` is the share of batches that carry a piece, one at most, and
  ``R_i = P_i(b_i + piece) − P_i(b_i)`` what it adds (``profiles.timing.riding_s``). More pieces run alone.
  A step waits for the batch under way and then takes as long as its own, the piece included; nobody waits for a whole
  prompt.
* A link works ``ρ = X·s·(in + out)·bytes/rate`` of the time; a step waits ``X·s·E[prompt transfer²] / (2·(1 − ρ))``
  (M/G/1), times ``LINK_WAIT``, which is fitted to simulations of the Helix paper's geo24: prompts come in bunches.
* Where decode steps bring drafted tokens, there are fewer of them: ``out`` over the tokens that one gives, and each
  costs stages and links what it brings (``profiles.expected_drafts``). The runtime drafts as many as pay; so the best
  of a few numbers of drafts counts.
* Little's law: ``X·(T_p + out·T)`` requests are in flight, as many as KV cache admits, with ``T`` and ``T_p`` the sums
  along the pipeline of what a step and a prompt need; with them the shares shift from those of the maximum flow to
  nodes that have room (``kv_split``).

``docs/goodput.md`` shows how well the whole ranks placements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helix_df.solvers.goodput.flow_split import FlowSplit
from helix_df.solvers.goodput.kv_split import kv_limited_split
from helix_df.solvers.goodput.network_kernel import fixed_point
from helix_df.solvers.goodput.pieces_kernel import riding_point
from helix_df.solvers.goodput.stage_costs import StageCosts, StepCosts


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a placement serves: requests/s, generated tokens/s, requests in flight, seconds of a prompt and a step."""

    requests_per_s: float
    decode_tokens_per_s: float
    in_flight: float
    prompt_s: float
    step_s: float


def estimate(costs: StageCosts, split: FlowSplit) -> Estimate:
    """Requests/s when as many are in flight as KV cache admits; ``split`` is the maximum flow's."""
    split, most_in_flight = kv_limited_split(costs, split)
    found = (_with_steps(costs, split, most_in_flight, one) for one in costs.steps)
    return max(found, key=lambda one: one.requests_per_s)


def _with_steps(costs: StageCosts, split: FlowSplit, most_in_flight: float, costly: StepCosts) -> Estimate:
    """The estimate with decode steps of one kind."""
    work, brought = costs.workload, costly.steps.carried
    steps = work.output_tokens / costly.steps.given
    rows = costs.rows(split.nodes, split.start, split.layers_held)
    tail, head = split.ends()
    flow = split.share, split.link_share, tail, head, split.layers_run
    ends = split.tail, split.head
    links = costs.token_bytes[ends] / costs.bytes_per_s[ends], costs.latency_s[ends]
    stages = costly.decode_s[rows], costs.max_batch[rows]
    if costs.pieces is not None:
        pieces = costs.pieces.count, costs.pieces.tokens, costs.pieces.bunch
        asked = work.input_tokens, steps, *pieces, brought
        requests, prompt_s, step_s = riding_point(*flow, costs.prefill_s[rows], *stages, *links, asked, most_in_flight)
    else:
        prompts_s = split.layers_run * costs.prompt_s[rows] + costs.copy_s * work.input_tokens
        moments = np.array([work.input_tokens, steps, work.input_square, brought])
        requests, prompt_s, step_s = fixed_point(*flow, prompts_s, *stages, *links, moments, most_in_flight)
    in_flight = requests * (prompt_s + steps * step_s)
    return Estimate(requests, requests * work.output_tokens, in_flight, prompt_s, step_s)
