"""The nodes of a Kubernetes cluster, as the official client reads them from what answers like an API server.

The server is a stand-in: it has one path, and objects that the published schema of Kubernetes accepts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from helix_df.cli.main import main
from helix_df.runtime.jobs.launchers.registry import launcher_names

pytestmark = pytest.mark.skipif(find_spec("kubernetes") is None, reason="the client of Kubernetes isn't installed")

PRODUCT = "NVIDIA-A100-SXM4-80GB"


def node(name: str, gpus: int, labels: dict[str, str], *, ready: bool = True, closed: bool = False) -> dict[str, Any]:
    allocatable = {"cpu": "63", "memory": "251Gi", "pods": "110"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        "spec": {"unschedulable": True} if closed else {},
        "status": {
            "allocatable": allocatable,
            "capacity": allocatable,
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


ZONE = {"topology.kubernetes.io/zone": "eu-1a"}
NODES = [
    node("gpu-10", 8, {"nvidia.com/gpu.product": PRODUCT, **ZONE}),
    node("gpu-9", 8, {"nvidia.com/gpu.product": PRODUCT, **ZONE}),
    node("gke-1", 1, {"cloud.google.com/gke-accelerator": "nvidia-l4"}),
    node("gone", 1, {"nvidia.com/gpu.product": "Tesla-T4"}, ready=False),
    node("closed", 1, {"nvidia.com/gpu.product": "Tesla-T4"}, closed=True),
    node("plain", 0, {}),
]


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/api/v1/nodes"
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": "forbidden"}
        listed = {"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": NODES}
        body = json.dumps(listed if known and type(self).allows else status).encode()
        self.send_response(200 if known and type(self).allows else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    allows = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A context of a kubeconfig that leads to the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "elsewhere",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    # The client reads the variable when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    yield "here"
    server.shutdown()
    server.server_close()
    thread.join()


def discover(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["discover", "kubernetes", *arguments])
    return int(str(ended.value.code or 0))


def test_the_objects_are_those_of_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for one in NODES:
        validate.validate(one, "1.33", strict=True)


def test_nodes_are_found_by_their_drivers_labels(context: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert discover("--address", context) == 0
    printed = capsys.readouterr()
    part = yaml.safe_load(printed.out)
    found = {key: (node["gpu"], node.get("count"), node.get("region")) for key, node in part["nodes"].items()}
    assert found == {"8xa100-80gb-eu-1a": ("8xA100-80GB", 2, "eu-1a"), "l4": ("L4", None, None)}
    assert f"# gpu-9, gpu-10: nvidia.com/gpu.product={PRODUCT}, topology.kubernetes.io/zone=eu-1a" in printed.out
    assert printed.err.splitlines() == [
        "left out closed: Kubernetes puts nothing there (unschedulable)",
        "left out gone: Kubernetes says that it isn't ready",
        "left out plain: it has no accelerator that the cluster knows of",
    ]
    if "kubernetes" in launcher_names():
        assert part["launchers"]["kubernetes"]["place"] == {
            "8xA100-80GB": {"selector": {"nvidia.com/gpu.product": PRODUCT}},
            "L4": {"selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"}},
        }
    else:
        assert "launchers" not in part


def test_a_cluster_that_isnt_reached_and_one_that_refuses(
    context: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert discover("--address", "nowhere") == 7
    assert "nothing says how the cluster is reached" in capsys.readouterr().err
    monkeypatch.setattr(_Server, "allows", False)
    assert discover("--address", context) == 7
    assert "the cluster doesn't tell its nodes" in capsys.readouterr().err
