"""Seconds that a batch takes."""

from __future__ import annotations

from helix_df.profiles.timing import riding_s
from helix_df.simulator.kernel.drafts import carried
from helix_df.simulator.kernel.tables import Fixed, Rules, State


def interpolate(f: Fixed, first: int, points: int, value: float) -> float:
    """A curve of ``points`` points from ``first`` on; beyond its end it goes on in proportion to the last point."""
    last = first + points - 1
    if value >= f.curve_x[last]:
        return f.curve_y[last] * value / f.curve_x[last]
    low, high = first, first + points
    while low < high:
        middle = (low + high) >> 1
        if f.curve_x[middle] > value:
            high = middle
        else:
            low = middle + 1
    x0, y0, x1, y1 = f.curve_x[low - 1], f.curve_y[low - 1], f.curve_x[low], f.curve_y[low]
    return y0 + (y1 - y0) * (value - x0) / (x1 - x0)


def decode_s(f: Fixed, stage: int, batch: int) -> float:
    """Seconds a layer takes for decode steps of so many requests."""
    row = f.stages[stage]
    return interpolate(f, row.decode_first, row.decode_points, float(batch))


def prefill_s(f: Fixed, stage: int, tokens: int) -> float:
    """Seconds a layer takes for a prompt of so many tokens."""
    row = f.stages[stage]
    return interpolate(f, row.prefill_first, row.prefill_points, float(tokens))


def layer_s(f: Fixed, s: State, r: Rules, stage: int, count: int, width: int) -> float:
    """Seconds of a layer for those of the ``count`` taken runs that run ``width`` layers; all, if that is 0.

    The runtime's engine runs a prompt of one token with the decode steps. A drafted token counts as a decode step: it
    is as much to compute, and its query reads the same context. Where an engine reads that once for all tokens of a
    step, steps with drafts take less.
    """
    steps, tokens, longest, single = 0, 0, 0, 1 if r.messages else 0
    for index in range(count):
        row = s.runs[s.taken[index]]
        if not row.refused and (width == 0 or f.links[row.link].run_layers == width):
            if row.tokens == 1 and r.messages:
                steps += 1
            elif row.tokens:
                longest = max(longest, row.tokens)
                tokens += row.tokens
            else:
                steps += carried(s, r, s.taken[index])
    seconds = decode_s(f, stage, steps) if steps else 0.0
    if longest == 0:
        return seconds
    if r.merge_prefills:
        return seconds + prefill_s(f, stage, tokens)
    if r.rides and steps:
        together_s = prefill_s(f, stage, steps + longest)
        seconds += riding_s(prefill_s(f, stage, steps), together_s) - prefill_s(f, stage, longest)
    for index in range(count):
        row = s.runs[s.taken[index]]
        if row.tokens > single and not row.refused and (width == 0 or f.links[row.link].run_layers == width):
            seconds += prefill_s(f, stage, row.tokens)
    return seconds


def mixed_s(f: Fixed, s: State, r: Rules, stage: int, count: int) -> float:
    """Seconds of a batch in which decode steps of the same layers run together, and prompts on their own."""
    total = 0.0
    for index in range(count):
        width = f.links[s.runs[s.taken[index]].link].run_layers
        first = True
        for other in range(index):
            if f.links[s.runs[s.taken[other]].link].run_layers == width:
                first = False
                break
        if first:
            total += width * layer_s(f, s, r, stage, count, width)
    return total
