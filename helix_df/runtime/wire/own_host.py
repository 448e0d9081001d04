"""Which of this host's addresses others reach it at, where nobody has said so."""

from __future__ import annotations

import socket

from helix_df.errors import DeploymentError
from helix_df.runtime.wire.keys import split_endpoint
from helix_df.spec.addresses import ANYWHERE, split_address


def at_own_host(listen: str, coordinator: str) -> str:
    """An endpoint to listen at, with this host's own address in place of ``auto``.

    It is the one from which packets to the coordinator leave. Nothing is sent.

    Raises:
        DeploymentError: when there is no way to the coordinator's host.
    """
    scheme, _, place = split_endpoint(listen)
    host, port = split_address(place)
    if host != ANYWHERE:
        return listen
    there, its_port = split_address(split_endpoint(coordinator)[2])
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(there.strip("[]"), its_port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise DeploymentError("there is no way to the coordinator", where=coordinator, found=str(error)) from error
    return f"{scheme}://{f'[{own}]' if ':' in own else own}:{port or '*'}"
