"""Hosts that were found become a part that a job can include, the same in whatever order they were found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helix_df.cli.main import main
from helix_df.discovery import ray, slurm
from helix_df.discovery.kind import Discoverer, FoundHost
from helix_df.discovery.part import part_of
from helix_df.discovery.registry import BUILT_IN, discoverer_names, get_discoverer
from helix_df.errors import SpecError
from helix_df.load import load_job, parse_job
from helix_df.runtime.jobs.launchers.registry import check_launchers

REST = "model: {source: random:tiny}\nlinks: {default: {bandwidth: 10Gbps}}\n"

names = st.text(st.sampled_from("abn01-"), min_size=1, max_size=6)
hosts = st.builds(
    FoundHost,
    names,
    device=st.sampled_from([None, "L4", "NVIDIA-A100-SXM4-80GB", "tesla_t4", "mystery chip"]),
    devices=st.integers(0, 8),
    labels=st.dictionaries(st.sampled_from(["zone", "kind", "ray.io/region"]), st.sampled_from(["", "x", "y\n# z"])),
    region=st.sampled_from([None, "east", "west"]),
    why_not=st.sampled_from([None, None, None, "it is down"]),
)
clusters = st.lists(hosts, max_size=12, unique_by=lambda host: host.name)


@given(clusters, st.randoms(use_true_random=False), st.sampled_from([ray.RAY, slurm.SLURM]))
def test_a_part_has_each_usable_host_once_and_the_same_text_in_any_order(
    found: list[FoundHost], random: object, discoverer: Discoverer
) -> None:
    usable = [host for host in found if host.why_not is None and host.devices and host.device]
    if not usable:
        with pytest.raises(SpecError, match="no host that could be a node"):
            part_of("x", discoverer, found, {})
        return
    part = part_of("x", discoverer, found, {})
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert part_of("x", discoverer, shuffled, {}) == part
    nodes = yaml.safe_load(part.text)["nodes"]
    counted = sum(node.get("count", 1) for node in nodes.values())
    assert counted + len(part.left_out) == len(found)
    if discoverer.by_node:
        assert counted == len(usable)


@given(clusters, st.sampled_from([ray.RAY, slurm.SLURM]))
def test_a_part_is_a_job_that_its_launcher_takes(found: list[FoundHost], discoverer: Discoverer) -> None:
    if not any(host.why_not is None and host.devices and host.device for host in found):
        return
    gpus = {f"{count}x" if count > 1 else "": count for count in range(1, 9)}
    declared = {f"{times}mystery chip": {"memory": "24GiB", "profile": {"tokens_per_s": [9.0]}} for times in gpus}
    text = part_of("x", discoverer, found, {}).text.replace("mystery chip", "chip")
    declared = {name.replace("mystery chip", "chip"): gpu for name, gpu in declared.items()}
    job = parse_job(text + REST + yaml.safe_dump({"gpus": declared}))
    assert all(node.is_placed for node in job.nodes.values())
    check_launchers(job)


def test_what_is_found_is_included_and_gpu_names_are_the_catalogues(tmp_path: Path) -> None:
    found = [
        FoundHost(f"host{i}", device="NVIDIA-A100-SXM4-80GB", devices=4, labels={"zone": "a"}) for i in range(1, 12)
    ]
    found += [FoundHost("cpu1"), FoundHost("old", device="tesla_t4", devices=1, why_not="it is down")]
    part = part_of("slurm", slurm.SLURM, found, {})
    assert part.text == (
        "# 11 hosts that `helix-df discover slurm` found. A job takes them in by `include:`, and may say more of each"
        " there.\n"
        "nodes:\n"
        "  # host1, host2, host3, host4, host5, host6 and 5 more: zone=a\n"
        "  4xa100-80gb: {gpu: 4xA100-80GB, count: 11, launcher: slurm, address: auto}\n"
        "launchers:\n"
        "  slurm:\n"
        "    place:\n"
        "      4xA100-80GB: ['--gpus-per-node=NVIDIA-A100-SXM4-80GB:4']\n"
    )
    assert dict(part.left_out) == {"cpu1": "it has no accelerator that the cluster knows of", "old": "it is down"}
    (tmp_path / "nodes.yaml").write_text(part.text)
    (tmp_path / "job.yaml").write_text(f"include: nodes.yaml\n{REST}nodes: {{4xa100-80gb: {{nic: 100Gbps}}}}\n")
    job = load_job(tmp_path / "job.yaml")
    assert list(job.nodes) == [f"4xa100-80gb-{i}" for i in range(1, 12)]
    assert {node.nic for node in job.nodes.values()} == {12.5e9}


def test_what_a_cluster_doesnt_say_a_user_does() -> None:
    found = [FoundHost(f"n{i}", labels={"big": ""} if i < 3 else {"kind": "small"}) for i in range(5)]
    part = part_of("ray", ray.RAY, found, {"big": "L4", "kind=small": "T4"})
    assert {key: node["gpu"] for key, node in yaml.safe_load(part.text)["nodes"].items()} == {"l4": "L4", "t4": "T4"}
    with pytest.raises(SpecError) as caught:
        part_of("ray", ray.RAY, found, {"big": "L4", "huge": "T4"})
    assert (caught.value.where, caught.value.found) == ("--type", "huge")


def test_regions_are_places_of_their_own_where_the_launcher_can_tell_them_apart() -> None:
    def host(name: str, zone: str) -> FoundHost:
        return FoundHost(name, "L4", 1, {"ray.io/region": zone, "ray.io/accelerator-type": "L4"}, zone)

    found = [host("a", "east"), host("b", "west"), host("c", "west")]
    part = yaml.safe_load(part_of("ray", ray.RAY, found, {}).text)
    assert {key: (node["region"], node.get("count", 1)) for key, node in part["nodes"].items()} == {
        "l4-east": ("east", 1),
        "l4-west": ("west", 2),
    }
    place: Mapping[str, dict[str, object]] = part["launchers"]["ray"]["place"]
    assert {name: one["labels"]["ray.io/region"] for name, one in place.items()} == {  # type: ignore[index]
        "l4-east": "east",
        "l4-west-1": "west",
        "l4-west-2": "west",
    }
    by_type = part_of(
        "slurm", slurm.SLURM, [FoundHost("a", "L4", 1, {}, "east"), FoundHost("b", "L4", 1, {}, "west")], {}
    )
    assert yaml.safe_load(by_type.text)["nodes"] == {
        "l4": {"gpu": "L4", "count": 2, "launcher": "slurm", "address": "auto"}
    }


def test_a_type_that_the_catalogue_lacks_is_kept_with_a_word_of_what_to_do() -> None:
    text = part_of("slurm", slurm.SLURM, [FoundHost("n", "a100", 2)], {}).text
    assert "  # the catalogue has no a100: declare it under gpus, or find it by --type a100=A100-40GB|A100-80GB" in text
    assert yaml.safe_load(text)["nodes"]["2xa100"]["gpu"] == "2xa100"


def test_ways_to_ask_are_found_by_name_and_the_unknown_is_told() -> None:
    assert discoverer_names()[: len(BUILT_IN)] == ("ray", "slurm", "kubernetes")
    assert all(isinstance(get_discoverer(name), Discoverer) for name in BUILT_IN)
    with pytest.raises(SpecError) as caught:
        get_discoverer("slrum")
    assert caught.value.hint == "did you mean 'slurm'?"


def test_a_label_without_a_type_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["discover", "slurm", "--type", "a100"])
    assert ended.value.code == 2
    assert "expected: LABEL=GPU" in capsys.readouterr().err
