"""What is timed and how: clocks are made up, only structure is asked of real runs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from helix_df.errors import DeploymentError, SpecError
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.measuring.prober import BOUNCES, MeasuredLink, Prober, answer_probes
from helix_df.measuring.probing import link_differences, links_yaml, own_host, secret_for
from helix_df.measuring.profiling import model_job, node_gpu, profile_device, profile_yaml
from helix_df.planning import make_plan
from helix_df.profiles.read_geometry import catalogue
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.wire.framing import Frames, decode, encode
from helix_df.runtime.wire.messages import Probe
from helix_df.runtime.wire.transport import Endpoint, listen
from helix_df.runtime.worker.stage_speed import PREFILL_TOKENS, RUNS, time_stage
from helix_df.runtime.worker.steps import Step, StepResult
from tests.runtime.tiny import tiny_plan

TINY = catalogue()["tiny"]


def ticking(step_s: float = 1.0) -> Callable[[], float]:
    return itertools.count(0.0, step_s).__next__


class Clocked:
    """An engine whose batches take the given seconds, one after another."""

    def __init__(self, seconds: Sequence[float], *, full: bool = False) -> None:
        self.now = 0.0
        self.seconds: Iterator[float] = iter(seconds)
        self.full = full
        self.steps: list[Step] = []
        self.released: list[str] = []

    def run(self, steps: Sequence[Step]) -> list[StepResult]:
        self.steps += steps
        self.now += next(self.seconds)
        return [StepResult(step.request, kv_full=self.full) for step in steps]

    def time(self, layers: LayerRange):
        return time_stage(self.run, self.released.append, layers, TINY, lambda: self.now)


def test_a_stage_is_as_fast_as_its_fastest_runs():
    engine = Clocked([9, 5, 7, 3, 2, 4])
    speed = engine.time(LayerRange(0, 2))
    assert speed is not None
    assert (speed.prefill_tokens, speed.prefill_s, speed.decode_s) == (PREFILL_TOKENS, 5, 2)
    assert [len(step.inputs) for step in engine.steps] == [PREFILL_TOKENS] * RUNS + [1] * RUNS
    assert engine.released == ["stage-speed"]


def test_only_the_last_stage_samples_and_later_ones_get_hidden_states():
    middle, last = Clocked([1] * 6), Clocked([1] * 6)
    middle.time(LayerRange(1, 2))
    last.time(LayerRange(1, TINY.num_layers))
    assert {step.sampling is None for step in middle.steps} == {True}
    assert {step.sampling is None for step in last.steps} == {False}
    assert middle.steps[0].inputs.shape == (PREFILL_TOKENS, TINY.hidden_size)


def test_a_stage_without_cache_has_no_speed():
    engine = Clocked([1] * 6, full=True)
    assert engine.time(LayerRange(0, 2)) is None
    assert engine.released == ["stage-speed"]


async def test_workers_say_how_fast_they_are_and_answer_probes():
    coordinator = new_coordinator(tiny_plan(), embedded=True)
    mine = listen("local://*")
    try:
        await coordinator.start()
        await coordinator.wait_ready(120)
        nodes = {node.name: node for node in coordinator.snapshot().nodes}
        assert all(node.speed is not None and node.speed.decode_s > 0 for node in nodes.values())
        way = [nodes[name].address for name in ("front", "back", "front")]
        assert all(way)
        probe = Probe(7, (*(address or "" for address in way[1:]), mine.address), b"x" * 100)
        mine.send(way[0] or "", encode(probe, coordinator.token))
        (home,) = mine.receive(30)
        arrived = decode(home, coordinator.token)
        assert isinstance(arrived, Probe)
        assert (arrived.number, arrived.path, bytes(arrived.payload)) == (7, (), b"x" * 100)
    finally:
        mine.close()
        await coordinator.close()


class Network:
    """An endpoint whose probes come home at once, while a made-up clock counts seconds by hops and bytes."""

    address = "made://here"
    refused_connections = 0

    def __init__(self, hop_s: float, byte_s: float, *, lossy: bool = False) -> None:
        self.now = 0.0
        self.hop_s, self.byte_s, self.lossy = hop_s, byte_s, lossy
        self.home: list[Frames] = []

    def watch(self, patience_s: float) -> None:
        pass

    def unreachable(self) -> frozenset[str]:
        return frozenset()

    def send(self, address: str, frames: Frames, *, bulk: bool = False) -> None:
        probe = decode(frames, "t")
        assert isinstance(probe, Probe)
        hops = 1 + len(probe.path)
        self.now += hops * (self.hop_s + self.byte_s * len(probe.payload))
        if not self.lossy:
            self.home = [encode(Probe(probe.number, (), probe.payload), "t")]

    def receive(self, timeout_s: float | None) -> list[Frames]:
        if self.lossy:
            self.now += timeout_s or 0
        arrived, self.home = self.home, []
        return arrived

    def wake(self) -> None: ...

    def close(self) -> None: ...


def test_links_are_measured_from_here_and_between_others():
    network = Network(0.002, 1e-6)
    prober = Prober("coordinator", network, "t", lambda: network.now, sizes=(0, 1000), repeat=3)
    near = prober.from_here("a", "made://a")
    assert near.between == ("coordinator", "a")
    assert near.latency_s == pytest.approx(0.002)
    assert near.bytes_per_s == pytest.approx(1e6)
    far = prober.between(("a", "made://a"), ("b", "made://b"))
    assert far.between == ("a", "b")
    assert far.latency_s == pytest.approx(0.002)
    assert far.bytes_per_s == pytest.approx(1e6)
    assert BOUNCES > 1


def test_a_probe_that_is_lost_is_an_error_with_the_address():
    network = Network(0.002, 1e-6, lossy=True)
    with pytest.raises(DeploymentError, match="made://a"):
        Prober("coordinator", network, "t", lambda: network.now).from_here("a", "made://a")


@pytest.mark.parametrize("scheme", ["tcp://127.0.0.1:*", "local://*"])
def test_listeners_answer_only_those_with_the_secret(scheme: str):
    here, there = listen(scheme), listen(scheme)
    done = threading.Event()
    answering = threading.Thread(target=answer_probes, args=(there, "s", lambda: not done.is_set()), daemon=True)
    answering.start()
    try:
        stranger = Probe(1, (here.address,), b"")
        here.send(there.address, encode(stranger, "other"))
        here.send(there.address, encode(Probe(2, (here.address,), b""), "s"))
        home = _first(here)
        assert decode(home, "s") == Probe(2, (), b"")
        link = Prober("here", here, "s", ticking(), sizes=(10, 100), repeat=2).from_here("there", there.address)
        assert [size for size, _ in link.round_trips] == [10, 100]
    finally:
        done.set()
        there.wake()
        answering.join(10)
        here.close()
        there.close()


def _first(endpoint: Endpoint) -> list[bytes]:
    (frames,) = endpoint.receive(30)
    return [bytes(frame) for frame in frames]


JOB = """
model: {source: random:tiny}
gpus: {g: {memory: 1GiB, profile: {tokens_per_s: [9, 8, 7, 6]}}, h: {memory: 1GiB, profile: {tokens_per_s: [9]}}}
nodes: {a: {gpu: g}, b: {gpu: h}}
solver: even
"""


def test_links_are_written_as_the_job_reads_them_and_held_against_it():
    links = (
        MeasuredLink(("coordinator", "a"), ((0, 0.002), (1_000_000, 0.004))),
        MeasuredLink(("a", "b"), ((0, 0.02), (1_000_000, 0.22))),
    )
    job = parse_job(JOB + links_yaml(links, named=True))
    assert [(link.between, link.bandwidth, link.latency) for link in job.links.nodes] == [
        (("coordinator", "a"), 1e9, 0.001),
        (("a", "b"), 1e7, 0.01),
    ]
    assert link_differences(job, links) == ()
    slowest = parse_job(JOB + links_yaml(links, named=False))
    assert slowest.links.default is not None
    assert (slowest.links.default.bandwidth, slowest.links.default.latency) == (1e7, 0.01)
    told = [str(one) for one in link_differences(slowest, links)]
    assert len(told) == 2
    assert told[0].startswith("coordinator - a, bandwidth: measured 1000 MB/s, expected 10 MB/s")


def test_a_secret_is_only_asked_for_beyond_loopback():
    assert secret_for(["127.0.0.1:7000"], None) == ""
    assert secret_for(["10.0.0.5:7000"], "s") == "s"
    with pytest.raises(SpecError, match="need a secret"):
        secret_for(["127.0.0.1:7000", "10.0.0.5:7000"], None)
    assert own_host("127.0.0.1:7000") == own_host("localhost:7000") == "127.0.0.1"
    assert own_host("[::1]:7000") == "[::1]"


def test_the_node_says_which_gpu_is_measured():
    job = parse_job(JOB + "links: {default: {bandwidth: 1Gbps}}")
    assert node_gpu(job, "b") == "h"
    with pytest.raises(SpecError, match="no such node"):
        node_gpu(job, "c")
    with pytest.raises(SpecError, match="different GPUs"):
        node_gpu(job, None)


def test_a_tiny_model_is_profiled_and_its_yaml_plans(tmp_path, monkeypatch):
    monkeypatch.setenv("HELIX_DF_CACHE", str(tmp_path))
    seen = []
    measured = profile_device(
        model_job("random:tiny"), layers=(1, 2), prefill=(4, 16), decode=(1, 3), repeat=2, on_sample=seen.append
    )
    assert [(s.kind, s.layers, s.size) for s in measured.samples] == [
        (kind, layers, size)
        for layers in (1, 2)
        for kind, sizes in (("prefill", (4, 16)), ("decode", (1, 3)))
        for size in sizes
    ]
    assert tuple(seen) == measured.samples
    assert all(len(sample.seconds) == 2 and min(sample.seconds) > 0 for sample in measured.samples)
    assert measured.kv_tokens[0] >= measured.kv_tokens[-1] > 0
    rest = "model: {source: random:tiny}\nnodes: {a: {gpu: measured}}\nlinks: {default: {bandwidth: 1Gbps}}\n"
    job = parse_job(profile_yaml(measured) + rest)
    assert make_plan(job).flow > 0
    profile = job.gpus["measured"].profile
    assert profile is not None
    assert profile.prefill_ms == measured.curve_ms("prefill")
    assert profile.decode_ms == measured.curve_ms("decode")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"layers": (5,)}, "fewer layers"),
        ({"prefill": (100_000,)}, "context is shorter"),
        ({"decode": (64,)}, "fewer requests together"),
        ({"repeat": 0}, "at least 1"),
    ],
)
def test_sizes_that_the_model_or_job_does_not_allow(sizes, words: str):
    with pytest.raises(SpecError, match=words):
        profile_device(model_job("random:tiny"), **sizes)
