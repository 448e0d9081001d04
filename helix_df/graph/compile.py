"""From a job to the numbers a solver is asked about.

Owns the step from where a speed comes from (``speed_source``) to each node's throughput, and the table of links.
Doesn't know YAML, and reads no weights: a model's geometry is enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from helix_df.errors import SpecError
from helix_df.graph.held_weights import divided_weights, held_weights
from helix_df.graph.problem import COORDINATOR, Link, LinkTable, NodeProfile, Origin, PlacementLimits, Problem
from helix_df.graph.speed_source import DeclaredCurves, DeclaredTable, speed_source
from helix_df.graph.stage_timing import stage_timing
from helix_df.layers import LayerRange
from helix_df.profiles.catalogue import Measured, device_count, find_device
from helix_df.profiles.device_shares import held_by
from helix_df.profiles.expected_drafts import NO_DRAFTS, ExpectedDrafts
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_formats import kv_token_bytes
from helix_df.profiles.kv_windows import PAGE_TOKENS, held_by_layers
from helix_df.profiles.read_geometry import read_geometry
from helix_df.profiles.throughput import (
    Requests,
    Roofline,
    Throughput,
    best_from_roofline,
    from_curves,
    from_roofline,
    from_table,
    kv_tokens_by_layers,
)
from helix_df.profiles.timing import closed_form, declared_curves
from helix_df.spec.job import GpuType, Job, LinkQuality, PairLink
from helix_df.spec.nodes import Node

TOKEN_BYTES = 2
"""Bytes of a token id on the way to and from the coordinator: a vocabulary of 65,536 fits, and the paper's data counts
the same. Such links carry thousands of times less than those between nodes, so more would change no plan."""

NOTHING = Throughput((), ())
"""What a node does that the job excludes."""


def compile_problem(job: Job) -> Problem:
    """The placement problem of a job.

    Raises:
        ModelError: when the model's geometry can't be read.
        SpecError: for a GPU type that neither the job nor the catalogue describes, and a job without nodes.
    """
    if not job.nodes:
        raise SpecError(
            "the job has no nodes yet, only offers of some" if job.offers else "the job has no nodes",
            where="nodes",
            hint="helix-df size JOB --out FILE chooses some and writes a job with them" if job.offers else None,
        )
    origin = origin_of(job)
    geometry, requests = origin.geometry, origin.requests
    gpus = {node.gpu for node in job.nodes.values()}
    by_gpu = {gpu: gpu_throughput(job, geometry, requests, gpu) for gpu in gpus}
    best = _better(job, geometry, requests, by_gpu) if layers_differ(geometry) else {}
    nodes = tuple(
        _node_profile(name, node, NOTHING, None)
        if name in job.limits.avoid
        else _node_profile(name, node, by_gpu[node.gpu], best.get(node.gpu))
        for name, node in job.nodes.items()
    )
    return Problem(
        num_layers=geometry.num_layers,
        nodes=nodes,
        links=link_table(job),
        token_bytes=TOKEN_BYTES,
        activation_bytes=geometry.activation_bytes(job.model.element_bytes),
        element_bytes=job.model.element_bytes,
        partial_inference=job.solver.partial_inference,
        limits=_limits(job, requests),
        origin=origin,
    )


def layers_differ(geometry: ModelGeometry) -> bool:
    """Whether some layers have experts or windows, and others don't."""
    return len(geometry.layer_kinds) > 1 or len(set(geometry.attention.windows)) > 1


def _better(
    job: Job, geometry: ModelGeometry, requests: Requests, planned: Mapping[str, Throughput]
) -> dict[str, Throughput]:
    """The most that GPU types may do, of those where it is more than what is ``planned``."""
    best = {gpu: gpu_throughput(job, geometry, requests, gpu, favourable=True) for gpu in planned}
    return {gpu: throughput for gpu, throughput in best.items() if throughput != planned[gpu]}


def origin_of(job: Job) -> Origin:
    """The geometry of a job's model, read from where it lies, and the job's mean request.

    Raises:
        ModelError: when the model's geometry can't be read.
    """
    geometry = read_geometry(job.model.parsed_source)
    return Origin(geometry, mean_request(job, geometry))


def _node_profile(name: str, node: Node, throughput: Throughput, best: Throughput | None) -> NodeProfile:
    rates = tuple(node.speed * rate for rate in throughput.tokens_per_s)
    favourable = None if best is None else _node_profile(name, node, best, None)
    return NodeProfile(name, node.gpu, node.region, rates, throughput.kv_tokens, node.nic, favourable)


def _limits(job: Job, requests: Requests) -> PlacementLimits:
    declared = job.limits
    return PlacementLimits(
        max_hops=declared.max_hops,
        min_requests=declared.min_requests,
        request_tokens=requests.tokens,
        held=requests.held,
        required=frozenset(declared.use),
        excluded=frozenset(declared.avoid),
        fixed={name: LayerRange(start, stop) for name, (start, stop) in declared.pin.items()},
    )


def mean_request(job: Job, geometry: ModelGeometry) -> Requests:
    """The mean request to plan for: the workload's, shortened in proportion where the context is smaller."""
    context = min(job.model.context or geometry.context_length, geometry.context_length)
    wanted = job.workload.input_length + job.workload.output_length
    scale = min(1.0, context / wanted)
    inputs, outputs = job.workload.input_length * scale, job.workload.output_length * scale
    held = held_kv(job, geometry, inputs + outputs)
    return Requests(inputs, outputs, job.runtime.max_batch, held, expected_drafts(job))


def expected_drafts(job: Job) -> ExpectedDrafts:
    """What a job expects of drafted tokens; none where it doesn't speculate."""
    speculation = job.runtime.speculation
    if speculation is None:
        return NO_DRAFTS
    return ExpectedDrafts(speculation.drafts, speculation.acceptance, speculation.coverage)


def held_kv(job: Job, geometry: ModelGeometry, tokens: float, *, fewest: bool = False) -> tuple[float, ...]:
    """``Requests.held`` of a request that comes to so many tokens; or of layers in a row that keep the ``fewest``."""
    windows = geometry.attention.windows
    if not windows:
        return ()
    # Pieces of a prompt have as many tokens as a batch at most (``rules.batching.longest_piece``).
    return held_by_layers(windows, tokens, job.runtime.max_prefill_tokens, PAGE_TOKENS, fewest=fewest)


def link_table(job: Job) -> LinkTable:
    """The job's links, to be found by node pair, region pair or default."""
    regions = {name: node.region for name, node in job.nodes.items()} | {COORDINATOR: job.coordinator.region}
    return LinkTable(
        regions=regions,
        default=_link(job.links.default) if job.links.default is not None else None,
        by_region=_by_direction(job.links.regions),
        by_node=_by_direction(job.links.nodes),
    )


def _by_direction(entries: Sequence[PairLink]) -> dict[tuple[str, str], Link]:
    in_order = sorted(entries, key=lambda entry: entry.one_way)  # the last one wins
    return {ends: _link(entry) for entry in in_order for ends in entry.directions}


def _link(quality: LinkQuality) -> Link:
    return Link(quality.bandwidth, quality.latency, quality.codec)


def gpu_throughput(
    job: Job, geometry: ModelGeometry, requests: Requests, gpu: str, *, favourable: bool = False
) -> Throughput:
    """What a GPU type does with 1, 2, 3, … layers of the model: where they differ the worst, or else the best.

    The source is ``speed_source``'s choice.

    Raises:
        SpecError: when nobody says how much memory or speed the type has.
        ModelError: when weights can't be kept there as the job says.
    """
    source = speed_source(job, geometry, gpu)
    fits = requests
    if favourable:
        requests = replace(requests, held=held_kv(job, geometry, requests.tokens, fewest=True))
    if isinstance(source, Measured):
        return from_curves(source, requests, geometry.num_layers)
    profile = job.gpus.get(gpu, GpuType()).profile
    given = profile.kv_tokens if profile is not None and not isinstance(source, Roofline) else None
    kv_tokens = given or _kv_tokens(job, geometry, fits, gpu, favourable)
    match source:
        case DeclaredTable():
            table = from_table(source.tokens_per_s, kv_tokens, geometry.num_layers)
            return _with_drafts(job, geometry, requests, gpu, table) if requests.drafted.drafts else table
        case DeclaredCurves():
            curves = declared_curves(source.prefill_ms, source.decode_ms, kv_tokens, requests.max_batch)
            return from_curves(curves, requests, geometry.num_layers)
        case Roofline():
            weights, kv_bytes = held_weights(job, geometry), kv_token_bytes(geometry, job.model.kv_format)
            known = geometry, job.model.element_bytes, source, kv_tokens, requests, weights, kv_bytes
            return best_from_roofline(*known) if favourable else from_roofline(*known)


def _with_drafts(job: Job, geometry: ModelGeometry, requests: Requests, gpu: str, table: Throughput) -> Throughput:
    """A table of steps without drafts, as much faster as the planned timing of the same device is with them."""
    rates = []
    for layers, (rate, kept) in enumerate(zip(table.tokens_per_s, table.kv_tokens, strict=True), start=1):
        timing = stage_timing(job, geometry, requests, gpu, layers, kept, "planned")
        plain, drafted = (closed_form(timing, kept, layers, each) for each in (requests.undrafted, requests))
        rates.append(rate * drafted / plain)
    return Throughput(tuple(rates), table.kv_tokens)


def _kv_tokens(job: Job, geometry: ModelGeometry, requests: Requests, gpu: str, lightest: bool) -> tuple[int, ...]:
    declared, device = job.gpus.get(gpu, GpuType()).memory, find_device(gpu)
    memory = declared if declared is not None else device.memory_bytes if device is not None else math.nan
    weights, geometry = divided_weights(job, geometry, device_count(gpu)), held_by(geometry, device_count(gpu))
    if math.isnan(memory):
        raise SpecError(
            "nobody knows how much memory this GPU has",
            where=f"gpus.{gpu}.memory",
            expected="memory, or a profile with kv_tokens",
        )
    kv_bytes = kv_token_bytes(geometry, job.model.kv_format)
    element_bytes = job.model.element_bytes
    return kv_tokens_by_layers(geometry, element_bytes, memory, requests, weights, kv_bytes, lightest=lightest)
