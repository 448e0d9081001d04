"""TLS handshakes: connections like others, that count as such and have their time.

Asyncio's own server shows a connection only once it is encrypted. Doesn't know HTTP.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from helix_df.runtime.api.connections import ConnectionLimits, Crowd


def after_handshake(protocol: Callable[..., Any], tls: ssl.SSLContext, limits: ConnectionLimits, crowd: Crowd) -> Any:
    """What uvicorn makes a protocol with, for each connection: a handshake, and then what ``protocol`` makes."""
    return partial(HandshakeProtocol, protocol=protocol, tls=tls, limits=limits, crowd=crowd)


class HandshakeProtocol(asyncio.Protocol):
    """One connection until it is encrypted. It has ``limits.head_s`` for that, and gives way as half a head does."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        protocol: Callable[..., Any],
        tls: ssl.SSLContext,
        limits: ConnectionLimits,
        crowd: Crowd,
    ) -> None:
        self._make = partial(protocol, config, server_state, app_state, _loop)
        self._connections: set[Any] = server_state.connections
        self._tls = tls
        self._limits = limits
        self._crowd = crowd
        self._early = bytearray()
        self._lost = False
        self._loop = _loop or asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, if there is room; without encryption there is nothing to be said."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._connections) >= self._limits.connections and not self._crowd.give_way():
            self._crowd.refused["connections"] += 1
            transport.abort()
            return
        self._connections.add(self)
        self._crowd.unheard[self] = None
        self._task = self._loop.create_task(self._encrypt())

    def data_received(self, data: bytes) -> None:
        """Keep what comes with the end of the handshake, sooner than this side knows that it is over."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._lost = True
        self._forget()

    def drop(self) -> None:
        """Close the connection at once."""
        self._forget()
        self._transport.abort()

    def shutdown(self) -> None:
        """As uvicorn ends connections."""
        self.drop()

    def _forget(self) -> None:
        self._connections.discard(self)
        self._crowd.unheard.pop(self, None)

    async def _encrypt(self) -> None:
        try:
            transport = await self._loop.start_tls(
                self._transport, self, self._tls, server_side=True, ssl_handshake_timeout=self._limits.head_s
            )
        except OSError:  # also what isn't TLS, and a handshake that takes too long
            self._crowd.refused["handshake"] += 1
            return
        finally:
            self._forget()
        if transport is None or self._lost:
            return
        inner = self._make()
        transport.set_protocol(inner)
        inner.connection_made(transport)
        if self._early:
            inner.data_received(bytes(self._early))
