"""Measure links: of a running job, to listeners elsewhere, or over loopback.

for link in probe_job("quickstart").links:
    ...
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from helix_df.errors import DeploymentError, SpecError
from helix_df.graph.compile import link_table
from helix_df.graph.problem import COORDINATOR
from helix_df.measuring.differences import TOLERANCE, Difference, beyond
from helix_df.measuring.prober import MeasuredLink, Prober, answer_probes
from helix_df.plan.plan import Plan, read_plan
from helix_df.runtime.access import Access
from helix_df.runtime.api.client import fetch_status
from helix_df.runtime.jobs.directory import find_running
from helix_df.runtime.jobs.launchers.local import TOKEN_VARIABLE
from helix_df.runtime.requests import JobStatus
from helix_df.runtime.wire.keys import ENCRYPTED, PLAIN, EndpointKeys, without_key
from helix_df.runtime.wire.transport import Endpoint, endpoint_keys, listen, shared_keys
from helix_df.spec.addresses import host_of, is_loopback, split_address
from helix_df.spec.job import Job

__all__ = ["Probed", "links_yaml", "listen_for_probes", "probe_addresses", "probe_job", "probe_loopback"]

_LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class Probed:
    """Links as measured, where the job declares something else, and what disturbed the measurement."""

    links: tuple[MeasuredLink, ...]
    differences: tuple[Difference, ...] = ()
    remarks: tuple[str, ...] = ()


def probe_job(
    name: str | None = None,
    *,
    on_link: Callable[[MeasuredLink], None] = lambda link: None,
    on_wait: Callable[[int], None] = lambda shapes: None,
    patience_s: float = 300.0,
) -> Probed:
    """The links that a running job's plan uses, measured from the coordinator's machine.

    Args:
        name: of the job; the only one that runs by default.
        on_link: called with each link as it is measured.
        on_wait: called every few seconds with how many shapes workers have left to compile, since probes would wait
            for them.
        patience_s: most seconds of that.

    Raises:
        DeploymentError: when there is no such job, or a worker doesn't answer.
    """
    directory, access = find_running(name)
    record, plan, status = directory.record(), read_plan(directory.plan_path), _settled(access, on_wait, patience_s)
    if record is None or record.token is None:
        raise DeploymentError(f"job {directory.name} was started by an older helix-df", hint="apply it again")
    addresses = {node.name: node.address for node in status.nodes if node.address is not None and node.state == "ready"}
    keys = endpoint_keys(None, record.token) if plan.job.encrypts else None
    endpoint = _listen(f"{host_of(plan.job.coordinator.address)}:*", keys)
    try:
        prober = Prober(COORDINATOR, endpoint, record.token, time.perf_counter)
        links = _all(prober, addresses, _pairs(plan), on_link)
    finally:
        endpoint.close()
    remarks = []
    if status.running:
        remarks.append(f"{status.running} requests were running: probes wait for the batch in hand")
    if any(node.cold_shapes for node in status.nodes):
        remarks.append("workers still compiled at leisure: probes wait for the program in hand; probe again later")
    return Probed(links, link_differences(plan.job, links), tuple(remarks))


def _settled(access: Access, on_wait: Callable[[int], None], patience_s: float) -> JobStatus:
    """The job's status once no worker compiles any more, or patience is over."""
    deadline = time.monotonic() + patience_s
    while True:
        status = fetch_status(access)
        cold = sum(node.cold_shapes for node in status.nodes)
        if cold == 0 or status.running or time.monotonic() > deadline:
            return status
        on_wait(cold)
        time.sleep(_LOOK_S)


def probe_addresses(
    addresses: Mapping[str, str], token: str, *, on_link: Callable[[MeasuredLink], None] = lambda link: None
) -> Probed:
    """The links from here to listeners (``listen_for_probes``), and between each two of them.

    Args:
        addresses: ``host:port`` by name.
        token: the secret that the listeners have too.
        on_link: called with each link as it is measured.

    Raises:
        DeploymentError: when one doesn't answer.
    """
    keys = shared_keys(token) if token else None
    ways = {name: _way(address, keys) for name, address in addresses.items()}
    endpoint = _listen(f"{own_host(next(iter(addresses.values())))}:*", keys)
    try:
        names = list(ways)
        pairs = tuple((a, b) for index, a in enumerate(names) for b in names[index + 1 :])
        return Probed(_all(Prober(COORDINATOR, endpoint, token, time.perf_counter), ways, pairs, on_link))
    finally:
        endpoint.close()


def probe_loopback(*, on_link: Callable[[MeasuredLink], None] = lambda link: None) -> Probed:
    """The link between two processes of this machine."""
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "helix_df", "probe", "--listen", "127.0.0.1:*"]
    environment = os.environ | {TOKEN_VARIABLE: token}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().rpartition("://")[2].strip()
            if not address:
                raise DeploymentError("the listening process ended")
            return probe_addresses({"loopback": address}, token, on_link=on_link)
        finally:
            process.terminate()


def listen_for_probes(address: str, token: str | None, on_listening: Callable[[str], None]) -> None:
    """Answer probes at ``host:port`` until interrupted; ``on_listening`` hears the address in full.

    Raises:
        SpecError: without a secret anywhere beyond loopback.
        DeploymentError: when the address can't be listened on.
    """
    secret = secret_for([address], token)
    endpoint = _listen(address, shared_keys(secret) if secret else None)
    try:
        on_listening(without_key(endpoint.address))
        with contextlib.suppress(KeyboardInterrupt):
            answer_probes(endpoint, secret, lambda: True)
    finally:
        endpoint.close()


def _listen(address: str, keys: EndpointKeys | None) -> Endpoint:
    return listen(f"{PLAIN if keys is None else ENCRYPTED}://{address}", keys=keys)


def _way(address: str, keys: EndpointKeys | None) -> str:
    """Where a listener is that has the same keys."""
    return f"{PLAIN}://{address}" if keys is None else f"{ENCRYPTED}://{keys.own.public}@{address}"


def secret_for(addresses: list[str], token: str | None) -> str:
    """The secret to use: none is needed on loopback.

    Raises:
        SpecError: without one elsewhere.
    """
    if token:
        return token
    for address in addresses:
        if not is_loopback(host_of(address)):
            raise SpecError(
                "probes beyond this machine need a secret",
                where=f"${TOKEN_VARIABLE}",
                found=address,
                hint=f"the same {TOKEN_VARIABLE}=… for both sides, such as `openssl rand -hex 16` makes",
            )
    return ""


def own_host(address: str) -> str:
    """The address of this machine on the way to ``host:port``."""
    host, port = split_address(address)
    if is_loopback(host):
        return "127.0.0.1" if host == "localhost" else host  # only numbers can be listened on
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            one.connect((host.strip("[]"), int(port or 0)))  # sends nothing, but picks the route
        except OSError as error:
            raise DeploymentError("this host can't be reached", where=address, found=str(error)) from error
        own = str(one.getsockname()[0])
    return f"[{own}]" if ":" in own else own


def link_differences(job: Job, links: tuple[MeasuredLink, ...], tolerance: float = TOLERANCE) -> tuple[Difference, ...]:
    """Where a measured link is more than ``tolerance`` times what the job declares, or less than that share of it."""
    table = link_table(job)
    found = []
    for link in links:
        declared = table.find(*link.between)
        if declared is None:
            continue
        where = " - ".join(link.between)
        found.append(Difference(f"{where}, bandwidth", declared.bytes_per_s / 1e6, link.bytes_per_s / 1e6, "MB/s"))
        if declared.latency_s > 0:
            found.append(Difference(f"{where}, latency", 1e3 * declared.latency_s, 1e3 * link.latency_s, "ms"))
    return beyond(found, tolerance)


def links_yaml(links: tuple[MeasuredLink, ...], *, named: bool) -> str:
    """The ``links:`` section of a job: by nodes if the names are its own, else a default as slow as the slowest."""
    if not named:
        rate, latency = min(link.bytes_per_s for link in links), max(link.latency_s for link in links)
        return f"links:\n  default: {_quality(rate, latency)}\n"
    entries = (
        f"    - {{between: [{', '.join(link.between)}], {_quality(link.bytes_per_s, link.latency_s)[1:]}\n"
        for link in links
    )
    return f"links:\n  nodes:\n{''.join(entries)}"


def _quality(bytes_per_s: float, latency_s: float) -> str:
    megabytes, micros = float(f"{bytes_per_s / 1e6:.3g}"), float(f"{latency_s * 1e6:.3g}")
    return f"{{bandwidth: {megabytes:g}MB/s, latency: {micros:g}us}}"


def _pairs(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Pairs of nodes between which the plan has flow, each once."""
    pairs = {(min(e.tail, e.head), max(e.tail, e.head)) for e in plan.edges if COORDINATOR not in (e.tail, e.head)}
    return tuple(sorted(pairs))


def _all(
    prober: Prober,
    addresses: Mapping[str, str],
    pairs: tuple[tuple[str, str], ...],
    on_link: Callable[[MeasuredLink], None],
) -> tuple[MeasuredLink, ...]:
    def measured() -> Iterator[MeasuredLink]:
        for name, address in addresses.items():
            yield prober.from_here(name, address)
        for a, b in pairs:
            if a in addresses and b in addresses:
                yield prober.between((a, addresses[a]), (b, addresses[b]))

    links = []
    for link in measured():
        links.append(link)
        on_link(link)
    return tuple(links)
