"""Small setups whose numbers can be worked out by hand."""

from __future__ import annotations

from itertools import pairwise

from helix_df.graph.flow import EdgeFlow
from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.profiles.timing import LayerTiming, linear_timing
from helix_df.simulator.setup import LinkSetup, Setup, StageSetup
from helix_df.simulator.trace import Trace, TraceRequest


def stage(name, start, stop, tokens_per_s=100.0, kv_tokens=10_000, timing: LayerTiming | None = None, nic=None):
    layers = LayerRange(start, stop)
    return StageSetup(name, layers, timing or linear_timing(tokens_per_s, len(layers)), kv_tokens, nic)


def link(tail, head, bytes_per_s=1e9, latency_s=0.0, token_bytes=1.0, ratio=1.0):
    return LinkSetup(tail, head, bytes_per_s, latency_s, token_bytes, ratio)


def setup(stages, links, flows=None, flow=100.0) -> Setup:
    """A setup of given links; every link has the flow that ``flows`` says, 1 if it says nothing."""
    flows = flows or {}
    edges = tuple(EdgeFlow(way.tail, way.head, flows.get((way.tail, way.head), 1.0)) for way in links)
    return Setup("small", max(one.layers.stop for one in stages), tuple(stages), tuple(links), edges, flow, 1.0)


def chain(*stages, latency_s=0.0, bytes_per_s=1e9, flow=100.0) -> Setup:
    """Stages one after the other."""
    names = [COORDINATOR, *(one.name for one in stages), COORDINATOR]
    links = [link(a, b, bytes_per_s, latency_s) for a, b in pairwise(names)]
    return setup(stages, links, flow=flow)


def trace(*requests, saturating=False) -> Trace:
    """Requests as (arrival, input, output)."""
    return Trace("by hand", tuple(TraceRequest(at, a, b, b) for at, a, b in requests), saturating)
