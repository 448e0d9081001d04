"""Parallax without its scheduler: start and end layers for each node.

Sources (github.com/GradientHQ/parallax): ``src/parallax/server/server_args.py`` (``--start-layer`` inclusive,
``--end-layer`` exclusive, ``--tp-size``, ``--initial-peers``). ``src/parallax/p2p/server.py``: without
``--scheduler-addr`` every node announces its range; one that starts at layer 0 takes requests and sends them all along
the shortest way of ranges that meet exactly. So several pipelines run as planned when only first stages are replicated:
then each has one way on.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import groupby

from helix_df.exporters.api import Command, Export
from helix_df.exporters.pipelines import busy_stages, gpu_count, idle_note, model_path, refusal, said, worker_host
from helix_df.graph.flow import FlowPath
from helix_df.plan.plan import Plan, Stage

NAME = "Parallax"
FIRST_PORT = 3000


def export(plan: Plan) -> Export:
    """The commands that start every node of a plan with its layers.

    Raises:
        PlanError: for requests that join a node in the middle of its layers, or that have more than one way on.
    """
    stages = sorted(busy_stages(plan), key=lambda stage: (stage.layers, stage.node))
    _require_whole_stages(plan, plan.paths())
    _require_one_way_on(stages)
    model, model_notes = model_path(plan.job, "hf")
    commands = []
    ports: dict[str, int] = {}
    for i, stage in enumerate(stages):
        host = worker_host(plan.job, stage.node)
        ports[host] = ports.get(host, FIRST_PORT - 1) + 1
        text = _start(plan, stage, model, host, ports[host])
        # Everybody but the first needs the address of a peer, which that one prints.
        commands.append(Command(host, (stage.node,), text + (' --initial-peers "$FIRST_PEER"' if i else "")))
    facts = {"layers": {stage.node: [stage.layers.start, stage.layers.stop] for stage in stages}}
    notes = (*idle_note(plan), *model_notes, *_head_note(plan, stages), _PEER_NOTE)
    return Export("parallax", tuple(commands), facts, notes)


_PEER_NOTE = "FIRST_PEER is the multiaddress that the first command prints; set it where the others start"


def _start(plan: Plan, stage: Stage, model: str, host: str, port: int) -> str:
    arguments = ["python", "src/parallax/launch.py", "--model-path", model]
    arguments += ["--start-layer", str(stage.layers.start), "--end-layer", str(stage.layers.stop)]
    arguments += ["--tp-size", str(gpu_count(plan.job, stage.node)), "--dtype", plan.job.model.dtype]
    if plan.job.model.context is not None:
        arguments += ["--max-sequence-length", str(plan.job.model.context)]
    return shlex.join([*arguments, "--host", host, "--port", str(port)])


def _require_whole_stages(plan: Plan, paths: Sequence[FlowPath]) -> None:
    placement = plan.placement
    partial = {
        f"requests run only {hop.layers} of {hop.node} {placement[hop.node]}"
        for path in paths
        for hop in path.hops
        if hop.layers != placement[hop.node]
    }
    if partial:
        raise refusal(
            "Parallax requests run all layers of every node they pass",
            sorted(partial),
            expected="ranges that meet exactly",
            hint="plan with solver.partial_inference: false",
        )


def _require_one_way_on(stages: Sequence[Stage]) -> None:
    groups = [list(group) for _, group in groupby(stages, key=lambda stage: stage.layers.start)]
    rivals = [
        f"{' and '.join(said(stage) for stage in group)} start at layer {group[0].layers.start}"
        for group in groups
        if len(group) > 1 and group[0].layers.start > 0
    ]
    if rivals:
        raise refusal(
            "Parallax sends requests one way only, so of nodes that start at the same layer all but one stay idle",
            rivals,
            expected="one node that starts at each layer where another ends",
        )


def _head_note(plan: Plan, stages: Sequence[Stage]) -> tuple[str, ...]:
    heads = [stage for stage in stages if stage.layers.start == 0]
    if len(heads) < 2:
        return ()
    flows = {edge.head: edge.tokens_per_s for edge in plan.edges}
    shares = ", ".join(f"{stage.node} {flows[stage.node] / plan.flow:.1%}" for stage in heads)
    return (f"share requests out over the first stages by the plan's flow: {shares}",)
