"""Exports: exact for the plans a target can run, and refused with the stages for those it can't."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from helix_df.errors import PlanError
from helix_df.exporters.registry import TARGETS, export_plan
from helix_df.layers import LayerRange
from helix_df.load import load_job
from helix_df.plan.plan import Plan
from helix_df.planning import make_plan
from tests.explain.plans import placed, plan_of
from tests.problems import node, problem

SYSTEMS = [target for target in TARGETS if target not in ("kubernetes", "helm")]  # which are ours, on a cluster
EXAMPLES = Path(__file__).parents[2] / "spec" / "examples"


def chain(*lengths, gpus=None, **job):
    """A plan of one pipeline over nodes ``n0``, ``n1``, … with these many layers."""
    total = sum(lengths)
    names = [f"n{i}" for i in range(len(lengths))]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    placement = {name: LayerRange(s, s + n) for name, s, n in zip(names, starts, lengths, strict=True)}
    plan = plan_of(problem(total, *(node(name, *[9.0] * total) for name in names)), placement)
    return with_nodes(plan, {name: {"gpu": gpu} for name, gpu in zip(names, gpus or [], strict=False)}, **job)


def with_nodes(plan: Plan, changes: dict, **job) -> Plan:
    nodes = {name: spec.model_copy(update=changes.get(name, {})) for name, spec in plan.job.nodes.items()}
    return replace(plan, job=plan.job.model_copy(update={"nodes": nodes, **job}))


def model_of(plan, **changes):
    return replace(plan, job=plan.job.model_copy(update={"model": plan.job.model.model_copy(update=changes)}))


def addressed(plan, *hosts):
    return with_nodes(plan, {name: {"address": host} for name, host in zip(plan.job.nodes, hosts, strict=True)})


def words(command):
    return shlex.split(command.text)


def after(arguments, option):
    return arguments[arguments.index(option) + 1]


# vLLM


def test_vllm_has_the_layers_of_each_stage_in_order():
    exported = export_plan(chain(3, 1, 2), "vllm")
    (command,) = exported.commands
    arguments = words(command)
    assert arguments[0] == "VLLM_PP_LAYER_PARTITION=3,1,2"
    assert after(arguments, "--pipeline-parallel-size") == "3"
    assert after(arguments, "--tensor-parallel-size") == "1"
    assert command.nodes == ("n0", "n1", "n2")
    assert exported.facts["node_order"] == ["n0", "n1", "n2"]
    assert "--nnodes" not in arguments
    assert any("CUDA_VISIBLE_DEVICES" in note for note in exported.notes)


def test_vllm_over_hosts_keeps_the_order_by_node_rank():
    plan = addressed(chain(3, 1, 2), "10.0.0.9:7000", "10.0.0.1", "10.0.0.5")
    plan = model_of(plan, source="hf:/models/my llama", context=4096)
    commands = export_plan(plan, "vllm").commands
    assert [command.host for command in commands] == ["10.0.0.9", "10.0.0.1", "10.0.0.5"]
    for rank, command in enumerate(commands):
        arguments = words(command)
        assert arguments[:4] == ["VLLM_PP_LAYER_PARTITION=3,1,2", "vllm", "serve", "/models/my llama"]
        assert after(arguments, "--node-rank") == str(rank)
        assert after(arguments, "--nnodes") == "3"
        assert after(arguments, "--master-addr") == "10.0.0.9"
        assert after(arguments, "--max-model-len") == "4096"
        assert ("--headless" in arguments) == (rank > 0)


def test_vllm_refuses_hosts_that_differ_in_stages_and_nodes_that_differ_in_gpus():
    with pytest.raises(PlanError) as caught:
        export_plan(addressed(chain(1, 1, 1), "10.0.0.1", "10.0.0.1", "10.0.0.2"), "vllm")
    assert "10.0.0.1: n0, n1; 10.0.0.2: n2" in str(caught.value)
    with pytest.raises(PlanError) as caught:
        export_plan(addressed(chain(1, 1, 1), "10.0.0.1", "10.0.0.2", "10.0.0.1"), "vllm")
    assert "same number of stages" in str(caught.value)
    with pytest.raises(PlanError) as caught:
        export_plan(chain(1, 1, gpus=["2xT4", "L4"]), "vllm")
    assert "1 GPU each: n1; 2 GPUs each: n0" in str(caught.value)
    exported = export_plan(chain(1, 1, gpus=["2xT4", "2xL4"]), "vllm")
    assert exported.facts["tensor_parallel_size"] == 2


# llama.cpp


def assigned(split, num_layers):
    """Layers by device as llama.cpp computes them, in single precision: see ``llama_cpp``'s sources."""
    ends = np.cumsum(np.array(split, dtype=np.float32), dtype=np.float32)
    ends = ends / ends[-1]
    shares = np.arange(num_layers, dtype=np.float32) / np.float32(num_layers + 1)
    return np.searchsorted(ends, shares, side="right").tolist()


@pytest.mark.parametrize("lengths", [(1,), (3, 1, 2), (12, 10, 8), (1,) * 15, (7, 13, 29, 31), (33, 1, 46)])
def test_llama_cpp_places_every_layer_where_the_plan_does(lengths):
    plan = chain(*lengths)
    exported = export_plan(plan, "llama.cpp")
    split = cast(Sequence[int], exported.facts["tensor_split"])
    assert sum(split) == plan.num_layers + 1
    order = [stage.node for stage in plan.stages]
    expected = [next(i for i, n in enumerate(order) if layer in plan.placement[n]) for layer in range(plan.num_layers)]
    assert assigned(split, plan.num_layers) == expected
    main = words(exported.commands[-1])
    assert after(main, "--tensor-split") == ",".join(map(str, split))
    assert after(main, "--n-gpu-layers") == str(plan.num_layers + 1)


def test_llama_cpp_has_a_server_and_a_port_for_every_node():
    plan = addressed(chain(2, 2, 2), "10.0.0.1:9", "10.0.0.1", "10.0.0.2")
    exported = export_plan(model_of(plan, source="gguf:/models/m.gguf"), "llama.cpp")
    assert exported.facts["rpc"] == "10.0.0.1:50052,10.0.0.1:50053,10.0.0.2:50052"
    assert words(exported.commands[1]) == ["rpc-server", "--host", "10.0.0.1", "--port", "50053"]
    assert after(words(exported.commands[-1]), "--model") == "/models/m.gguf"


def test_llama_cpp_finds_the_quickstart_s_file():
    plan = make_plan(load_job(EXAMPLES / "quickstart.yaml").with_solver(name="even", backend=None))
    assert after(words(export_plan(plan, "llama.cpp").commands[-1]), "--model").endswith(".gguf")


def test_llama_cpp_refuses_tensor_parallel_nodes_and_long_pipelines():
    with pytest.raises(PlanError) as caught:
        export_plan(chain(1, 1, gpus=["L4", "4xT4"]), "llama.cpp")
    assert "n1 has 4" in str(caught.value)
    with pytest.raises(PlanError) as caught:
        export_plan(chain(*[1] * 16), "llama.cpp")
    assert "16 nodes" in str(caught.value)


# Parallax


def test_parallax_starts_every_node_with_its_layers():
    plan = addressed(chain(3, 1, gpus=["2xT4", "L4"]), "10.0.0.1", "10.0.0.1")
    exported = export_plan(plan, "parallax")
    assert exported.facts == {"layers": {"n0": [0, 3], "n1": [3, 4]}}
    first, second = (words(command) for command in exported.commands)
    assert (after(first, "--start-layer"), after(first, "--end-layer"), after(first, "--tp-size")) == ("0", "3", "2")
    assert (after(second, "--start-layer"), after(second, "--end-layer"), after(second, "--tp-size")) == ("3", "4", "1")
    assert after(first, "--port") != after(second, "--port")
    assert "--initial-peers" not in first
    assert after(second, "--initial-peers") == "$FIRST_PEER"


def test_parallax_runs_several_pipelines_that_have_one_way_on():
    nodes = [node(name, *[9.0] * 4) for name in ("a", "b", "c", "d")]
    plan = plan_of(problem(4, *nodes, partial=False), placed(a=(0, 1), b=(1, 4), c=(0, 3), d=(3, 4)))
    exported = export_plan(plan, "parallax")
    assert len(exported.commands) == 4
    assert any("a 50.0%, c 50.0%" in note for note in exported.notes)


def test_parallax_refuses_replicas_and_partial_inference():
    replicated = plan_of(
        problem(2, node("a", 9.0), node("b", 4.0), node("c", 4.0)), placed(a=(0, 1), b=(1, 2), c=(1, 2))
    )
    with pytest.raises(PlanError) as caught:
        export_plan(replicated, "parallax")
    assert "b [1, 2) and c [1, 2) start at layer 1" in str(caught.value)
    partial = plan_of(problem(3, node("a", 9.0, 9.0), node("b", 9.0, 9.0)), placed(a=(0, 2), b=(1, 3)))
    with pytest.raises(PlanError) as caught:
        export_plan(partial, "parallax")
    assert "requests run only [2, 3) of b [1, 3)" in str(caught.value)


# All


@pytest.mark.parametrize("target", ["vllm", "llama.cpp"])
def test_one_pipeline_is_all_that_some_targets_run(target):
    replicated = problem(2, node("a", 9.0), node("b", 4.0), node("c", 4.0))
    with pytest.raises(PlanError) as caught:
        export_plan(plan_of(replicated, placed(a=(0, 1), b=(1, 2), c=(1, 2))), target)
    assert "stage [1, 2) is replicated on b, c" in str(caught.value)
    overlapping = problem(3, node("a", 9.0, 9.0), node("b", 9.0, 9.0))
    with pytest.raises(PlanError) as caught:
        export_plan(plan_of(overlapping, placed(a=(0, 2), b=(1, 3))), target)
    assert "a [0, 2) and b [1, 3) overlap" in str(caught.value)
    pipelines = problem(2, *(node(name, 9.0, 5.0) for name in "abcd"))
    with pytest.raises(PlanError) as caught:
        export_plan(plan_of(pipelines, placed(a=(0, 1), b=(1, 2), c=(0, 2))), target)
    assert "overlap" in str(caught.value)
    with pytest.raises(PlanError) as caught:
        export_plan(plan_of(problem(2, node("a", 9.0), node("b", 9.0)), placed(a=(0, 1))), target)
    assert "no node runs layer 0, 1" in str(caught.value)


@pytest.mark.parametrize("target", SYSTEMS)
def test_nodes_without_traffic_are_left_out_and_said(target):
    plan = plan_of(
        problem(2, node("a", 1.0), node("b", 9.0), node("spare", 9.0)), placed(a=(0, 1), b=(1, 2), spare=(1, 2))
    )
    busy = {edge.head for edge in plan.edges}
    (idle,) = {"b", "spare"} - busy
    exported = export_plan(plan, target)
    assert any(f"no traffic of the plan passes: {idle}" in note for note in exported.notes)
    assert not any(idle in command.nodes for command in exported.commands)


@pytest.mark.parametrize("target", SYSTEMS)
def test_a_script_is_commands_and_comments_only(target):
    plan = model_of(chain(2, 1), source="random:odd\nrm -rf name")
    exported = export_plan(plan, target)
    lines = [line for line in exported.script().splitlines() if line and not line.startswith("#")]
    assert lines == [command.text for command in exported.commands]
    json.dumps(dict(exported.facts))


def test_an_unknown_target_lists_the_known():
    with pytest.raises(PlanError) as caught:
        export_plan(chain(1, 1), "triton")
    assert "vllm | llama.cpp | parallax" in str(caught.value)


@pytest.mark.parametrize("target", SYSTEMS)
def test_a_node_whose_host_is_chosen_later_has_no_command(target):
    plan = addressed(chain(3, 3), "10.0.0.1", "auto")
    with pytest.raises(PlanError) as error:
        export_plan(plan, target)
    assert error.value.where == "nodes.n1.address"
