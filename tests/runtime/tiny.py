"""A tiny random Llama on a few nodes, planned by hand: quick to load, with two ways through its layers."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from helix_df.graph.compile import compile_problem
from helix_df.graph.max_flow import placement_flow
from helix_df.layers import LayerRange
from helix_df.plan.plan import Plan, SolverReport, assemble
from helix_df.plan.violations import violations
from helix_df.runtime.coordinator.shell import Coordinator
from helix_df.runtime.requests import GenerationRequest, TokenEvent
from helix_df.runtime.sampling import SamplingParams
from helix_df.spec.job import Job

# Two ways in, two ways out, and a request from `early` runs only layers 2 and 3 on `late` (partial inference).
PLACEMENT = {
    "front": LayerRange(0, 1),
    "early": LayerRange(0, 2),
    "late": LayerRange(1, 4),
    "back": LayerRange(2, 4),
}


def tiny_plan(placement: dict[str, LayerRange] | None = None, *, kv_tokens: int = 4096, **changes: Any) -> Plan:
    """A plan for ``random:tiny`` with the placement; ``changes`` replace sections of the job."""
    placement = placement or PLACEMENT
    profile = {"tokens_per_s": [400, 200, 130, 100], "kv_tokens": [kv_tokens] * 4}
    document = {
        "name": "tiny",
        "model": {"source": "random:tiny", "context": 256},
        "gpus": {"toy": {"memory": "1GiB", "profile": profile}},
        "nodes": {name: {"gpu": "toy"} for name in placement},
        "links": {"default": {"bandwidth": "10Gbps", "latency": "1ms"}},
        "runtime": {"max_batch": 4, "max_prefill_tokens": 16, "port": 0},
    }
    job = Job.model_validate(document | changes)
    problem = compile_problem(job)
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    plan = assemble(job, problem, placement, placement_flow(problem, placement), report)
    assert violations(plan, problem) == []
    return plan


def tiny_request(index: int, **changes: Any) -> GenerationRequest:
    """Requests of many lengths; every third one is sampled."""
    prompt = tuple((7 * index + 3 * position) % 256 for position in range(1 + 5 * index % 47))
    sampling = SamplingParams(temperature=0.8, top_p=0.9, seed=index) if index % 3 == 0 else SamplingParams()
    fields: dict[str, Any] = {"id": f"r{index}", "prompt": prompt, "max_tokens": 4 + index, "sampling": sampling}
    return GenerationRequest(**fields | changes)


def has_ipv6() -> bool:
    """Whether this machine can listen on IPv6's loopback address."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as one:
        one.bind(("::1", 0))
        return True
    return False


async def answer(coordinator: Coordinator, request: GenerationRequest) -> list[TokenEvent]:
    """The whole answer."""
    return [event async for event in coordinator.submit(request)]
