"""An estimate of what a placement serves when requests never run out: fast enough to search with.

A closed queueing network, solved by fixed-point iteration. Owns the formulas. Doesn't simulate, and isn't trusted: the
simulator judges what the search finds.

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
* A link works ``ρ = X·s·(in + out)·bytes/rate`` of the time; a step waits ``X·s·E[prompt transfer²] / (2·(1 − ρ))``
  (M/G/1), times ``LINK_WAIT``, which is fitted to simulations of the Helix paper's geo24: prompts come in bunches.
* Little's law: ``X·(T_p + out·T)`` requests are in flight, as many as KV cache admits, with ``T`` and ``T_p`` the sums
  along the pipeline of what a step and a prompt need; with them the shares shift from those of the maximum flow to
  nodes that have room (``crowding``).

``docs/goodput.md`` shows how well the whole ranks placements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helix_df.goodput.crowding import crowd
from helix_df.goodput.routes import Routed
from helix_df.goodput.shop import LARGEST_BATCH, Shop
from helix_df.graph.capacities import Floats

ROUNDS = 24
"""Of the fixed-point iteration, with damping."""

BUSY = 0.97
"""The most of its time that a node or link can work."""

LINK_WAIT = 3.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a placement serves: requests/s, generated tokens/s, requests in flight, seconds of a prompt and a step."""

    requests_per_s: float
    decode_tokens_per_s: float
    in_flight: float
    prompt_s: float
    step_s: float


def estimate(shop: Shop, routed: Routed) -> Estimate:
    """Requests/s when as many are in flight as KV cache admits; ``routed`` is the maximum flow's."""
    routed, most_in_flight = crowd(shop, routed)
    network = _Network(shop, routed)
    requests, batch = 0.01, np.ones(len(routed.nodes))
    prompt_s = step_s = 1.0
    for turn in range(ROUNDS):
        prompt_s, step_s, cycle_s = network.times(requests, batch)
        around_s = prompt_s + shop.workload.output_tokens * step_s
        aim = min(most_in_flight / around_s, network.most_requests)
        requests += (aim - requests) * (0.5 if turn < ROUNDS - 8 else 0.25)
        wanted = np.maximum(requests * routed.share * shop.workload.output_tokens * cycle_s, 1.0)
        batch = np.minimum((batch + wanted) / 2, network.largest)
    output = shop.workload.output_tokens
    return Estimate(requests, requests * output, requests * (prompt_s + output * step_s), prompt_s, step_s)


class _Network:
    """The constants of one placement."""

    def __init__(self, shop: Shop, routed: Routed) -> None:
        self.shop, self.routed, work = shop, routed, shop.workload
        self.rows = shop.row[routed.nodes, routed.layers_held]
        self.largest = shop.max_batch[self.rows]
        self.prompt_s = routed.layers_run * shop.prefill_s[self.rows] + shop.copy_s * work.input_tokens
        self.longer = work.input_square / work.input_tokens**2
        """How much longer than the mean a prompt is that a step meets."""
        self.together = self._together()
        self.token_s = shop.token_bytes[routed.tail, routed.head] / shop.bytes_per_s[routed.tail, routed.head]
        self.latency_s = shop.latency_s[routed.tail, routed.head]
        self.most_requests = self._most_requests()

    def _most_requests(self) -> float:
        """Requests/s at which a node or link has no time left, with the largest batches."""
        routed, work = self.routed, self.shop.workload
        step_s = routed.layers_run * self._decode_s(self.largest) / self.largest
        node = routed.share * (self.prompt_s + work.output_tokens * step_s)
        link = routed.link_share * (work.input_tokens + work.output_tokens) * self.token_s
        return BUSY / max(float(node.max()), float(link.max()), 1e-12)

    def _together(self) -> Floats:
        """Share of ``i``'s steps that come from ``j``, times that of ``j``'s prompts that go to ``i``, at [i, j]."""
        routed = self.routed
        place = np.full(int(max(routed.tail.max(), routed.head.max())) + 1, -1)
        place[routed.nodes] = np.arange(len(routed.nodes))
        tail, head = place[routed.tail], place[routed.head]
        inner = (tail >= 0) & (head >= 0)
        tail, head = tail[inner], head[inner]
        both = np.zeros((len(routed.nodes), len(routed.nodes)))
        both[head, tail] = routed.link_share[inner] ** 2 / (routed.share[head] * routed.share[tail])
        return both

    def times(self, requests: float, batch: Floats) -> tuple[float, float, Floats]:
        """Seconds of a prompt and of a step around the pipeline, and of a cycle on each node."""
        routed, work = self.routed, self.shop.workload
        rate = requests * routed.share
        prompts = np.minimum(rate * self.prompt_s, BUSY)
        decode_s = routed.layers_run * self._decode_s(batch)
        cycle_s = decode_s / (1 - prompts)
        decodes = np.minimum(rate * work.output_tokens * decode_s / batch, 1.0)
        link_rate = requests * routed.link_share
        carried = np.minimum(link_rate * (work.input_tokens + work.output_tokens) * self.token_s, BUSY)
        link_s = self.latency_s + LINK_WAIT * link_rate * work.input_square * self.token_s**2 / 2 / (1 - carried)
        step_s = routed.share @ (decode_s + decodes * decode_s / 2 + self._behind_s(rate, prompts))
        step_s += routed.link_share @ (link_s + self.token_s)
        prompt_s = routed.share @ (cycle_s + self.prompt_s / (1 - prompts))
        prompt_s += routed.link_share @ (link_s + work.input_tokens * self.token_s)
        return float(prompt_s), float(step_s), cycle_s

    def _behind_s(self, rate: Floats, prompts: Floats) -> Floats:
        """Seconds that a step waits for prompts on each node."""
        met = 1 - np.exp(-rate * self.prompt_s)
        leave = np.linalg.solve(np.eye(len(met)) - (1 - met)[:, None] * self.together, met)
        come = self.together @ leave
        longer_s = self.longer * self.prompt_s
        waits: Floats = come * longer_s + (1 - come) * rate * self.prompt_s * longer_s / 2 / (1 - prompts)
        return waits

    def _decode_s(self, batch: Floats) -> Floats:
        """Seconds a layer takes for decode steps of fractional batches."""
        floor = np.minimum(batch.astype(np.int64), LARGEST_BATCH - 1)
        below = self.shop.decode_s[self.rows, floor]
        return np.asarray(below + (batch - floor) * (self.shop.decode_s[self.rows, floor + 1] - below))
