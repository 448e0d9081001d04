"""``helix-df validate``: check a job file without planning it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def validate(
    job_file: Annotated[Path, typer.Argument(metavar="JOB", help="The job file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what the job has as JSON.")] = False,
) -> None:
    """Check a job file without planning it.

    That is its syntax, names and units, the model, the solver and its options, and that the model fits on the nodes.
    Where the job's own speeds contradict measured curves of the same devices, it says so.
    """
    from helix_df.check import check_job
    from helix_df.cli.console import output, print_json
    from helix_df.cli.speeds import tell_speeds
    from helix_df.cli.words import plural
    from helix_df.load import load_job

    job = load_job(job_file)
    if job.offers and not job.nodes:
        from helix_df.sizing.market import Market
        from helix_df.solvers.choice import choose_solver

        with job.places.told():
            choose_solver(job)
            layers = Market(job).whole.num_layers
        if as_json:
            print_json({"name": job.name, "layers": layers, "offers": len(job.offers)})
            return
        words = f"{job.model.source} has {layers} layers, and no nodes yet but {plural(len(job.offers), 'offer')}"
        output().print(f"{job.name} is valid: {words}: helix-df size {job_file}", soft_wrap=True)
        return
    problem = check_job(job)
    tell_speeds([job])
    room = sum(node.max_layers for node in problem.nodes)
    if as_json:
        print_json({"name": job.name, "layers": problem.num_layers, "nodes": len(problem.nodes), "room": room})
        return
    output().print(
        f"{job.name} is valid: {job.model.source} has {problem.num_layers} layers, "
        f"{_nodes(len(problem.nodes))} room for {room}",
        soft_wrap=True,
    )


def _nodes(count: int) -> str:
    return "1 node has" if count == 1 else f"{count} nodes have"
