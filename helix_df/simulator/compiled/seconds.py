"""Seconds that a batch takes."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from helix_df.simulator.compiled.jit import compiled, inlined
from helix_df.simulator.compiled.state import DECODES, PROMPTS


@compiled
def interpolate(curve, points, value):
    """A curve of (x, y); beyond its end it goes on in proportion to the last point."""
    last = points - 1
    if value >= curve[last, 0]:
        return curve[last, 1] * value / curve[last, 0]
    low, high = 0, points
    while low < high:
        middle = (low + high) >> 1
        if curve[middle, 0] > value:
            high = middle
        else:
            low = middle + 1
    x0, y0, x1, y1 = curve[low - 1, 0], curve[low - 1, 1], curve[low, 0], curve[low, 1]
    return y0 + (y1 - y0) * (value - x0) / (x1 - x0)


@inlined
def decode_s(p, stage, batch):
    """Seconds a layer takes for decode steps of so many requests."""
    return interpolate(p.curves[DECODES, stage], p.stages[stage].decode_points, float(batch))


@inlined
def prefill_s(p, stage, tokens):
    """Seconds a layer takes for a prompt of so many tokens."""
    return interpolate(p.curves[PROMPTS, stage], p.stages[stage].prefill_points, float(tokens))


@inlined
def layer_s(p, s, r, stage, count, width):
    """Seconds of a layer for those of the ``count`` taken runs that run ``width`` layers; all, if that is 0."""
    steps, tokens, prompts = 0, 0, 0
    for index in range(count):
        run = s.taken[index]
        if width == 0 or p.links[s.runs[run].link].run_layers == width:
            if s.runs[run].tokens:
                prompts += 1
                tokens += s.runs[run].tokens
            else:
                steps += s.runs[run].steps
    seconds = decode_s(p, stage, steps) if steps else 0.0
    if prompts == 0:
        return seconds
    if r.merge_prefills:
        return seconds + prefill_s(p, stage, tokens)
    for index in range(count):
        run = s.taken[index]
        if s.runs[run].tokens and (width == 0 or p.links[s.runs[run].link].run_layers == width):
            seconds += prefill_s(p, stage, s.runs[run].tokens)
    return seconds


@compiled
def mixed_s(p, s, r, stage, count):
    """Runs of the same layers run together."""
    total = 0.0
    for index in range(count):
        width = p.links[s.runs[s.taken[index]].link].run_layers
        first = True
        for other in range(index):
            if p.links[s.runs[s.taken[other]].link].run_layers == width:
                first = False
                break
        if first:
            total += width * layer_s(p, s, r, stage, count, width)
    return total
