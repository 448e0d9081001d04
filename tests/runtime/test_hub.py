"""Models of the hub: each worker fetches the tensors of its layers, once, of the commit that the plan has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.errors import ModelError, SpecError
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.models.fetched_layers import fetch_layers, parts_of
from helix_df.models.weights import load_shard
from helix_df.paths import cache_folder
from helix_df.planning import make_plan
from helix_df.profiles import hub_files
from helix_df.profiles.hub import HubModel, hub_model, mirror
from helix_df.profiles.hub_files import PartRecord, merged, read_record
from helix_df.profiles.identity import read_identity
from helix_df.profiles.read_geometry import read_geometry
from helix_df.spec.source import ModelSource
from tests.oracle.checkpoints import write_checkpoint
from tests.runtime.hub_standin import HubStandin, hub_standin

FIRST, SECOND = "a" * 40, "b" * 40
JOB = "model: {{source: 'hf:{}'}}\nnodes: {{a: {{gpu: L4}}}}\nlinks: {{default: {{bandwidth: 1Gbps}}}}\n"
SOURCE = ModelSource("hf", f"acme/small@{FIRST}")

RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda ends: (min(ends), max(ends))), max_size=8
)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Begins with a cache that is empty each time it is called."""
    numbers = iter(range(100))

    def begin() -> None:
        monkeypatch.setenv("HELIX_DF_CACHE", str(tmp_path / f"cache{next(numbers)}"))
        cache_folder.cache_clear()

    begin()
    yield begin
    cache_folder.cache_clear()


@pytest.fixture(params=["grouped", "sharded-bf16", "tied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "made", request.param)


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, own_cache: object) -> Iterator[HubStandin]:
    monkeypatch.setattr(hub_files, "WAIT_S", 0.0)
    monkeypatch.setattr(hub_files, "FIRST_BYTES", 1024)
    monkeypatch.setattr(hub_files, "PIECE_BYTES", 4096)
    with hub_standin({FIRST: checkpoint}, FIRST) as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


def leaves(source: ModelSource, layers: LayerRange) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_shard(source, read_geometry(source), layers))]


def weights_sent(hub: HubStandin) -> int:
    return sum(count for name, count in hub.sent.items() if name.endswith(".safetensors"))


def test_three_workers_with_nothing_fetch_their_layers_only(hub: HubStandin, checkpoint: Path, own_cache) -> None:
    geometry = read_geometry(SOURCE)
    total = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    last = geometry.num_layers
    for layers in (LayerRange(0, 1), LayerRange(1, 2), LayerRange(2, last)):
        own_cache()
        folder = mirror(HubModel("acme/small", FIRST))
        before = weights_sent(hub)
        found = leaves(SOURCE, layers)
        expected = leaves(ModelSource("hf", str(checkpoint)), layers)
        assert all(map(np.array_equal, found, expected))
        assert len(found) == len(expected)
        wanted = parts_of(folder, geometry, layers)
        tensors = sum(stop - start for parts in wanted.values() for start, stop in merged(parts))
        assert tensors - 1024 * 3 <= weights_sent(hub) - before <= tensors < total
        again = weights_sent(hub)
        assert all(map(np.array_equal, leaves(SOURCE, layers), expected))
        assert weights_sent(hub) == again, "what is here isn't fetched again"


def test_what_was_interrupted_goes_on_where_it_was(hub: HubStandin, checkpoint: Path, monkeypatch) -> None:
    layers = LayerRange(0, read_geometry(SOURCE).num_layers)
    monkeypatch.setattr(hub_files, "ATTEMPTS", 1)
    hub.breaks_after = 30_000
    with pytest.raises(ModelError, match="the weights can't be fetched"):
        leaves(SOURCE, layers)
    had = weights_sent(hub)
    assert had >= 30_000
    seen: list[tuple[int, int]] = []
    fetch_layers(SOURCE, read_geometry(SOURCE), layers, lambda done, total: seen.append((done, total)))
    total = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert weights_sent(hub) <= total + 4096 + 1024 * 3, "at most a piece twice"
    assert seen[-1][0] == seen[-1][1] < total - 20_000
    assert all(map(np.array_equal, leaves(SOURCE, layers), leaves(ModelSource("hf", str(checkpoint)), layers)))


def test_a_connection_that_breaks_is_made_again(hub: HubStandin, checkpoint: Path) -> None:
    layers = LayerRange(0, read_geometry(SOURCE).num_layers)
    hub.breaks_after = 30_000
    assert all(map(np.array_equal, leaves(SOURCE, layers), leaves(ModelSource("hf", str(checkpoint)), layers)))
    assert hub.breaks_after is None


def test_a_plan_has_a_commit_and_needs_no_network_once_it_is_here(hub: HubStandin, tmp_path: Path) -> None:
    job = parse_job(JOB.format("acme/small"))
    assert job.model.source == str(SOURCE)
    assert job.model.served_name == "small"
    other = tmp_path / "other"
    shutil.copytree(hub.commits[FIRST], other)
    hub.commits[SECOND], hub.main = other, SECOND
    assert parse_job(JOB.format("acme/small")).model.source.endswith(SECOND)
    assert parse_job(JOB.format("acme/small@main")).model.source.endswith(SECOND)
    asked = hub.asked
    plan = make_plan(job)
    assert plan.model == read_identity(SOURCE)
    assert hub.asked == asked


def test_a_revision_that_is_gone_or_was_changed_is_refused(hub: HubStandin, tmp_path: Path, own_cache) -> None:
    geometry = read_geometry(SOURCE)
    changed = tmp_path / "changed"
    shutil.copytree(hub.commits[FIRST], changed)
    for file in changed.glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    hub.commits[FIRST] = changed
    with pytest.raises(ModelError, match="has changed since its header was fetched"):
        load_shard(SOURCE, geometry, LayerRange(0, 1))
    own_cache()
    del hub.commits[FIRST]
    with pytest.raises(ModelError, match="doesn't have this revision"):
        mirror(HubModel("acme/small", FIRST))


def test_mistakes_are_told_at_the_source(hub: HubStandin, tmp_path: Path, monkeypatch) -> None:
    for name, words in (
        ("acme/nothing", "no such model"),
        ("acme/small@" + "c" * 40, "doesn't have this revision"),
        ("acme/small@wrong", "doesn't have this revision"),
    ):
        with pytest.raises(SpecError, match=words) as caught:
            parse_job(JOB.format(name))
        assert "model.source" in str(caught.value)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    hub.commits[SECOND] = bare
    with pytest.raises(SpecError, match="no weights in safetensors"):
        parse_job(JOB.format(f"acme/small@{SECOND}"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SpecError, match="can't be reached"):
        parse_job(JOB.format("acme/other"))


def test_a_directory_goes_before_the_hub(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "acme", "grouped")
    job = parse_job(JOB.format("acme/grouped"), base=tmp_path)
    assert job.model.source == f"hf:{folder}"
    assert hub_model(str(folder)) is None
    assert hub_model("acme/small@v1.0") == HubModel("acme/small", "v1.0")
    assert hub_model("./acme/small") is None


@given(here=RANGES, wanted=RANGES)
def test_what_is_lacking_and_what_is_here_are_what_is_wanted(here, wanted) -> None:
    record = PartRecord("", None, 60, merged(here))
    lacking = record.lacking(wanted)

    def numbers(ranges) -> set[int]:
        return {number for start, stop in ranges for number in range(start, stop)}

    assert numbers(lacking) == numbers(wanted) - numbers(here)
    assert list(merged(lacking)) == lacking
    assert numbers(merged([*here, *lacking])) >= numbers(wanted)


def test_a_record_that_is_damaged_is_told(hub: HubStandin) -> None:
    folder = mirror(HubModel("acme/small", FIRST))
    file = next(folder.glob("*.safetensors"))
    file.with_name(file.name + hub_files.RECORD_SUFFIX).write_text("{")
    with pytest.raises(ModelError, match="which parts of the file are here"):
        read_record(file)
