"""``helix-df discover``: the hosts of a cluster as a part of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def discover(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="Its kind: ray, slurm or kubernetes.")],
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Which one: host:6379 of Ray, the name of a Slurm cluster, a context of the kubeconfig. By default "
            "the one that this host belongs to.",
            show_default=False,
        ),
    ] = None,
    gpu_types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="LABEL=GPU",
            help="Hosts with this label, or devices that the cluster calls so, are of this GPU type.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file.", show_default=False)] = None,
) -> None:
    """Write what hosts a cluster has as a part of a job.

    Hosts that are alike are one entry under nodes, with the launcher of the cluster and what it needs to find them
    again. A job takes the part in by include.
    """
    from helix_df.cli.console import messages, output, write_file
    from helix_df.discovery.part import part_of
    from helix_df.discovery.registry import get_discoverer
    from helix_df.errors import FileError

    types = _types(gpu_types or [])
    discoverer = get_discoverer(cluster)
    part = part_of(cluster, discoverer, discoverer.find(address), types)
    for host, reason in part.left_out:
        messages().print(f"left out {host}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if out is None:
        output().print(part.text, end="", markup=False, highlight=False, soft_wrap=True)
        return
    write_file(out, part.text, "the part of a job", FileError)
    messages().print(f"written to {out}", markup=False, highlight=False, soft_wrap=True)


def _types(said: list[str]) -> dict[str, str]:
    from helix_df.errors import SpecError

    found = {}
    for text in said:
        label, _, gpu = text.rpartition("=")
        if not label or not gpu:
            raise SpecError(
                "this can't be read", where="--type", found=repr(text), expected="LABEL=GPU, such as a100=A100-80GB"
            )
        found[label] = gpu
    return found
