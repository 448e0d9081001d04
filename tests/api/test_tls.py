"""The API over TLS: with a certificate that clients know, and clear words where it can't be used."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from helix_df.errors import DeploymentError
from helix_df.runtime.access import Access
from helix_df.runtime.api.client import RemoteJob, fetch_status, http_client
from helix_df.runtime.api.tls import server_context
from helix_df.runtime.jobs.daemon import api_server, bound_socket, url_of
from tests.api.fakes import FakeService, text_service
from tests.api.test_connections import HEALTH, QUICK, serving


def make_certificate(folder: Path, name: str, *more: str) -> tuple[str, str]:
    """The files of a certificate for example.com and of its key, made by openssl."""
    certificate, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    hidden = more or ("-nodes",)
    named = ["-subj", "/CN=example.com", "-keyout", key, "-out", certificate]
    subprocess.run([*command, *hidden, *named], check=True, capture_output=True)
    return certificate, key


async def test_clients_that_know_the_certificate_are_answered_and_others_trust_nobody(
    tmp_path: Path, service: FakeService
) -> None:
    certificate, key = make_certificate(tmp_path, "own")
    other, _ = make_certificate(tmp_path, "other")
    with bound_socket("127.0.0.1", 0) as listener:
        server = api_server(text_service(service), tls=server_context(certificate, key))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        url = url_of(listener, "https")
        assert url.startswith("https://127.0.0.1:")
        async with http_client(Access(url, None, certificate)) as http:
            assert str(await RemoteJob(http).complete("p", max_tokens=5)) == "Hello"
        assert (await asyncio.to_thread(fetch_status, Access(url, None, certificate))).name == "job"
        for stranger in (Access(url, None, other), Access(url)):
            with pytest.raises(DeploymentError, match="doesn't answer"):
                await asyncio.to_thread(fetch_status, stranger)
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.HTTPError):
                await plain.get(url.replace("https", "http") + "/health")
        server.should_exit = True
        await task


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "own")
    _, other = make_certificate(tmp_path, "other")
    _, locked = make_certificate(tmp_path, "locked", "-passout", "pass:word")
    text = tmp_path / "text"
    text.write_text("no certificate")
    for files, where, words in (
        ((str(tmp_path / "x"), key), "runtime.tls.certificate", "can't be read"),
        ((certificate, str(tmp_path / "x")), "runtime.tls.key", "can't be read"),
        ((certificate, other), "runtime.tls", "don't belong together"),
        ((str(text), key), "runtime.tls", "no certificate"),
        ((certificate, locked), "runtime.tls.key", "password"),
    ):
        with pytest.raises(DeploymentError, match=words) as raised:
            server_context(*files)
        assert raised.value.where == where


async def test_handshakes_that_are_not_completed_are_connections_and_end(tmp_path: Path, service: FakeService) -> None:
    certificate, key = make_certificate(tmp_path, "own")
    async with serving(service, QUICK, tls=server_context(certificate, key)) as connect:
        silent, half = await connect(), await connect()
        half.send(b"\x16\x03\x01\x02\x00\x01\x00")
        assert [await silent.rest(), await half.rest()] == ["", ""]


async def test_handshakes_give_way_and_what_comes_with_their_end_is_read(tmp_path: Path, service: FakeService) -> None:
    certificate, key = make_certificate(tmp_path, "own")
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.check_hostname = False
    async with serving(service, replace(QUICK, head_s=1000), tls=server_context(certificate, key)) as connect:
        silent = [await connect() for _ in range(4)]
        for raw in silent[:2]:
            late = await connect()
            await late.writer.start_tls(trusting)
            late.send(HEALTH)
            assert "200 OK" in await late.head()
            assert await raw.rest() == ""
