"""The example jobs say what their data says, and the paper's clusters carry the published flows through the YAML."""

import importlib.util
import json
from itertools import combinations
from pathlib import Path

import pytest

from helix_df.graph.compile import compile_problem
from helix_df.graph.flow_graph import build_graph
from helix_df.graph.max_flow import solve_max_flow
from helix_df.graph.problem import COORDINATOR
from helix_df.layers import LayerRange
from helix_df.load import load_job

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "spec" / "examples"
CLUSTERS = json.loads((ROOT / "tests" / "data" / "helix_clusters.json").read_text("utf-8"))
MEASURED = json.loads((ROOT / "helix_df" / "profiles" / "data" / "helix_measured.json").read_text("utf-8"))


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_reference_cluster_compiles_to_the_published_data(name):
    data, job = CLUSTERS[name], load_job(EXAMPLES / f"{name}.yaml")
    problem = compile_problem(job)
    assert {node.name: node.gpu for node in problem.nodes} == data["nodes"]
    assert (problem.num_layers, problem.token_bytes, problem.activation_bytes) == (80, 2, 16384)
    for node in problem.nodes:
        table = data["tokens_per_s_by_gpu_and_layers"][node.gpu]
        assert node.tokens_per_s == tuple(table[str(k)] for k in range(1, len(table) + 1))
        blocks = MEASURED["llama-2-70b"]["gpus"][node.gpu]["kv_blocks"]
        assert node.kv_tokens == tuple(16 * count for count in blocks)
        assert node.nic_bytes_per_s == data["node_nic_bytes_per_s"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_reference_cluster_has_the_published_links(name):
    data, problem = CLUSTERS[name], compile_problem(load_job(EXAMPLES / f"{name}.yaml"))
    ways = {}
    for a, b, bandwidth, latency in data["links"]:
        ends = frozenset(COORDINATOR if end in ("source", "sink") else end for end in (a, b))
        ways.setdefault(ends, []).append((bandwidth, latency))
    names = [COORDINATOR, *data["nodes"]]
    for a, b in combinations(names, 2):
        link, published = problem.links.find(a, b), ways.get(frozenset((a, b)))
        assert (link is None) == (published is None)
        # To and from the coordinator may differ, here they can't: the lower bandwidth, the same round trip.
        assert link.bytes_per_s == min(way[0] for way in published)
        assert link.latency_s == pytest.approx(sum(way[1] for way in published) / len(published))
        assert len(published) == 1 or COORDINATOR in (a, b)


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("method", ["helix-milp", "petals", "swarm"])
@pytest.mark.parametrize("name", CLUSTERS)
def test_published_placements_have_their_published_flow(name, method, partial):
    job = load_job(EXAMPLES / f"{name}.yaml").with_solver(partial_inference=partial)
    published = CLUSTERS[name]["published_placements"][method]
    placement = {node: LayerRange(*layers) for node, layers in published["layers"].items()}
    flow = solve_max_flow(build_graph(compile_problem(job), placement)).value
    assert flow == pytest.approx(published["max_flow_partial" if partial else "max_flow_exact"], abs=0.02)


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_committed_clusters_are_what_the_script_writes(name):
    spec = importlib.util.spec_from_file_location("make_clusters", ROOT / "scripts" / "make_reference_clusters.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    profiles = {
        gpu: {"kv_blocks_by_layers": {str(k): count for k, count in enumerate(row["kv_blocks"], start=1)}}
        for gpu, row in MEASURED["llama-2-70b"]["gpus"].items()
    }
    assert script.cluster_yaml(name, CLUSTERS[name], profiles) == (EXAMPLES / f"{name}.yaml").read_text("utf-8")


def test_the_quickstart_needs_all_its_nodes_and_keeps_requests():
    problem = compile_problem(load_job(EXAMPLES / "quickstart.yaml"))
    assert len(problem.nodes) >= 3
    assert all(node.max_layers < problem.num_layers for node in problem.nodes)
    assert len({node.tokens_per_s for node in problem.nodes}) == len(problem.nodes)


def test_two_sites_find_their_links_by_node_then_region():
    problem = compile_problem(load_job(EXAMPLES / "two-sites.yaml"))
    rates = {pair: problem.links.find(*pair).bytes_per_s * 8 for pair in combinations(["desk", "tower", "lab1"], 2)}
    assert rates == {("desk", "tower"): 1e9, ("desk", "lab1"): 200e6, ("tower", "lab1"): 200e6}
    assert problem.links.find("lab1", "lab2").bytes_per_s * 8 == 10e9
    assert problem.links.find(COORDINATOR, "lab1").bytes_per_s * 8 == 200e6
    assert all(node.max_layers < problem.num_layers for node in problem.nodes)
