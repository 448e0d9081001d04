"""A cluster with Kubernetes' own API server and controller manager over etcd; pods run as in the stand-in's.

Where these come from: etcd is Debian's (etcd-server); `scripts/kube-apiserver` builds the other two from Debian's
source of Kubernetes. They are looked for in the folder HELIX_DF_KUBERNETES and in PATH.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.kubernetes.cluster import HOSTS, Cluster, kubeconfig

NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager")
SEARCHED = f"{os.environ.get('HELIX_DF_KUBERNETES', '')}:{os.environ.get('PATH', '')}:/usr/sbin"
MISSING = [command for command in NEEDED if shutil.which(command, path=SEARCHED) is None]
ROLE = Path(__file__).parents[2] / "packaging/kubernetes/role.yaml"
START_S = 60.0


class RealCluster(Cluster):
    """Its user has the rights of the role that helix-df says is needed, and no others. Debian's Kubernetes is 1.20, and
    has no PodDisruptionBudget of policy/v1."""

    max_unavailable = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = _free_port()

    async def serve_api(self) -> str:
        store, peers = _free_port(), _free_port()
        self._begin(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{store}",
            f"--advertise-client-urls=http://127.0.0.1:{store}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            "--unsafe-no-fsync",
        )
        tokens = [f'{self.token},tester,tester,"testers"', f'{self.inner},root,root,"system:masters"']
        (self.folder / "tokens.csv").write_text("\n".join(tokens) + "\n")
        account = _account_key(self.folder)
        self._api = [
            f"--etcd-servers=http://127.0.0.1:{store}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--tls-cert-file={self.certificate}",
            f"--tls-private-key-file={self.folder}/tls.key",
            f"--cert-dir={self.folder}",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={account}",
            f"--service-account-signing-key-file={account}",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
            "--kubelet-preferred-address-types=InternalIP",
            "--endpoint-reconciler-type=none",
        ]
        self._begin("kube-apiserver", *self._api)
        url = f"https://127.0.0.1:{self._port}"
        await self._until_ready(url)
        await self._allow(url)
        config = self.folder / "controllers.yaml"
        config.write_text(yaml.safe_dump(kubeconfig(url, self.certificate, self.inner)))
        self._begin(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            "--controllers=statefulset,garbagecollector,disruption",
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
        )
        return url

    async def after_hosts(self, kubelet: str) -> None:
        port = int(kubelet.rpartition(":")[2])
        for host in HOSTS:
            node: dict[str, Any] = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": host.name, "labels": dict(host.labels)},
                "spec": {"taints": [{"key": key, "effect": effect} for key, effect in host.taints]},
            }
            status = {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "conditions": [{"type": "Ready", "status": "True"}],
            }
            self._ask("POST", "/api/v1/nodes", json=node).raise_for_status()
            merge = {"authorization": f"Bearer {self.inner}", "content-type": "application/merge-patch+json"}
            path = f"{self.url}/api/v1/nodes/{host.name}/status"
            httpx.patch(path, json={"status": status}, headers=merge, verify=False).raise_for_status()

    async def end_api(self) -> None:
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait()

    @contextmanager
    def interrupt(self) -> Iterator[None]:
        self._processes["kube-apiserver"].kill()
        self._processes["kube-apiserver"].wait()
        yield
        self._begin("kube-apiserver", *self._api)
        asyncio.run(self._until_ready(self.url))

    def _begin(self, command: str, *arguments: str) -> None:
        path = shutil.which(command, path=SEARCHED)
        assert path is not None
        with (self.folder / f"{command}.log").open("ab") as log:
            process = subprocess.Popen([path, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes[command] = process

    async def _until_ready(self, url: str) -> None:
        headers = {"authorization": f"Bearer {self.inner}"}
        deadline = time.monotonic() + START_S
        async with httpx.AsyncClient(verify=False, headers=headers) as client:
            while True:
                try:
                    if (await client.get(f"{url}/readyz")).status_code == 200:
                        found = await client.get(f"{url}/api/v1/namespaces/default")
                        if found.status_code == 200:
                            return
                except httpx.HTTPError:
                    pass
                said = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline, said
                await asyncio.sleep(0.1)

    async def _allow(self, url: str) -> None:
        role = yaml.safe_load(ROLE.read_text())
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "helix-df"},
            "subjects": [{"kind": "User", "name": "tester", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "Role", "name": role["metadata"]["name"], "apiGroup": "rbac.authorization.k8s.io"},
        }
        headers = {"authorization": f"Bearer {self.inner}"}
        root = f"{url}/apis/rbac.authorization.k8s.io/v1/namespaces/default"
        for resource, document in (("roles", role), ("rolebindings", binding)):
            httpx.post(f"{root}/{resource}", json=document, headers=headers, verify=False).raise_for_status()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _account_key(folder: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = folder / "accounts.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return path
