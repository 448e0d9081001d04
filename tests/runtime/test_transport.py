"""Endpoints: what is sent arrives, in order, and nobody hangs on a peer that is gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from helix_df.errors import DeploymentError, ProtocolError
from helix_df.runtime.wire import transport
from helix_df.runtime.wire.keys import newly_connected, same_endpoint, split_endpoint, with_key, without_key
from helix_df.runtime.wire.transport import (
    MOST_FRAME_BYTES,
    MOST_PEERS,
    TAKEN_AT_ONCE,
    Endpoint,
    endpoint_keys,
    listen,
    new_key_pair,
    shared_keys,
)
from tests.runtime.tiny import has_ipv6

ENCRYPTED = "curve://127.0.0.1:*"
SCHEMES = ["tcp://127.0.0.1:*", "local://*", ENCRYPTED]
if has_ipv6():
    SCHEMES += ["tcp://[::1]:*", "curve://[::1]:*"]


TOKEN = "secret"


def open_at(address: str, most_bytes: int = MOST_FRAME_BYTES, token: str = TOKEN) -> Endpoint:
    """An endpoint; with the keys of a job where it is encrypted."""
    return listen(address, most_bytes, endpoint_keys(None, token) if address.startswith("curve") else None)


def take(endpoint: Endpoint, count: int) -> list[list[bytes]]:
    received: list[list[bytes]] = []
    while len(received) < count:
        more = endpoint.receive(10.0)
        assert more, f"only {len(received)} of {count} messages came"
        received += [[bytes(frame) for frame in frames] for frames in more]
    return received


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)


@pytest.mark.parametrize("address", SCHEMES)
def test_messages_arrive_whole_and_in_order(address: str) -> None:
    here, there = open_at(address), open_at(address)
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
    endpoint = open_at(address)
    woken: list[object] = []
    waiter = threading.Thread(target=lambda: woken.append(endpoint.receive(None)))
    waiter.start()
    endpoint.wake()
    waiter.join(10)
    assert woken == [[]]
    endpoint.close()


@pytest.mark.parametrize("address", SCHEMES)
def test_many_threads_may_send(address: str) -> None:
    here, there = open_at(address), open_at(address)

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
    first = open_at(address)
    with pytest.raises(DeploymentError):
        open_at(without_key(first.address))
    first.close()
    open_at(without_key(first.address)).close()


def test_sending_to_nobody_neither_blocks_nor_raises() -> None:
    gone = listen("tcp://127.0.0.1:*")
    gone.close()
    here = listen("tcp://127.0.0.1:*")
    for _ in range(20_001):
        here.send(gone.address, [b"x"])
    here.close()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:*", ENCRYPTED])
def test_who_is_gone_is_unreachable_until_somebody_listens_there_again(address: str) -> None:
    keys = endpoint_keys(None, TOKEN) if address == ENCRYPTED else None
    here, there, other = open_at(address), listen(address, keys=keys), open_at(address)
    here.watch(0.5)
    here.send(there.address, [b"x"])
    here.send(other.address, [b"x"])
    take(there, 1)
    take(other, 1)
    assert here.unreachable() == frozenset()
    there.close()
    until(lambda: here.unreachable() == {there.address})
    again = listen(without_key(there.address), keys=keys)
    until(lambda: here.unreachable() == frozenset())
    here.send(there.address, [b"y"])
    assert take(again, 1) == [[b"y"]]
    for endpoint in (here, other, again):
        endpoint.close()


def test_who_was_never_there_is_unreachable_after_a_while_and_each_end_is_told_once() -> None:
    here, gone = listen("tcp://127.0.0.1:*"), listen("tcp://127.0.0.1:*")
    gone.close()
    here.watch(0.3)
    here.send(gone.address, [b"x"])
    assert here.unreachable() == frozenset()
    until(lambda: here.unreachable() == {gone.address})
    there = listen(gone.address)
    until(lambda: here.unreachable() == frozenset())
    there.close()
    again = listen(gone.address)
    until(lambda: here.unreachable() == {gone.address})
    until(lambda: here.unreachable() == frozenset())
    here.close()
    again.close()


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(ProtocolError, match="tcp://"):
        listen("carrier-pigeon://coop")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:*", ENCRYPTED])
def test_a_frame_that_is_too_large_ends_its_connection_and_no_other(address: str) -> None:
    there, friend, stranger = open_at(address, 1000), open_at(address), open_at(address)
    friend.send(there.address, [b"one", b"x" * 1000])
    assert take(there, 1) == [[b"one", b"x" * 1000]]
    stranger.send(there.address, [b"x" * 1001])
    friend.send(there.address, [b"two"])
    assert take(there, 1) == [[b"two"]]
    for endpoint in (there, friend, stranger):
        endpoint.close()


@pytest.mark.parametrize("address", SCHEMES)
def test_what_is_taken_at_once_is_bounded_and_nothing_is_lost(address: str) -> None:
    here, there = open_at(address), open_at(address)
    for number in range(5 * TAKEN_AT_ONCE):
        here.send(there.address, [b"%d" % number])
    received: list[bytes] = []
    while len(received) < 5 * TAKEN_AT_ONCE:
        lot = there.receive(10.0)
        assert 0 < len(lot) <= TAKEN_AT_ONCE
        received += [bytes(frames[0]) for frames in lot]
    assert received == [b"%d" % number for number in range(5 * TAKEN_AT_ONCE)]
    here.close()
    there.close()


def test_addresses_that_are_none_and_too_many_of_them_are_survived() -> None:
    here, there = listen("tcp://127.0.0.1:*"), listen("tcp://127.0.0.1:*")
    for nowhere in ("", "x", "tcp://", "tcp://127.0.0.1:99999999", "tcp://\x00:1", "carrier-pigeon://coop"):
        here.send(nowhere, [b"x"])
    for port in range(1, MOST_PEERS + 50):
        here.send(f"tcp://127.0.0.1:{port}", [b"x"])
    here.send(there.address, [b"still"])
    assert take(there, 1) == [[b"still"]]
    here.close()
    there.close()


def test_connections_that_are_idle_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = listen("tcp://127.0.0.1:*"), listen("tcp://127.0.0.1:*")
    monkeypatch.setattr(transport, "IDLE_PEER_S", 0.0)
    for port in range(1, 50):
        here.send(f"tcp://127.0.0.1:{port}", [b"x"])
        here.send(there.address, [b"%d" % port])
    assert isinstance(here, transport.ZmqEndpoint)
    assert len(here._peers) == len(here._used_s) == 1
    assert sorted(frames[0] for frames in take(there, 49)) == sorted(b"%d" % port for port in range(1, 50))
    here.close()
    there.close()


class Narrows:
    """A way to an endpoint on which the first connection is held up until ``opened``, and all others are not."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self._behind = (host, int(port))
        self._door = socket.create_server((host, 0))
        self.address = f"tcp://{host}:{self._door.getsockname()[1]}"
        self.entered, self.opened = threading.Event(), threading.Event()
        self._open: list[socket.socket] = [self._door]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        for number in range(2):
            near, far = self._door.accept()[0], socket.create_connection(self._behind)
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other, number == 0), daemon=True).start()
            self.entered.set()

    def _pump(self, one: socket.socket, other: socket.socket, held: bool) -> None:
        if held:
            self.opened.wait()
        while more := one.recv(65536):
            other.sendall(more)


def test_what_is_not_bulk_does_not_wait_behind_it() -> None:
    here, there = listen("tcp://127.0.0.1:*"), listen("tcp://127.0.0.1:*")
    narrows = Narrows(there.address)
    here.send(narrows.address, [b"prompt"], bulk=True)
    assert narrows.entered.wait(10)
    here.send(narrows.address, [b"step"])
    assert take(there, 1) == [[b"step"]]
    narrows.opened.set()
    assert take(there, 1) == [[b"prompt"]]
    here.close()
    there.close()
    narrows.close()


def until_refused(endpoint: Endpoint, times: int) -> None:
    for _ in range(100):
        if endpoint.refused_connections >= times:
            return
        assert endpoint.receive(0.1) == []
    raise AssertionError(f"{endpoint.refused_connections} connections were refused")


def test_nobody_without_the_secret_gets_a_message_in_and_others_do() -> None:
    there, friend, stranger = open_at(ENCRYPTED), open_at(ENCRYPTED), open_at(ENCRYPTED, token="another")
    stranger.send(there.address, [b"hello"])
    until_refused(there, 1)
    friend.send(there.address, [b"hello"])
    assert take(there, 1) == [[b"hello"]]
    for endpoint in (there, friend, stranger):
        endpoint.close()


def test_nobody_gets_a_message_in_without_encryption_or_with_another_receivers_key() -> None:
    there, other = open_at(ENCRYPTED), open_at(ENCRYPTED)
    plain = open_at("tcp://127.0.0.1:*")
    place = split_endpoint(there.address)[2]
    plain.send(f"tcp://{place}", [b"in the clear"])
    until_refused(there, 1)
    other.send(with_key(f"curve://{place}", new_key_pair().public), [b"to somebody else"])
    until_refused(there, there.refused_connections + 1)
    for endpoint in (there, other, plain):
        endpoint.close()


def test_an_endpoint_with_keys_sends_nothing_in_the_clear_and_one_without_nothing_encrypted() -> None:
    keyed, plain = open_at(ENCRYPTED), open_at("tcp://127.0.0.1:*")
    keyed.send(plain.address, [b"secret"])
    plain.send(keyed.address, [b"secret"])
    assert isinstance(keyed, transport.ZmqEndpoint)
    assert isinstance(plain, transport.ZmqEndpoint)
    assert keyed._peers == plain._peers == {}
    keyed.close()
    plain.close()


def test_keys_that_follow_from_a_secret_are_the_same_everywhere_and_no_others() -> None:
    assert shared_keys("one") == shared_keys("one")
    pairs = [pair for token in ("one", "two") for pair in (shared_keys(token).own, shared_keys(token).client)]
    assert len({pair.public for pair in pairs} | {pair.secret for pair in pairs}) == 8
    assert endpoint_keys(None, "one").own != endpoint_keys(None, "one").own
    assert all(pair.secret not in repr(shared_keys("one")) for pair in pairs)


def test_where_zeromq_can_not_encrypt_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "can_encrypt", lambda: False)
    with pytest.raises(DeploymentError, match="built without encryption"):
        endpoint_keys(None, "secret")
    with pytest.raises(DeploymentError, match="needs keys"):
        listen(ENCRYPTED)


@pytest.mark.parametrize("address", SCHEMES)
def test_the_same_endpoint_is_reached_over_a_new_connection_when_asked_for(address: str) -> None:
    here, there = open_at(address), open_at(address)
    again = newly_connected(newly_connected(there.address))
    assert same_endpoint(again) == there.address
    for number, at in enumerate((there.address, again)):
        here.send(at, [b"%d" % number])
    assert sorted(frames[0] for frames in take(there, 2)) == [b"0", b"1"]
    if isinstance(here, transport.ZmqEndpoint):
        assert len(here._peers) == 2
    here.close()
    there.close()


def test_what_is_sent_after_a_stuck_connection_arrives_over_a_new_one() -> None:
    here, there = listen("tcp://127.0.0.1:*"), listen("tcp://127.0.0.1:*")
    narrows = Narrows(there.address)
    here.send(narrows.address, [b"stuck"])
    assert narrows.entered.wait(10)
    here.send(newly_connected(narrows.address), [b"after"])
    assert take(there, 1) == [[b"after"]]
    narrows.opened.set()
    assert take(there, 1) == [[b"stuck"]]
    here.close()
    there.close()
    narrows.close()
