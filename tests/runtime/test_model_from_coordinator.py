"""A model that isn't on a worker's host comes from the coordinator: only what its layers need, once, and checked."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from helix_df.errors import DeploymentError, ModelError
from helix_df.layers import LayerRange
from helix_df.models.tokenizer import load_tokenizer
from helix_df.models.weights import load_shard
from helix_df.paths import cache_folder
from helix_df.profiles import hub_files
from helix_df.profiles.model_files import ModelFile, digest_of, dump_listing, is_here, list_files, read_listing
from helix_df.profiles.read_geometry import read_geometry
from helix_df.runtime.coordinator.model_server import ModelServer
from helix_df.runtime.wire.framing import encode, encode_bundle
from helix_df.runtime.wire.messages import Failed, FilePart, FileWanted, Hello, Stop, Welcome
from helix_df.runtime.wire.transport import listen
from helix_df.runtime.worker import fetched_model, shell
from helix_df.runtime.worker.fetched_model import fetch_model
from helix_df.spec.source import ModelSource
from tests.cases.files import gguf_file
from tests.oracle.checkpoints import write_checkpoint
from tests.oracle.quantized_checkpoints import write_quantized
from tests.oracle.serving import greedy, served
from tests.runtime.test_who_may_come_in import heard
from tests.runtime.tiny import tiny_plan

SOURCES = {
    "one file": lambda folder: ModelSource("hf", str(write_checkpoint(folder, "grouped"))),
    "several files": lambda folder: ModelSource("hf", str(write_checkpoint(folder, "sharded-bf16"))),
    "tied": lambda folder: ModelSource("hf", str(write_checkpoint(folder, "tied"))),
    "quantized": lambda folder: ModelSource("hf", str(write_quantized(folder, "gptq"))),
    "gguf": lambda folder: gguf_file(folder, tokens=320),
    "gguf in parts": lambda folder: gguf_file(folder, tokens=320, split={"split_max_tensors": 10}),
}


class Line:
    """Asks a coordinator's server, and counts; ``edit`` changes what comes, ``breaks_after`` bytes nothing comes."""

    def __init__(self, source, edit=lambda part: part, breaks_after=None):
        self.server, self.edit, self.breaks_after = ModelServer(source), edit, breaks_after
        self.bytes, self.told = Counter(), []

    def ask(self, name: str, start: int, stop: int) -> FilePart:
        if self.breaks_after is not None and sum(self.bytes.values()) >= self.breaks_after:
            raise ModelError("the line is cut")
        part = self.server.part(FileWanted("a", name, start, stop, 7))
        assert (part.name, part.start, part.life) == (name, start, 7)
        self.bytes[name] += len(part.payload)
        return self.edit(part)

    def report(self, state: str, progress: float, detail: str) -> None:
        self.told.append(progress)


@pytest.fixture
def new_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Begins with an empty cache each time it is called."""
    numbers = iter(range(100))

    def begin() -> None:
        monkeypatch.setenv("HELIX_DF_CACHE", str(tmp_path / f"cache{next(numbers)}"))
        cache_folder.cache_clear()

    monkeypatch.setattr(fetched_model, "PROBE_BYTES", 10_000)
    monkeypatch.setattr(hub_files, "PIECE_BYTES", 10_000)
    begin()
    yield begin
    cache_folder.cache_clear()


def leaves(source, layers):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_shard(source, read_geometry(source), layers))]


def size_of(source) -> int:
    return sum(file.size for file in list_files(source)[1])


@pytest.mark.parametrize("kind", SOURCES)
def test_each_host_gets_what_its_layers_need_and_no_more(tmp_path, new_host, kind):
    source = SOURCES[kind](tmp_path)
    geometry = read_geometry(source)
    heads = sum(file.head for file in list_files(source)[1])
    got, last = [], geometry.num_layers
    for cut in pairwise(sorted({0, 1, last - 1, last})):
        layers = LayerRange(*cut)
        new_host()
        line = Line(source)
        local = fetch_model(source, layers, line.ask, line.report)
        assert local.location.startswith(str(cache_folder("models")))
        assert read_geometry(local) == geometry
        assert all(map(np.array_equal, leaves(local, layers), leaves(source, layers)))
        got.append(sum(line.bytes.values()))
        assert line.told[-1] == 1.0
        assert got[-1] < size_of(source)
        again = Line(source)
        assert fetch_model(source, layers, again.ask, again.report) == local
        assert set(again.bytes) == {""}, "what is here isn't fetched again"
    listings = len(got) * (len(dump_listing(list_files(source)[1])) + heads)
    twice = (
        2 * 4 * geometry.vocab_size * geometry.hidden_size
    )  # the embedding of a tied model, on the first and the last
    assert sum(got) <= size_of(source) + listings + twice


def test_the_tokenizer_comes_with_it(tmp_path, new_host):
    source = gguf_file(tmp_path, tokens=320)
    line = Line(source)
    local = fetch_model(source, LayerRange(0, 1), line.ask, line.report)
    assert load_tokenizer(local).vocab_size == load_tokenizer(source).vocab_size


def test_what_was_interrupted_goes_on_where_it_was(tmp_path, new_host):
    source = SOURCES["several files"](tmp_path)
    layers = LayerRange(0, read_geometry(source).num_layers)
    line = Line(source, breaks_after=40_000)
    with pytest.raises(ModelError, match="the line is cut"):
        fetch_model(source, layers, line.ask, line.report)
    rest = Line(source)
    local = fetch_model(source, layers, rest.ask, rest.report)
    assert all(map(np.array_equal, leaves(local, layers), leaves(source, layers)))
    listing = len(dump_listing(list_files(source)[1]))
    # A piece is recorded once it is here whole, so at most one came twice.
    assert sum((line.bytes + rest.bytes).values()) <= size_of(source) + 2 * listing + 10_000


def damaged(part):
    return part if not part.name else dataclasses.replace(part, payload=bytes(len(part.payload)))


def shorter(part):
    return part if not part.name else dataclasses.replace(part, payload=bytes(part.payload)[:-1])


def newer(part):
    return part if not part.name else dataclasses.replace(part, version="other")


@pytest.mark.parametrize(("edit", "said"), [(damaged, "damaged"), (shorter, "damaged"), (newer, "has changed")])
def test_what_is_not_what_it_should_be_is_refused(tmp_path, new_host, edit, said):
    source = SOURCES["one file"](tmp_path)
    line = Line(source, edit)
    with pytest.raises(ModelError, match=said):
        fetch_model(source, LayerRange(0, 1), line.ask, line.report)


def test_one_damaged_part_is_asked_for_again(tmp_path, new_host):
    source = SOURCES["one file"](tmp_path)
    parts = iter(range(1000))
    line = Line(source, lambda part: damaged(part) if next(parts) == 2 else part)
    local = fetch_model(source, LayerRange(0, 1), line.ask, line.report)
    assert all(map(np.array_equal, leaves(local, LayerRange(0, 1)), leaves(source, LayerRange(0, 1))))


def test_a_file_that_changes_is_not_given_on(tmp_path, new_host):
    source = SOURCES["one file"](tmp_path)
    server = ModelServer(source)
    server.part(FileWanted("a", "model.safetensors", 0, 8))
    file = Path(source.location) / "model.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ModelError, match="has changed"):
        server.part(FileWanted("a", "model.safetensors", 0, 8))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "secret", "model.safetensors/../secret"])
def test_only_files_of_the_model_are_given(tmp_path, name):
    source = SOURCES["one file"](tmp_path)
    (Path(source.location) / "secret").write_text("x")
    (tmp_path / "secret").write_text("x")
    with pytest.raises(ModelError, match="no such file"):
        ModelServer(source).part(FileWanted("a", name, 0, 1))


@pytest.mark.parametrize(("start", "stop"), [(0, 10**9), (10**9, 10**9 + 1), (8, 4)])
def test_only_parts_that_there_are(tmp_path, start, stop):
    with pytest.raises(ModelError):
        ModelServer(SOURCES["one file"](tmp_path)).part(FileWanted("a", "model.safetensors", start, stop))


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".hidden", "x\n"])
def test_a_list_with_names_of_no_plain_files_is_refused(name):
    with pytest.raises(ModelError, match="is none"):
        read_listing(dump_listing([ModelFile(name, 10, "v", 1)]))


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'[{"name": "a"}]', b"\xff"])
def test_a_list_that_is_none_is_refused(data):
    with pytest.raises(ModelError, match="malformed"):
        read_listing(data)


def test_a_digest_tells_one_bit():
    assert digest_of(b"a") != digest_of(b"b")


def test_who_has_the_model(tmp_path):
    assert is_here(SOURCES["one file"](tmp_path))
    assert is_here(gguf_file(tmp_path))
    assert is_here(ModelSource("random", "tiny"))
    assert is_here(ModelSource("hf", "acme/small"))
    assert not is_here(ModelSource("hf", str(tmp_path / "none")))
    assert not is_here(ModelSource("gguf", str(tmp_path / "none.gguf")))
    assert not is_here(ModelSource("package", "no-such-package"))


@pytest.mark.parametrize("kind", ["several files", "gguf in parts"])
async def test_a_job_whose_workers_have_nothing(tmp_path, new_host, monkeypatch, kind):
    source = SOURCES[kind](tmp_path)
    layers = read_geometry(source).num_layers
    prompt = [(37 * at + 11) % 256 for at in range(23)]
    async with served(str(source), layers) as job:
        expected = [event.token for event in await greedy(job, "a", prompt, 12)]
    without_models(monkeypatch)
    async with served(str(source), layers) as job:
        assert [event.token for event in await greedy(job, "b", prompt, 12)] == expected
    (mirror,) = cache_folder("models").iterdir()
    assert list(mirror.glob("*.parts"))


async def test_a_job_whose_coordinator_can_not_give_the_model_says_so(tmp_path, new_host, monkeypatch):
    source = SOURCES["one file"](tmp_path)
    without_models(monkeypatch)

    def broken(self, wanted):
        raise ModelError("the disk is on fire", where=wanted.name)

    monkeypatch.setattr(ModelServer, "part", broken)
    with pytest.raises(DeploymentError, match="didn't start") as caught:
        async with served(str(source), 5):
            pass
    assert "the disk is on fire" in str(caught.value)


@pytest.mark.parametrize("word", ["stop", "failed"])
def test_what_the_coordinator_says_while_a_worker_fetches(tmp_path, new_host, word):
    """Its words aren't taken for parts, nor lost behind them."""
    coordinator, endpoint = listen("local://*"), listen("local://*")
    at, ended = endpoint.address, list[str]()
    source = str(SOURCES["one file"](tmp_path))
    job = {**tiny_plan({"only": LayerRange(0, 4)}).served.model_dump(mode="json", exclude_none=True)}
    job = {**job, "model": {**job["model"], "source": source}}
    welcome = Welcome("only", LayerRange(0, 4), 5, 4096, job)

    def run() -> None:
        try:
            shell.Worker("only", endpoint, coordinator.address, "t", no_engine, is_here=lambda source: False).run()
        except (DeploymentError, ModelError) as error:
            ended.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    life = heard(coordinator, Hello).life
    coordinator.send(at, encode(dataclasses.replace(welcome, life=life), "t"))
    wanted = heard(coordinator, FileWanted)
    assert (wanted.name, wanted.life) == ("", life)
    if word == "stop":
        # With a part in one bundle.
        part = ModelServer(ModelSource("hf", source.partition(":")[2])).part(wanted)
        coordinator.send(at, encode_bundle([part, Stop(life)], "t"))
    else:
        coordinator.send(at, encode(Failed("only", "no disk", life), "t"))
    thread.join(60)
    assert not thread.is_alive()
    assert bool(ended) == (word == "failed")
    if ended:
        assert "no disk" in ended[0]
    coordinator.close()


def no_engine(welcome, report):
    raise AssertionError("nothing was to be loaded")


def without_models(monkeypatch) -> None:
    """Workers that are made from now on have no model on their hosts."""
    defaults = {**shell.Worker.__init__.__kwdefaults__, "is_here": lambda source: False}
    monkeypatch.setattr(shell.Worker.__init__, "__kwdefaults__", defaults)
