"""``helix-df status``: how a running job does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from helix_df.runtime.overview import MOST_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from helix_df.runtime.jobs.directory import JobDirectory
    from helix_df.runtime.overview import NodeOverview
    from helix_df.runtime.requests import JobStatus, NodeStatus

MOST_TOLD = 8
"""Nodes of which the same is said."""


def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show each node by itself, however many there are.")
    ] = False,
    node: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Show these nodes alone, each by itself: `l4-tokyo-*`, say; repeatable."),
    ] = None,
) -> None:
    """Show a running job and its nodes, or list the running jobs.

    Of many nodes, those that are alike share a row, after those that are ill.
    """
    from helix_df.cli.console import output
    from helix_df.runtime.jobs.directory import running_jobs

    console = output()
    running = running_jobs()
    if name is None and len(running) != 1:
        _list(running, as_json, console)
        return
    _show(name, as_json, everything, node or [], console)


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


def _show(name: str | None, as_json: bool, everything: bool, patterns: list[str], console: Console) -> None:
    import json
    from dataclasses import asdict, replace

    from helix_df import deployment
    from helix_df.cli.console import print_trimmed
    from helix_df.cli.words import plural
    from helix_df.runtime.jobs.directory import find_running

    url = find_running(name)[1].url
    found = deployment.status(name)
    if patterns:
        found, everything = replace(found, nodes=_matching(found, patterns)), True
    if as_json:
        typer.echo(json.dumps({"url": url, **asdict(found)}, indent=1))
        return
    why = f": {found.detail or _missing(found)}" if found.detail or not found.ready else ""
    console.print(f"job {found.name} is {found.state}{why}\nmodel {found.model} at {url}", soft_wrap=True)
    console.print(
        f"{found.running} running, {found.waiting} waiting, {found.finished} finished, {found.failed} failed · "
        f"{found.prompt_tokens:,} prompt and {found.generated_tokens:,} generated tokens"
        f"{_reuse(found)}{_drafts(found)}\n",
        soft_wrap=True,
    )
    print_trimmed(console, nodes_table(found, None if everything else MOST_ROWS))
    if found.change:
        console.print(f"\n{found.change}", soft_wrap=True)
    if found.restarts:
        console.print(
            f"\nthe coordinator was started again {plural(found.restarts, 'time')} so far; the last time because it "
            f"{found.last_restart}",
            soft_wrap=True,
        )
    for line in _some([f"{tail} doesn't reach {head}, so requests go by other ways" for tail, head in found.cut_hops]):
        console.print(f"\n{line}", soft_wrap=True)
    if found.scaled:
        console.print(f"\n{found.scaled}", soft_wrap=True)
    if found.slower:
        console.print(f"\n{found.slower}", soft_wrap=True)
    if found.replanned:
        console.print(f"\n{found.replanned}", soft_wrap=True)
    for told in _told_of_nodes(found):
        for line in _some(told):
            console.print(f"\n{line}", soft_wrap=True)


def _told_of_nodes(found: JobStatus) -> Iterator[list[str]]:
    """What there is to say of nodes, a line each, by what it is."""
    from helix_df.cli.words import names, plural

    yield [
        f"{where} received {plural(count, 'illegal event')}; `helix-df logs {found.name}` shows them"
        for where, count in _illegal(found)
    ]
    yield [
        f"{node.name} computed numbers that aren't finite for {node.not_finite} requests, which failed: its weights or "
        "its device are damaged, or model.dtype is too narrow"
        for node in found.nodes
        if node.not_finite
    ]
    yield [
        f"{node.name} ended by itself and was started again: {plural(node.restarts, 'time')} so far"
        for node in found.nodes
        if node.restarts
    ]
    yield [
        f"`helix-df logs {found.name} --node {node.name}` has the last words of {node.name}"
        for node in found.nodes
        if node.state == "failed"
    ]
    yield [
        f"{node.name} waits for this command on its host:\n  {node.join_command}"
        for node in found.nodes
        if node.join_command is not None and node.state != "ready"
    ]
    kernels = sorted({node.attention for node in found.nodes} - {"", "gather"})
    yield [
        f"attention by {kernel} on {names([node.name for node in found.nodes if node.attention == kernel])}"
        for kernel in kernels
    ]


def _some(lines: list[str]) -> list[str]:
    """The first few, and how many more there are."""
    rest = len(lines) - MOST_TOLD
    if rest <= 0:
        return lines
    return [*lines[:MOST_TOLD], f"… and {rest:,} more such nodes or links; `--node NAME` and `--json` tell of each"]


def _matching(found: JobStatus, patterns: list[str]) -> tuple[NodeStatus, ...]:
    """Nodes that some pattern names.

    Raises:
        DeploymentError: when none is named.
    """
    from fnmatch import fnmatchcase

    from helix_df.cli.words import names
    from helix_df.errors import DeploymentError

    nodes = tuple(node for node in found.nodes if any(fnmatchcase(node.name, pattern) for pattern in patterns))
    if not nodes:
        raise DeploymentError(
            f"job {found.name} has no such node",
            where="--node",
            found=", ".join(patterns),
            expected=names([node.name for node in found.nodes]),
        )
    return nodes


def _missing(found: JobStatus) -> str:
    from helix_df.runtime.requests import what_is_missing

    states = {node.name: node.state for node in found.nodes if node.role == "serving"}
    return what_is_missing(states, found.missing_layers, found.cut_hops)


def _state(node: NodeOverview) -> str:
    words = node.state if node.progress in (0, 1) else f"{node.state} {node.progress:.0%}"
    more = [*([node.role] if node.role != "serving" else []), *(["drained"] if node.drained else [])]
    return ", ".join([words, *more])


def _illegal(found: JobStatus) -> list[tuple[str, int]]:
    counts = [("the coordinator", found.illegal_events), *((node.name, node.illegal_events) for node in found.nodes)]
    return [(where, count) for where, count in counts if count]


def _kept(node: NodeOverview) -> str:
    return f", {node.kv_kept_tokens:,} kept" if node.kv_kept_tokens else ""


def _reuse(found: JobStatus) -> str:
    if not found.prefix_hits:
        return ""
    return f" · {found.cached_tokens:,} tokens found in KV cache by {found.prefix_hits:,} requests"


def _drafts(found: JobStatus) -> str:
    if not found.drafted_tokens:
        return ""
    return f" · {found.accepted_tokens:,} of {found.drafted_tokens:,} drafted tokens were drawn"


def nodes_table(found: JobStatus, most: int | None = MOST_ROWS) -> Table:
    """Nodes, their layers and how they are; of more than ``most``, those that are alike as one row."""
    from helix_df.cli.words import plain_table
    from helix_df.runtime.overview import node_rows
    from helix_df.runtime.wire.keys import without_key

    figures = ("running", "KV tokens")
    rows = node_rows(found.nodes, len(found.nodes) if most is None else most)
    address = {node.name: without_key(node.address or "") for node in found.nodes}
    grouped = any(row.count > 1 for row in rows)
    titles = ("nodes", "count") if grouped else ("node",)
    where = () if grouped else ("address",)
    table = plain_table(*titles, "layers", "state", *figures, *where, "detail", numbers=(*figures, "count"))
    for row in rows:
        table.add_row(
            row.name,
            *((f"{row.count:,}",) if grouped else ()),
            _layers(row),
            _state(row),
            f"{row.running:,}",
            f"{row.kv_used_tokens:,} of {row.kv_capacity_tokens:,}{_kept(row)}",
            *(() if grouped else (address[row.name],)),
            row.detail,
        )
    return table


def _layers(row: NodeOverview) -> str:
    held = " ".join(f"[{start}, {stop})" for start, stop in row.layers)
    return held if row.ranges == 1 else f"{held} in {row.ranges} ranges"
