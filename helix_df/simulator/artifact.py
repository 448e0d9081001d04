"""The rules of the Helix paper's published simulator (arXiv 2406.01566, artifact under Apache-2.0), in one place.

Where they differ from the runtime's, ``Options`` has a name for the choice; here is which choices they are. The
fidelity table (``benchmarks.fidelity_table``) sets the published figures beside what comes of them.
"""

from __future__ import annotations

from dataclasses import replace

from helix_df.simulator.options import FeedByKv, HoldInFlight, Options

COPY_BYTES_PER_S = 1 / (1 / 4e9 + 1 / 5e9)
"""The published simulator joins activations at 4 GB/s and moves them to the device at 5 GB/s."""

ARTIFACT = Options(
    sees="everything",
    when_full="drop",
    expected_output=1.0,
    max_queue=10**9,
    max_batch=None,
    max_prefill_tokens=None,
    kv_by_layer=True,
    batching="arrival",
    prefill_chunk=None,
    merge_prefills=True,
    rides=False,
    context_per_slot=1000,
    layer_steps=True,
    micro_batches=False,
    bundles=False,
    message_bytes=0,
    kv_page_tokens=1,
    drafts=0,
    copy_bytes_per_s=COPY_BYTES_PER_S,
    prefill_gives_token=False,
    backs_off=False,
)
"""The rules of the Helix paper's published simulator (arXiv 2406.01566, artifact under Apache-2.0)."""


def artifact_offline(**changes: object) -> Options:
    """Its saturating runs under flow scheduling: admit below 0.85 of the KV cache, feed below 0.8, 60 s of warm-up."""
    options = replace(ARTIFACT, scheduler="flow-tokens", kv_high_water=0.85, feed=FeedByKv())
    return replace(options, **changes)  # type: ignore[arg-type]


def artifact_online(**changes: object) -> Options:
    """Its runs under arrivals and flow scheduling: no warm-up, 1,800 s."""
    options = replace(
        ARTIFACT,
        scheduler="flow-tokens",
        kv_high_water=0.9,
        mean_output=0.6 * 240,
        warmup_s=0.0,
        seconds=1800.0,
    )
    return replace(options, **changes)  # type: ignore[arg-type]


def artifact_baseline(scheduler: str, in_flight: int | None = None, **changes: object) -> Options:
    """Its runs of other schedulers, which choose hop by hop and admit everything; ``in_flight`` makes it saturating."""
    options = replace(ARTIFACT, scheduler=scheduler, routing="hop", admission="open")
    if in_flight is None:
        options = replace(options, warmup_s=0.0, seconds=1800.0)
    else:
        options = replace(options, feed=HoldInFlight(in_flight))
    return replace(options, **changes)  # type: ignore[arg-type]
