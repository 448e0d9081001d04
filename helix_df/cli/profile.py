"""``helix-df profile``: milliseconds a layer on this device, as YAML for a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.measuring.device_profile import DeviceProfile
    from helix_df.measuring.tracing import EngineTrace


def profile(
    source: Annotated[
        str, typer.Argument(metavar="MODEL_OR_JOB", help="A job file, a plan (.json), or a model: package:…, hf:…")
    ],
    node: Annotated[str | None, typer.Option(metavar="NODE", help="Which node of the job this machine is.")] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Numbers of layers to run at once; by default 1,2,4.")
    ] = None,
    prefill: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Prompt tokens of the prefills; by default 16,64,256.")
    ] = None,
    decode: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Requests of the decode steps; by default 1,4,8,16.")
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Timed runs of each batch, by default 7; of a trace, 3.")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="Of a model that is given without a job.")] = "float32",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the YAML to this file instead of printing it.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Time nothing; trace one prefill and decode step into this folder instead."),
    ] = None,
) -> None:
    """Time a model's layers on this device with the runtime's own engine.

    Compilation doesn't count; every time is a median. The YAML goes under a job's `gpus`.
    """
    from helix_df.cli.console import messages, output, write_file
    from helix_df.cli.option_values import whole_numbers
    from helix_df.errors import SpecError
    from helix_df.measuring.drift import profile_differences
    from helix_df.measuring.profiling import (
        REPEAT,
        TRACED_RUNS,
        job_to_profile,
        profile_device,
        profile_yaml,
        trace_device,
    )

    job = job_to_profile(source, dtype)
    held, tokens, requests = (
        whole_numbers(option, given)
        for option, given in (("--layers", layers), ("--prefill", prefill), ("--decode", decode))
    )
    if trace is not None:
        if out is not None:
            raise SpecError(
                "a trace has no YAML to write", where="--out", found=str(out), expected="no --trace with it"
            )
        traced = trace_device(
            job, trace, node, layers=held, prefill=tokens, decode=requests, repeat=repeat or TRACED_RUNS
        )
        _render_trace(traced, output())
        return
    progress = messages()
    measured = profile_device(
        job,
        node,
        layers=held,
        prefill=tokens,
        decode=requests,
        repeat=repeat or REPEAT,
        on_sample=lambda s: progress.print(f"{s.kind} of {s.size}, layers {s.layers}: {1e3 * s.median_s:.3g} ms"),
    )
    _render(measured, output())
    if out is None:
        output().print(f"\n{profile_yaml(measured)}", soft_wrap=True, end="")
    else:
        write_file(out, profile_yaml(measured), "the YAML", SpecError)
        output().print(f"\nwritten to {out}")
    for difference in profile_differences(job, measured):
        progress.print(f"warning: {difference}", soft_wrap=True)


def _render(measured: DeviceProfile, console: Console) -> None:
    from helix_df.cli.console import print_trimmed
    from helix_df.cli.words import plain_table, plural

    figures = ("size", "layers", "ms", "ms per layer", "spread")
    table = plain_table("batch", *figures, numbers=figures)
    for sample in sorted(measured.samples, key=lambda s: (s.kind != "prefill", s.size, s.layers)):
        table.add_row(
            sample.kind,
            plural(sample.size, "token" if sample.kind == "prefill" else "request"),
            str(sample.layers),
            f"{1e3 * sample.median_s:.3f}",
            f"{sample.layer_ms:.3f}",
            f"{sample.spread:.0%}",
        )
    console.print(f"{measured.model} on {measured.device}\n", soft_wrap=True)
    print_trimmed(console, table)
    console.print(
        f"\ndecode after {measured.context} tokens of context\n"
        f"memory {measured.memory.total_bytes / 1e9:.2f} GB ({measured.memory.source}), "
        f"a layer's weights {measured.weights_bytes / 1e6:.1f} MB\n{_kv(measured.kv_tokens)}",
        soft_wrap=True,
    )


def _kv(kv_tokens: tuple[int, ...]) -> str:
    from helix_df.cli.words import plural

    if not kv_tokens:
        return "no layer fits with KV cache for a request"
    shown = sorted({1, max(1, len(kv_tokens) // 2), len(kv_tokens)})
    beside = (f"{plural(kv_tokens[n - 1], 'token')} beside {plural(n, 'layer')}" for n in shown)
    return f"KV cache left: {', '.join(beside)}"


MOST_SCOPES = 20
"""Of a trace, those that are shown."""


def _render_trace(traced: EngineTrace, console: Console) -> None:
    from helix_df.cli.console import print_trimmed
    from helix_df.cli.words import plain_table, plural

    sizes = {"prefill": plural(traced.prefill, "token"), "decode": plural(traced.decode, "request")}
    figures = ("ms", "share", *(f"{phase}, ms" for phase in sizes), "operations")
    table = plain_table("scope", *figures, numbers=figures)
    whole = sum(one.total_s for one in traced.scopes)
    for one in traced.scopes[:MOST_SCOPES]:
        each = (f"{1e3 * one.seconds.get(phase, 0.0) / traced.runs:.3f}" for phase in sizes)
        table.add_row(
            one.scope,
            f"{1e3 * one.total_s / traced.runs:.3f}",
            f"{one.total_s / whole:.0%}",
            *each,
            f"{one.operations / traced.runs:.0f}",
        )
    console.print(
        f"layers {traced.layers} on {traced.device}, attention by {traced.attention}: a prefill of {sizes['prefill']} "
        f"and a decode step of {sizes['decode']}, means of {plural(traced.runs, 'run')}\n",
        soft_wrap=True,
    )
    print_trimmed(console, table)
    if len(traced.scopes) > MOST_SCOPES:
        console.print(f"and {plural(len(traced.scopes) - MOST_SCOPES, 'scope')} more")
    console.print(
        f"\nwritten to {traced.path.parent}; TensorBoard's profile plugin opens {traced.path.parents[3]}, "
        "and ui.perfetto.dev the file *.trace.json.gz",
        soft_wrap=True,
    )
