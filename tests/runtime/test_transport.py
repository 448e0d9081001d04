"""Endpoints: what is sent arrives, in order, and nobody hangs on a peer that is gone."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from helix_df.errors import DeploymentError, ProtocolError
from helix_df.runtime.wire.transport import Endpoint, listen
from tests.runtime.tiny import has_ipv6

SCHEMES = ["tcp://127.0.0.1:*", "local://*"]
if has_ipv6():
    SCHEMES.append("tcp://[::1]:*")


def take(endpoint: Endpoint, count: int) -> list[list[bytes]]:
    received: list[list[bytes]] = []
    while len(received) < count:
        more = endpoint.receive(10.0)
        assert more, f"only {len(received)} of {count} messages came"
        received += [[bytes(frame) for frame in frames] for frames in more]
    return received


@pytest.mark.parametrize("address", SCHEMES)
def test_messages_arrive_whole_and_in_order(address: str) -> None:
    here, there = listen(address), listen(address)
    try:
        tensor = np.arange(10_000, dtype=np.float32)
        for index in range(50):
            here.send(there.address, [b"%d" % index, tensor.view(np.uint8).data])
        received = take(there, 50)
        assert [frames[0] for frames in received] == [b"%d" % index for index in range(50)]
        assert all(frames[1] == tensor.tobytes() for frames in received)
        there.send(here.address, [b"back"])
        assert take(here, 1) == [[b"back"]]
    finally:
        here.close()
        there.close()


@pytest.mark.parametrize("address", SCHEMES)
def test_a_waiting_receiver_can_be_woken(address: str) -> None:
    endpoint = listen(address)
    woken: list[object] = []
    waiter = threading.Thread(target=lambda: woken.append(endpoint.receive(None)))
    waiter.start()
    endpoint.wake()
    waiter.join(10)
    assert woken == [[]]
    endpoint.close()


@pytest.mark.parametrize("address", SCHEMES)
def test_many_threads_may_send(address: str) -> None:
    here, there = listen(address), listen(address)

    def send_many(name: int) -> None:
        for _ in range(100):
            here.send(there.address, [b"%d" % name])

    threads = [threading.Thread(target=send_many, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    received = take(there, 400)
    for thread in threads:
        thread.join()
    assert sorted(frames[0] for frames in received) == sorted(b"%d" % name for name in range(4) for _ in range(100))
    here.close()
    there.close()


@pytest.mark.parametrize("address", SCHEMES)
def test_an_address_is_free_again_after_close_and_taken_before(address: str) -> None:
    first = listen(address)
    with pytest.raises(DeploymentError):
        listen(first.address)
    first.close()
    listen(first.address).close()


def test_sending_to_nobody_neither_blocks_nor_raises() -> None:
    gone = listen("tcp://127.0.0.1:*")
    gone.close()
    here = listen("tcp://127.0.0.1:*")
    for _ in range(20_001):
        here.send(gone.address, [b"x"])
    here.close()


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(ProtocolError, match="tcp://"):
        listen("carrier-pigeon://coop")
