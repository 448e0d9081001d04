"""``helix-df probe``: bandwidth and latency of links, as YAML for a job."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from helix_df.measuring.prober import MeasuredLink
    from helix_df.measuring.probing import Probed


def probe(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME | [NODE=]HOST:PORT…]",
            help="A running job's name (not needed while only one runs), or listeners and which nodes they are.",
        ),
    ] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Answer probes here until Ctrl-C.")] = None,
    loopback: Annotated[
        bool, typer.Option("--loopback", help="Measure between two processes of this machine.")
    ] = False,
) -> None:
    """Measure links: those of a running job, or to machines that run `helix-df probe --listen`.

    Messages are the runtime's own. The YAML goes under a job's `links`. Beyond loopback both sides need the same secret
    in $HELIX_DF_TOKEN.
    """
    from helix_df.cli.console import messages, output
    from helix_df.cli.words import plural
    from helix_df.errors import SpecError
    from helix_df.measuring import probing
    from helix_df.runtime.jobs.launchers.local import TOKEN_VARIABLE

    token = os.environ.get(TOKEN_VARIABLE)
    if sum((bool(targets), listen is not None, loopback)) > 1:
        raise SpecError("give either targets, --listen or --loopback")
    if listen is not None:
        _check_address(listen, "--listen")
        probing.listen_for_probes(listen, token, lambda address: typer.echo(f"listening at {address}"))
        return
    progress = messages()

    def show(link: MeasuredLink) -> None:
        progress.print(f"{' - '.join(link.between)}: {1e6 * link.latency_s:.0f} us, {link.bytes_per_s / 1e6:.0f} MB/s")

    def waiting(shapes: int) -> None:
        progress.print(f"waiting for the workers to compile {plural(shapes, 'more shape')}")

    names = [target.partition("=")[0] for target in targets or () if "=" in target]
    if loopback:
        found = probing.probe_loopback(on_link=show)
    elif targets and (len(targets) > 1 or ":" in targets[0]):
        addresses = {target.partition("=")[0]: target.rpartition("=")[2] for target in targets}
        for address in addresses.values():
            _check_address(address, "HOST:PORT")
        secret = probing.secret_for(list(addresses.values()), token)
        found = probing.probe_addresses(addresses, secret, on_link=show)
    else:
        found = probing.probe_job(targets[0] if targets else None, on_link=show, on_wait=waiting)
        names = ["job"]
    _render(found, output())
    typer.echo(f"\n{probing.links_yaml(found.links, named=bool(names))}", nl=False)
    for remark in found.remarks:
        progress.print(f"note: {remark}", soft_wrap=True)
    for difference in found.differences:
        progress.print(f"warning: {difference}", soft_wrap=True)


def _check_address(address: str, where: str) -> None:
    from helix_df.errors import SpecError
    from helix_df.spec.addresses import split_address

    try:
        port = split_address(address)[1]
    except ValueError as error:
        raise SpecError(str(error), where=where, found=address, expected="HOST:PORT") from None
    if port is None:
        raise SpecError("the address has no port", where=where, found=address, expected="HOST:PORT")


def _render(found: Probed, console: Console) -> None:
    from helix_df.cli.console import print_trimmed
    from helix_df.cli.words import plain_table

    sizes = [size for size, _ in found.links[0].round_trips] if found.links else []
    figures = ("latency", "bandwidth", *(f"{_size(size)} round trip" for size in sizes))
    table = plain_table("link", *figures, numbers=figures)
    for link in found.links:
        trips = (f"{1e3 * seconds:.3f} ms" for _, seconds in link.round_trips)
        table.add_row(
            " - ".join(link.between),
            f"{1e6 * link.latency_s:.0f} us",
            f"{link.bytes_per_s / 1e6:,.0f} MB/s",
            *trips,
        )
    print_trimmed(console, table)


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB" if size >= 1024 else f"{size} B"
