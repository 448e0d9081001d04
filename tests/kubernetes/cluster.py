"""A cluster that a test can use: a server, controllers, hosts, and a file that says how it is reached."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette

from tests.kubernetes.api_server import ApiServer
from tests.kubernetes.controllers import Controllers
from tests.kubernetes.kubelet import Host, Kubelet

T = TypeVar("T")

IMAGE = "helix-df:test"
TAINT = ("nvidia.com/gpu", "NoSchedule")
HOSTS = (
    Host("host-1", {"helix-df/gpu": "large", "zone": "here"}, (TAINT,)),
    Host("host-2", {"helix-df/gpu": "small", "zone": "here"}),
)


@cache
def why_not() -> str | None:
    """Why no pods can run here; ``None`` if they can."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        probe = f"mkdir {folder}/u {folder}/w && mount -t overlay overlay -o lowerdir=/etc,upperdir={folder}/u,workdir={folder}/w /etc"
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", probe]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


class Cluster:
    """A cluster on loopback. ``server`` belongs to its loop: what changes or reads it goes through ``do``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = ApiServer(secrets.token_hex(8), secrets.token_hex(8))
        self.kubeconfig = folder / "kubeconfig"
        self.url = ""
        self.kubelet: Kubelet
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[uvicorn.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)

    def do(self, what: Callable[[], T]) -> T:
        """Call a function where the server lives."""

        async def call() -> T:
            return what()

        return self._run(call())

    def objects(self) -> list[str]:
        """What there is."""
        return self.do(self.server.everything)

    def pod_pid(self, name: str) -> int | None:
        """The process of a pod."""
        return self.do(lambda: self.kubelet.pid(name))

    def start(self) -> None:
        """Until ``stop``."""
        self._thread.start()
        self._run(self._start())

    def stop(self) -> None:
        """All of it, pods too."""
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        certificate = _certificate(self.folder)
        self.url = await self._serve(self.server.app)
        self.kubelet = Kubelet(self.url, self.server.inner, HOSTS, {IMAGE}, self.folder / "pods")
        self.server.kubelet = await self._serve(self.kubelet.app)
        self.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(self.url, certificate, self.server.token)))
        controllers = Controllers(self.url, self.server.inner)
        self._tasks = [asyncio.create_task(part.run()) for part in (self.kubelet, controllers)]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            server.should_exit = server.force_exit = True
        await asyncio.sleep(0.3)

    async def _serve(self, app: Starlette) -> str:
        files = {"ssl_certfile": self.folder / "tls.crt", "ssl_keyfile": str(self.folder / "tls.key")}
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", **files)
        server = uvicorn.Server(config)
        self._servers.append(server)
        self._tasks_of_servers = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"https://127.0.0.1:{port}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


@contextmanager
def a_cluster() -> Iterator[Cluster]:
    """A cluster for a while."""
    folder = Path(tempfile.mkdtemp(prefix="kube", dir="/tmp"))
    cluster = Cluster(folder)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _kubeconfig(url: str, certificate: Path, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": url, "certificate-authority": str(certificate)}}],
        "users": [
            {"name": "tester", "user": {"token": token}},
            {"name": "stranger", "user": {"token": "another"}},
        ],
        "contexts": [
            {"name": "here", "context": {"cluster": "here", "user": "tester", "namespace": "default"}},
            {"name": "strange", "context": {"cluster": "here", "user": "stranger"}},
        ],
        "current-context": "here",
    }


def _certificate(folder: Path) -> Path:
    """A certificate of this machine's address alone, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, False, False, False), critical=True)
        .add_extension(own, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "tls.key").write_bytes(private)
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder / "tls.crt"
