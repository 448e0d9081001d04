"""The closed queueing network of ``surrogate``, compiled: thousands of placements a second, on threads side by side.

Owns the arithmetic on arrays. Nodes are positions in a flow split and ``len(share)`` is the coordinator; links stand in
the order in which layers are run, so that whatever flows into a node is known before what flows out of it, and systems
of equations along the flow are solved in one pass. Everything is in one file, since numba looks for changes in the file
of the function that is called from outside.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import numpy as np

from helix_df.solvers.compiled import compiled

ROUNDS = 24
"""Of the fixed-point iteration, with damping."""

SETTLING = 8
"""Of them at the end, with more damping."""

BUSY = 0.97
"""The most of its time that a node or link can work."""

LINK_WAIT = 3.0
"""How much longer than by M/G/1 steps wait for links, since prompts come in bunches."""

SHIFTS = 8
"""Times that shares are moved away from nodes that have more than fits."""

SLACK = 1.02
"""What counts as more than fits: shares needn't be moved to the last request."""


@compiled
def shift(share, link_share, tail, head, room, looks_ahead):
    """Move shares away from nodes with more than ``room``; looking ahead, also from those that only lead there.

    Args:
        share: of requests by node, of the maximum flow; link_share: by link.
        tail, head: of links.
        room: the share that fits, by node.

    Returns:
        Shares by node and by link.
    """
    count = len(share)
    weight = link_share.copy()
    over, ahead, total = np.zeros(count + 1), np.zeros(count + 1), np.zeros(count + 1)
    for _ in range(SHIFTS):
        over[:count] = share / room
        over[count] = 0.0
        if looks_ahead:
            ahead[:] = np.inf
            for at in range(len(tail)):
                ahead[tail[at]] = min(ahead[tail[at]], over[head[at]])
            for node in range(count + 1):
                if ahead[node] < np.inf:
                    over[node] = max(over[node], ahead[node])
        total[:] = 0.0
        for at in range(len(tail)):
            if head[at] < count:
                weight[at] /= max(over[head[at]], 1.0)
            total[tail[at]] += weight[at]
        share, link_share = np.zeros(count), np.zeros(len(tail))
        fits = True
        for at in range(len(tail)):
            passing = 1.0 if tail[at] == count else share[tail[at]]
            link_share[at] = passing * weight[at] / total[tail[at]]
            if head[at] < count:
                share[head[at]] += link_share[at]
        for node in range(count):
            fits = fits and share[node] <= SLACK * room[node]
        if fits:
            break
    return share, link_share


@compiled
def most_by_layer(start, held, room, taken, layers):
    """Requests that fit into the caches of all nodes which hold a layer, at the tightest layer.

    ``room`` is the requests that fit on a node, ``taken`` the share of requests that takes cache there.
    """
    fit, used = np.zeros(layers + 1), np.zeros(layers + 1)
    for node in range(len(start)):
        stop = start[node] + held[node]
        fit[start[node]] += room[node]
        fit[stop] -= room[node]
        used[start[node]] += taken[node]
        used[stop] -= taken[node]
    most, fits, uses = np.inf, 0.0, 0.0
    for layer in range(layers):
        fits += fit[layer]
        uses += used[layer]
        most = min(most, fits / max(uses, 1e-9))
    return most


@compiled
def fixed_point(share, link_share, tail, head, run, prompt_s, decode_s, largest, token_s, latency_s, tokens, in_flight):
    """Requests/s when ``in_flight`` are under way, and seconds of a prompt and of a step around the pipeline.

    Args:
        share, link_share, tail, head: as in ``shift``.
        run: mean layers that a request runs on a node.
        prompt_s: seconds of a mean prompt on a node; decode_s: of a layer by node and batch.
        largest: batch by node.
        token_s: seconds of a token on a link, and latency_s of anything.
        tokens: of a request: mean prompt, mean decode steps, mean square of the prompt, and tokens that a step brings.
        in_flight: requests under way at most.
    """
    count, (inputs, outputs, square, brought) = len(share), tokens
    # How much longer than the mean a prompt is that a step meets.
    longer = square / inputs**2
    most = _most_requests(share, link_share, run, prompt_s, decode_s, largest, token_s, inputs, outputs, brought)
    batch, cycle_s = np.ones(count), np.zeros(count)
    come, met = np.zeros(count), np.zeros(count)
    requests, around_prompt_s, around_step_s = 0.01, 1.0, 1.0
    for turn in range(ROUNDS):
        around_prompt_s, around_step_s = 0.0, 0.0
        come[:] = 0.0
        for at in range(len(tail)):
            rate = requests * link_share[at]
            carried = min(rate * (inputs + outputs * brought) * token_s[at], BUSY)
            wait_s = latency_s[at] + LINK_WAIT * rate * square * token_s[at] ** 2 / 2 / (1 - carried)
            around_step_s += link_share[at] * (wait_s + brought * token_s[at])
            around_prompt_s += link_share[at] * (wait_s + inputs * token_s[at])
            if tail[at] < count and head[at] < count:
                # Right behind a prompt before, and both go the same way.
                met[tail[at]] = 1 - np.exp(-requests * share[tail[at]] * prompt_s[tail[at]])
                leave = met[tail[at]] + (1 - met[tail[at]]) * come[tail[at]]
                come[head[at]] += leave * link_share[at] ** 2 / (share[head[at]] * share[tail[at]])
        for node in range(count):
            rate = requests * share[node]
            prompts = min(rate * prompt_s[node], BUSY)
            step_s = run[node] * _decode_s(decode_s, node, batch[node])
            cycle_s[node] = step_s / (1 - prompts)
            decodes = min(rate * outputs * step_s / batch[node], 1.0)
            longer_s = longer * prompt_s[node]
            behind_s = come[node] * longer_s
            behind_s += (1 - come[node]) * rate * prompt_s[node] * longer_s / 2 / (1 - prompts)
            around_step_s += share[node] * (step_s + decodes * step_s / 2 + behind_s)
            around_prompt_s += share[node] * (cycle_s[node] + prompt_s[node] / (1 - prompts))
        aim = min(in_flight / (around_prompt_s + outputs * around_step_s), most)
        requests += (aim - requests) * (0.5 if turn < ROUNDS - SETTLING else 0.25)
        for node in range(count):
            wanted = max(requests * share[node] * outputs * cycle_s[node], 1.0)
            batch[node] = min((batch[node] + wanted) / 2, largest[node])
    return requests, around_prompt_s, around_step_s


@compiled
def _most_requests(share, link_share, run, prompt_s, decode_s, largest, token_s, inputs, outputs, brought):
    """Requests/s at which a node or link has no time left, with the largest batches."""
    busiest = 1e-12
    for node in range(len(share)):
        step_s = run[node] * _decode_s(decode_s, node, largest[node]) / largest[node]
        busiest = max(busiest, share[node] * (prompt_s[node] + outputs * step_s))
    for at in range(len(link_share)):
        busiest = max(busiest, link_share[at] * (inputs + outputs * brought) * token_s[at])
    return BUSY / busiest


@compiled
def _decode_s(decode_s, node, batch):
    """Seconds a layer takes for decode steps of a fractional batch."""
    floor = min(int(batch), decode_s.shape[1] - 2)
    below = decode_s[node, floor]
    return below + (batch - floor) * (decode_s[node, floor + 1] - below)
