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
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette

from tests.kubernetes.api_server import KINDS, ApiServer
from tests.kubernetes.controllers import Controllers
from tests.kubernetes.kubelet import Host, Kubelet

T = TypeVar("T")

IMAGE = "helix-df:test"
TAINT = ("nvidia.com/gpu", "NoSchedule")
HOSTS = (
    Host("host-1", {"helix-df/gpu": "large", "zone": "here"}, (TAINT,)),
    Host("host-2", {"helix-df/gpu": "small", "zone": "here"}),
)


ITS_OWN = {("Service", "kubernetes"), ("ConfigMap", "kube-root-ca.crt")}
"""Objects that a cluster makes for itself."""


@cache
def why_not() -> str | None:
    """Why no pods can run here; ``None`` if they can."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        layers = f"lowerdir=/etc,upperdir={folder}/u,workdir={folder}/w"
        probe = f"mkdir {folder}/u {folder}/w && mount -t overlay overlay -o {layers} /etc"
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", probe]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


class Cluster:
    """A cluster on loopback, of a server and controllers that subclasses bring, and hosts for its pods."""

    max_unavailable: int | None = 1
    """What jobs are to say here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token, self.inner = secrets.token_hex(8), secrets.token_hex(8)
        self.kubeconfig = folder / "kubeconfig"
        self.certificate = _certificate(folder)
        self.url = ""
        self.kubelet: Kubelet
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[uvicorn.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)

    async def serve_api(self) -> str:
        """Start the API server and what else there is; its address."""
        raise NotImplementedError

    async def after_hosts(self, kubelet: str) -> None:
        """Make known where logs are."""
        raise NotImplementedError

    async def end_api(self) -> None:
        """What ``serve_api`` started."""

    def interrupt(self) -> AbstractContextManager[None]:
        """A while in which the API server is away, and which it comes out of without its memory of changes."""
        raise NotImplementedError

    def do(self, what: Callable[[], T]) -> T:
        """Call a function where the cluster lives."""

        async def call() -> T:
            return what()

        return self._run(call())

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Objects of a kind, but for the cluster's own."""
        ((version, resource),) = [key for key, of in KINDS.items() if of == kind]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        answer = self._ask("GET", f"{root}/namespaces/default/{resource}")
        items = answer.json()["items"] if answer.status_code == 200 else []
        return [one for one in items if (kind, one["metadata"]["name"]) not in ITS_OWN]

    def objects(self) -> list[str]:
        """What there is."""
        kinds = [kind for kind in KINDS.values() if kind != "Event"]
        return [f"{kind}/{one['metadata']['name']}" for kind in kinds for one in self.all(kind)]

    def remove_pod(self, name: str) -> None:
        """As when a host is lost and somebody says so."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        self._ask("DELETE", f"/api/v1/namespaces/default/pods/{name}", json=options).raise_for_status()

    def add(self, kind: str, document: dict[str, Any]) -> None:
        """An object that isn't helix-df's."""
        ((version, resource),) = [key for key, of in KINDS.items() if of == kind]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        self._ask("POST", f"{root}/namespaces/default/{resource}", json=document).raise_for_status()

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
        self.url = await self.serve_api()
        self.kubeconfig.write_text(yaml.safe_dump(kubeconfig(self.url, self.certificate, self.token)))
        self.kubelet = Kubelet(self.url, self.inner, HOSTS, {IMAGE}, self.folder / "pods")
        await self.after_hosts(await self.serve(self.kubelet.app))
        self.keep(self.kubelet.run())

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something until the cluster ends."""
        self._tasks.append(self._loop.create_task(work))

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            server.should_exit = server.force_exit = True
        await self.end_api()
        await asyncio.sleep(0.3)

    async def serve(self, app: Starlette) -> str:
        """Serve something by TLS; its address."""
        files: dict[str, Any] = {"ssl_certfile": self.certificate, "ssl_keyfile": str(self.folder / "tls.key")}
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", **files)
        )
        self._servers.append(server)
        self._serving = [*getattr(self, "_serving", []), asyncio.create_task(server.serve())]
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"https://127.0.0.1:{port}"

    def _ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.inner}"}
        return httpx.request(method, self.url + path, headers=headers, verify=False, timeout=20, **rest)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(90)


class StandIn(Cluster):
    """With the API server and the controllers of this folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = ApiServer(self.token, self.inner)

    async def serve_api(self) -> str:
        url = await self.serve(self.server.app)
        self.keep(Controllers(url, self.inner).run())
        return url

    async def after_hosts(self, kubelet: str) -> None:
        self.server.kubelet = kubelet

    @contextmanager
    def interrupt(self) -> Iterator[None]:
        self.do(lambda: setattr(self.server, "is_away", True))
        yield
        self.do(self.server.forget_history)
        self.do(lambda: setattr(self.server, "is_away", False))


@contextmanager
def a_cluster(kind: Callable[[Path], Cluster] = StandIn) -> Iterator[Cluster]:
    """A cluster for a while."""
    folder = Path(tempfile.mkdtemp(prefix="kube", dir="/tmp"))
    cluster = kind(folder)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def kubeconfig(url: str, certificate: Path, token: str) -> dict[str, Any]:
    """What a user has; the context `strange` is of one whom the cluster doesn't know."""
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
