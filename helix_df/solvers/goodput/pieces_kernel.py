"""The queueing network of ``surrogate`` for prompts that travel in pieces and ride with decode steps, compiled.

Owns that arithmetic on arrays, with nodes and links as in ``network_kernel``. Everything is in one file, for the same
reason.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import numpy as np

from helix_df.solvers.compiled import compiled
from helix_df.solvers.goodput.network_kernel import BUSY

ROUNDS, SETTLING = 40, 12
"""Of the fixed-point iteration, with damping; and of them at the end, with more."""

MEETS = 2.0
"""How much longer than by half of the batch under way steps wait for it. Fitted to simulations of the Helix paper's
clusters: batches that decode and carry a piece come together."""


@compiled
def riding_point(share, link_share, tail, head, run, prefill_s, decode_s, largest, token_s, latency_s, work, in_flight):
    """Requests/s when ``in_flight`` are under way, and seconds of a prompt and of a step around the pipeline.

    Args:
        share, link_share, tail, head: as in ``network_kernel.shift``.
        run: mean layers that a request runs on a node.
        prefill_s: of a layer, by node and tokens; decode_s: by node and batch.
        largest: batch by node.
        token_s: seconds of a token on a link, and latency_s of anything.
        work: of a request: mean prompt tokens and decode steps, mean pieces and tokens of a piece, mean square of
            pieces over their mean, and tokens that a step brings.
        in_flight: requests under way at most.
    """
    count, (inputs, outputs, pieces, piece, bunch, brought) = len(share), work
    batch = np.ones(count)
    requests, around_prompt_s, around_step_s = 0.05, 1.0, 1.0
    for turn in range(ROUNDS):
        around_prompt_s, around_step_s, longest_s, most = 0.0, 0.0, 0.0, 1e12
        for at in range(len(tail)):
            rate = requests * link_share[at]
            each = (inputs + outputs * brought) * token_s[at]
            carried = min(rate * each, BUSY)
            most = min(most, BUSY / max(link_share[at] * each, 1e-12))
            hop_s, wait_s = brought * token_s[at], 0.0
            if tail[at] < count and head[at] < count:
                together = brought * batch[tail[at]] * link_share[at] / share[tail[at]]
                hop_s = (together + carried * piece) * token_s[at]
                wait_s = carried * piece * token_s[at] / 2 / (1 - carried)
            around_step_s += link_share[at] * (latency_s[at] + hop_s + wait_s)
            around_prompt_s += link_share[at] * (latency_s[at] + piece * token_s[at] + wait_s)
        for node in range(count):
            steps, arriving = requests * share[node] * outputs, requests * share[node] * pieces
            rides_s = run[node] * _rides(prefill_s, node, batch[node], piece)
            alone_s = run[node] * _at(prefill_s, node, piece)
            ridden = min(1.0, arriving * batch[node] / steps)
            batch_s = run[node] * _at(decode_s, node, batch[node]) + ridden * rides_s
            apart = min(max(0.0, arriving - ridden * steps / batch[node]) * alone_s, BUSY)
            busy = min(batch_s * steps / batch[node] + apart, 1.0)
            most = min(most, BUSY / max(share[node] * _work_s(run, prefill_s, decode_s, largest, node, work), 1e-12))
            around_step_s += share[node] * batch_s * (1 + MEETS * busy / 2)
            around_prompt_s += share[node] * (1.5 * batch_s + rides_s)
            # Pieces of a prompt follow each other, behind those of others.
            slot_s = max(batch_s, alone_s)
            taken = min(arriving * slot_s, BUSY)
            longest_s = max(longest_s, (pieces - 1) * slot_s + taken * bunch * slot_s / 2 / (1 - taken))
            wanted = max(steps * batch_s / (1 - apart), 1.0)
            batch[node] = min((batch[node] + wanted) / 2, largest[node])
        around_prompt_s += longest_s
        aim = min(in_flight / (around_prompt_s + outputs * around_step_s), most)
        requests += (aim - requests) * (0.4 if turn < ROUNDS - SETTLING else 0.2)
    return requests, around_prompt_s, around_step_s


@compiled
def _work_s(run, prefill_s, decode_s, largest, node, work):
    """Seconds that a node works for a request, with its largest batches."""
    _, outputs, pieces, piece, _, _ = work
    batches = outputs / largest[node]
    ridden = min(batches, pieces)
    pass_s = batches * _at(decode_s, node, largest[node])
    pass_s += ridden * _rides(prefill_s, node, largest[node], piece)
    return run[node] * (pass_s + (pieces - ridden) * _at(prefill_s, node, piece))


@compiled
def _rides(prefill_s, node, batch, piece):
    """Seconds of a layer that a piece adds to a batch; ``profiles.timing.riding_s``."""
    return max(0.0, _at(prefill_s, node, batch + piece) - _at(prefill_s, node, batch))


@compiled
def _at(table, node, size):
    """A row of a table at a fractional size; beyond its end in proportion to the last entry."""
    last = table.shape[1] - 1
    if size >= last:
        return table[node, last] * size / last
    floor = int(size)
    below = table[node, floor]
    return below + (size - floor) * (table[node, floor + 1] - below)
