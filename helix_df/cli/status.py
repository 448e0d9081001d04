"""``helix-df status``: how a running job does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from helix_df.runtime.jobs.directory import JobDirectory
    from helix_df.runtime.requests import JobStatus, NodeStatus


def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as JSON.")] = False,
) -> None:
    """Show a running job and its nodes, or list the running jobs."""
    from helix_df.cli.console import output
    from helix_df.runtime.jobs.directory import running_jobs

    console = output()
    running = running_jobs()
    if name is None and len(running) != 1:
        _list(running, as_json, console)
        return
    _show(name, as_json, console)


def _list(running: list[JobDirectory], as_json: bool, console: Console) -> None:
    import json

    from helix_df.cli.console import print_trimmed
    from helix_df.cli.words import plain_table

    records = [(job, job.record()) for job in running]
    if as_json:
        jobs = [{"name": job.name, "state": r.state, "url": r.url} for job, r in records if r is not None]
        typer.echo(json.dumps({"jobs": jobs}))
        return
    if not running:
        console.print("no job is running; `helix-df apply JOB.yaml` starts one")
        return
    table = plain_table("job", "state", "API")
    for job, record in records:
        table.add_row(job.name, record.state if record else "starting", (record.url if record else None) or "")
    print_trimmed(console, table)


def _show(name: str | None, as_json: bool, console: Console) -> None:
    import json
    from dataclasses import asdict

    from helix_df import deployment
    from helix_df.cli.console import print_trimmed
    from helix_df.cli.words import plural
    from helix_df.runtime.jobs.directory import find_running

    url = find_running(name)[1].url
    found = deployment.status(name)
    if as_json:
        typer.echo(json.dumps({"url": url, **asdict(found)}, indent=1))
        return
    why = f": {found.detail or _missing(found)}" if found.detail or not found.ready else ""
    console.print(f"job {found.name} is {found.state}{why}\nmodel {found.model} at {url}", soft_wrap=True)
    console.print(
        f"{found.running} running, {found.waiting} waiting, {found.finished} finished, {found.failed} failed · "
        f"{found.prompt_tokens:,} prompt and {found.generated_tokens:,} generated tokens{_reuse(found)}\n",
        soft_wrap=True,
    )
    print_trimmed(console, nodes_table(found))
    if found.change:
        console.print(f"\n{found.change}", soft_wrap=True)
    if found.restarts:
        console.print(
            f"\nthe coordinator was started again {plural(found.restarts, 'time')} so far; the last time because it "
            f"{found.last_restart}",
            soft_wrap=True,
        )
    for tail, head in found.cut_hops:
        console.print(f"\n{tail} doesn't reach {head}, so requests go by other ways")
    if found.scaled:
        console.print(f"\n{found.scaled}", soft_wrap=True)
    if found.slower:
        console.print(f"\n{found.slower}", soft_wrap=True)
    if found.replanned:
        console.print(f"\n{found.replanned}", soft_wrap=True)
    for where, count in _illegal(found):
        console.print(
            f"\n{where} received {plural(count, 'illegal event')}; `helix-df logs {found.name}` shows them",
            soft_wrap=True,
        )
    for node in found.nodes:
        if node.not_finite:
            console.print(
                f"\n{node.name} computed numbers that aren't finite for {node.not_finite} requests, which failed: its "
                "weights or its device are damaged, or model.dtype is too narrow",
                soft_wrap=True,
            )
        if node.restarts:
            console.print(
                f"\n{node.name} ended by itself and was started again: {plural(node.restarts, 'time')} so far"
            )
        if node.state == "failed":
            console.print(f"\n`helix-df logs {found.name} --node {node.name}` has the last words of {node.name}")
        if node.join_command is not None and node.state != "ready":
            console.print(f"\n{node.name} waits for this command on its host:\n  {node.join_command}", soft_wrap=True)


def _missing(found: JobStatus) -> str:
    from helix_df.runtime.requests import what_is_missing

    states = {node.name: node.state for node in found.nodes if node.role == "serving"}
    return what_is_missing(states, found.missing_layers, found.cut_hops)


def _state(node: NodeStatus) -> str:
    words = node.state if node.progress in (0, 1) else f"{node.state} {node.progress:.0%}"
    more = [*([node.role] if node.role != "serving" else []), *(["drained"] if node.drained else [])]
    return ", ".join([words, *more])


def _illegal(found: JobStatus) -> list[tuple[str, int]]:
    counts = [("the coordinator", found.illegal_events), *((node.name, node.illegal_events) for node in found.nodes)]
    return [(where, count) for where, count in counts if count]


def _kept(node: NodeStatus) -> str:
    return f", {node.kv_kept_tokens:,} kept" if node.kv_kept_tokens else ""


def _reuse(found: JobStatus) -> str:
    if not found.prefix_hits:
        return ""
    return f" · {found.cached_tokens:,} tokens found in KV cache by {found.prefix_hits:,} requests"


def nodes_table(found: JobStatus) -> Table:
    """Nodes, their layers and how they are."""
    from helix_df.cli.words import plain_table
    from helix_df.runtime.wire.keys import without_key

    figures = ("running", "KV tokens")
    table = plain_table("node", "layers", "state", *figures, "address", "detail", numbers=figures)
    for node in found.nodes:
        table.add_row(
            node.name,
            f"[{node.layers[0]}, {node.layers[1]})",
            _state(node),
            str(node.running),
            f"{node.kv_used_tokens:,} of {node.kv_capacity_tokens:,}{_kept(node)}",
            without_key(node.address or ""),
            node.detail.partition("\n")[0],
        )
    return table
