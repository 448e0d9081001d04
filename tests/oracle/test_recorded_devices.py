"""Every family over several devices: the tokens that are recorded from transformers, and no device with too much."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.profiles.device_shares import share_of
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.profiles.read_geometry import geometry_from_config
from tests.oracle.cases import RECORDED
from tests.oracle.family_checkpoints import FAMILY_CONFIGS
from tests.oracle.on_devices import PAGES


def geometry_of(name: str) -> ModelGeometry:
    return geometry_from_config(FAMILY_CONFIGS[name], name)


def most_devices(name: str) -> int:
    """The most devices, of four, among which a family can be divided; 1 if it can't be."""
    for count in (4, 3, 2):
        try:
            share_of(geometry_of(name), count)
        except ModelError:
            continue
        return count
    return 1


CASES = [*(f"{name}:{most_devices(name)}" for name in FAMILY_CONFIGS), "gemma2:2", "deepseek-v3:2"]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Of the cases that are to be run, all by one process with devices of its own."""
    mine = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    cases = dict.fromkeys(item.callspec.params["case"] for item in mine)
    folder = tmp_path_factory.mktemp("devices")
    command = [sys.executable, "-m", "tests.oracle.on_devices", str(folder), *cases]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {f"{one['name']}:{one['count']}": one for one in found}


def test_all_families_are_divided() -> None:
    assert [name for name in FAMILY_CONFIGS if most_devices(name) == 1] == []


@pytest.mark.parametrize("case", CASES)
def test_several_devices_say_what_the_reference_says(runs: dict[str, dict], case: str) -> None:
    recorded, one = np.load(RECORDED / "families.npz"), runs[case]
    for length, tokens in one["tokens"].items():
        assert tokens == recorded[f"{one['name']}.tokens.{length}"].tolist()


@pytest.mark.parametrize("case", CASES)
def test_no_device_holds_more_than_its_share(runs: dict[str, dict], case: str) -> None:
    geometry, count = geometry_of(runs[case]["name"]), runs[case]["count"]
    share = share_of(geometry, count)
    matrices = 1 if geometry.tie_embeddings else 2
    planned = 4 * (share.parameters(LayerRange(0, share.num_layers)) + matrices * share.embedding_parameters)
    held = runs[case]["bytes"]
    assert len(held) == count
    assert len(set(held)) == 1
    assert held[0] == pytest.approx(planned, rel=0.01), "norms and numbers of a layer are a little more"
    layers = share.num_layers
    differ = 0 < geometry.attention.windowed(LayerRange(0, layers))[0] < layers
    pages = PAGES * layers + (1 if differ else layers)  # one of each pool is scratch
    kept = share.kv_bytes_per_token_layer(4) * pages * PAGE_TOKENS
    assert runs[case]["cache"] == [pytest.approx(kept, rel=0.02)] * count, "weights aren't copied"


def test_a_model_that_cannot_be_divided_says_why() -> None:
    with pytest.raises(ModelError, match="attention heads can't be divided evenly") as caught:
        share_of(geometry_of("qwen2"), 2)
    assert "3 among 2" in str(caught.value)
    with pytest.raises(ModelError, match="key and value heads"):
        share_of(geometry_of("qwen3"), 3)
