"""Whether a plan's nodes can have the devices that their types stand for, before anything is started.

Other hosts can't be asked; their workers say so themselves when they come.
"""

from __future__ import annotations

import os

from helix_df.errors import DeploymentError, ModelError
from helix_df.plan.plan import Plan
from helix_df.profiles.catalogue import device_count, find_device
from helix_df.profiles.device_shares import share_of
from helix_df.profiles.this_device import accelerators
from helix_df.runtime.jobs.launchers.local import visible_devices
from helix_df.runtime.threads import usable_cores

_NODE_EACH = "declare a node for each device, with links between them as fast as they are"


def require_devices(plan: Plan) -> Plan:
    """``plan`` itself, if its model can be divided among each node's devices, and this machine has those of its nodes.

    An emulated job runs on none of the devices that it names. Types that the job declares itself may be anything, a
    CPU's cores as well: only those of the catalogue are counted.

    Raises:
        DeploymentError: with the nodes where it isn't so.
    """
    _require_cores(plan)
    if not plan.job.runtime.emulate:
        _require_divisible(plan)
        _require_accelerators(plan)
    return plan


def _require_cores(plan: Plan) -> None:
    """Whether this machine has the cores that its nodes declare, and one for each that declares none beside them."""
    job, cores = plan.job, len(usable_cores())
    local = [stage.node for stage in plan.stages if job.nodes[stage.node].started_by == "local"]
    declared = {node: job.nodes[node].cpus or 1 for node in local}
    if sum(declared.values()) > cores and any(job.nodes[node].cpus for node in local):
        raise DeploymentError(
            "this machine has fewer cores than its nodes",
            where=f"job {job.name}, nodes.{next(node for node in local if job.nodes[node].cpus)}.cpus",
            found=f"{cores} cores",
            expected=", ".join(f"{node}: {count}" for node, count in declared.items()),
            hint="declare fewer cpus; without any, the nodes share what cores there are",
        )


def _require_divisible(plan: Plan) -> None:
    for stage in plan.stages:
        gpu = plan.job.nodes[stage.node].gpu
        try:
            share_of(plan.geometry, device_count(gpu))
        except ModelError as error:
            raise DeploymentError(
                error.problem,
                where=f"job {plan.job.name}, nodes.{stage.node}.gpu",
                found=f"{gpu}: {error.found}",
                expected=error.expected,
                hint=error.hint or _NODE_EACH,
            ) from error


def _require_accelerators(plan: Plan) -> None:
    """Whether this machine has as many devices as its nodes want, if it has any or a node wants several."""
    job = plan.job
    counts = {
        stage.node: device_count(job.nodes[stage.node].gpu)
        for stage in plan.stages
        if job.nodes[stage.node].started_by == "local"
        and job.nodes[stage.node].gpu not in job.gpus
        and find_device(job.nodes[stage.node].gpu) is not None
    }
    found = accelerators()
    usable = len(visible_devices(os.environ, len(found))) if found else 0
    if (found or max(counts.values(), default=1) > 1) and sum(counts.values()) > usable:
        raise DeploymentError(
            "this machine doesn't have the devices of its nodes",
            where=f"job {job.name}",
            found=", ".join(map(str, found[:usable])) or "no accelerator",
            expected=", ".join(f"{node}: {job.nodes[node].gpu}" for node in counts),
            hint="give nodes of other hosts their address; `emulate: true` under runtime runs without the devices",
        )
