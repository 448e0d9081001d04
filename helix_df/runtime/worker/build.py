"""From a welcome to a warm engine: reads the weights of the stage and compiles what serving needs first."""

from __future__ import annotations

from functools import partial

import jax

from helix_df.graph.compile import mean_request
from helix_df.graph.speed_source import is_measured
from helix_df.graph.stage_timing import node_timing, stage_timing
from helix_df.layers import LayerRange
from helix_df.marks import mark
from helix_df.models.decoder import DecoderShard
from helix_df.models.fetched_layers import fetch_layers
from helix_df.models.tensor_parallel import SharedShard
from helix_df.models.tokenizer import load_tokenizer
from helix_df.models.weights import load_shard, load_shares
from helix_df.paths import cache_folder
from helix_df.profiles.attention_kernels import AttentionChoice
from helix_df.profiles.catalogue import device_count
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.priority import Priority, as_ever
from helix_df.runtime.wire.messages import Welcome
from helix_df.runtime.worker.attention_choice import AttentionBatches, choose_attention
from helix_df.runtime.worker.compile_cache import enable_compile_cache, spent_s
from helix_df.runtime.worker.device import backend_defaults, matrix_layout, several_devices, share_products
from helix_df.runtime.worker.engine import Engine
from helix_df.runtime.worker.paced_engine import BatchSeconds, PacedEngine, as_profiled, slowed
from helix_df.runtime.worker.shell import Report, StepEngine
from helix_df.runtime.worker.timed_engine import TimedEngine
from helix_df.spec.job import Job

_TRIED_CONTEXT = 1024
"""Tokens of context with which attention kernels are compared, at most."""


def build_engine(welcome: Welcome, report: Report, priority: Priority = as_ever) -> StepEngine:
    """Load and warm up the engine of one stage, telling ``report`` how far it is; paced if the job emulates that.

    What it computes with later has the priority of this thread, whatever it is loaded with.

    Raises:
        ModelError: when weights are missing or not as the model's configuration says.
        DeploymentError: when this process has fewer devices than its node.
    """
    job = Job.model_validate(welcome.job)
    enable_compile_cache(cache_folder("compiled"))
    # jax's own threads begin with its devices, and inherit the priority of whoever asks for those first; so do ours.
    devices = devices_of_node(job, welcome.node)
    _ = jax.local_devices() if devices == 1 else several_devices(devices)
    share_products(job.nodes[welcome.node].cpus)
    engine = priority(lambda: _warm_engine(job, welcome, report, devices))
    pace_s = _pace(job, welcome) if job.runtime.emulate else None
    return TimedEngine(engine if pace_s is None else PacedEngine(engine, pace_s), _planned(job, welcome))


def _warm_engine(job: Job, welcome: Welcome, report: Report, devices: int) -> Engine:
    mark("worker welcomed")
    report("loading", 0.0, f"layers {welcome.layers} of {job.model.source}")
    source = job.model.parsed_source

    def fetched(done: int, total: int) -> None:
        report("loading", done / total, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB of {source.location}")

    fetch_layers(source, read_geometry(source), welcome.layers, fetched)
    shard = load_layers(job, welcome.layers, devices)
    mark("worker loaded")
    engine = Engine(
        shard,
        num_pages=max(1, welcome.kv_tokens // PAGE_TOKENS),
        max_batch=job.runtime.max_batch,
        max_context=job.model.context,
        max_prefill=job.runtime.max_prefill_tokens,
        tokenizer=partial(load_tokenizer, source),
        kv=job.model.kv,
        window=welcome.kv_window,
        attention=attention_of(job, shard, welcome.kv_tokens),
        drafts=0 if job.runtime.speculation is None else job.runtime.speculation.drafts,
        **backend_defaults(),
    )
    for step in engine.warm_up(only_first=True):
        report("compiling", step.done / step.total, step.shape)
    traced_s, compiled_s = spent_s()
    mark("worker compiled", traced_s=traced_s, compiled_s=compiled_s)
    return engine


def attention_of(job: Job, shard: DecoderShard | SharedShard, kv_tokens: int) -> AttentionChoice:
    """The attention kernels of the job's workers on this device, tried within ``kv_tokens`` of KV cache.

    Raises:
        DeploymentError, ModelError: as ``choose_attention``.
    """
    geometry = shard.shares[0].geometry if isinstance(shard, SharedShard) else shard.geometry
    rows, longest = job.runtime.max_batch, job.model.context or geometry.context_length
    batches = AttentionBatches(
        rows=rows,
        piece=min(job.runtime.max_prefill_tokens, longest),
        context=max(PAGE_TOKENS, min(longest, _TRIED_CONTEXT, kv_tokens // rows)),
        page_tokens=PAGE_TOKENS,
    )
    return choose_attention(job.runtime.attention, geometry, job.model.dtype, job.model.kv, batches)


def devices_of_node(job: Job, node: str) -> int:
    """Devices that a node's worker computes on; one where it only keeps to the time of several."""
    return 1 if job.runtime.emulate else device_count(job.nodes[node].gpu)


def load_layers(job: Job, layers: LayerRange, devices: int) -> DecoderShard | SharedShard:
    """Layers of the job's model, on the default device or shares of them on several.

    Raises:
        ModelError: as ``load_shard`` and ``load_shares``.
        DeploymentError: when this process has fewer devices.
    """
    source, model, layout = job.model.parsed_source, job.model, matrix_layout
    geometry, kept = read_geometry(source), model.weights
    if devices == 1:
        return load_shard(source, geometry, layers, dtype=model.dtype, seed=model.seed, layout=layout(), kept=kept)
    found = several_devices(devices)
    return load_shares(source, geometry, layers, found, dtype=model.dtype, seed=model.seed, layout=layout(), kept=kept)


def _planned(job: Job, welcome: Welcome) -> BatchSeconds:
    """How long batches are planned to take on the node's GPU type at full speed."""
    geometry, layers = read_geometry(job.model.parsed_source), len(welcome.layers)
    requests, gpu = mean_request(job, geometry), job.nodes[welcome.node].gpu
    shape = geometry.attention.shape(welcome.layers)
    return as_profiled(stage_timing(job, geometry, requests, gpu, layers, welcome.kv_tokens, "planned", shape))


def _pace(job: Job, welcome: Welcome) -> BatchSeconds | None:
    """How long batches are to take: as the node's profile says, else longer by its speed; ``None`` as they come."""
    node, geometry = job.nodes[welcome.node], read_geometry(job.model.parsed_source)
    if is_measured(job, geometry, node.gpu):
        requests, layers = mean_request(job, geometry), len(welcome.layers)
        kv_tokens, shape = welcome.kv_tokens, geometry.attention.shape(welcome.layers)
        return as_profiled(node_timing(job, geometry, requests, welcome.node, layers, kv_tokens, "planned", shape))
    return slowed(node.speed, on_cpu=jax.default_backend() == "cpu") if node.speed < 1 else None
