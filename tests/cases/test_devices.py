"""A node of several devices can be planned and simulated; running it is refused, since a worker computes on one."""

from __future__ import annotations

import pytest

from helix_df.deployment import apply, deploy, require_single_devices
from helix_df.errors import DeploymentError
from helix_df.load import parse_job
from helix_df.planning import make_plan


def plan_for(gpu, runtime="{}"):
    text = (
        f"model: {{source: 'random:tiny'}}\nnodes: {{pair: {{gpu: {gpu}}}}}\n"
        f"links: {{default: {{bandwidth: 1Gbps}}}}\nsolver: {{name: swarm}}\nruntime: {runtime}\n"
    )
    return make_plan(parse_job(text))


@pytest.mark.parametrize("gpu", ["2xL4", "4xT4", "8xA100-40GB"])
async def test_running_it_is_refused(gpu):
    plan = plan_for(gpu)
    with pytest.raises(DeploymentError, match=f"pair: {gpu}"):
        apply(plan)
    with pytest.raises(DeploymentError, match="one device a node"):
        async with deploy(plan):
            pass


def test_one_device_and_an_emulated_pair_are_fine():
    for plan in (plan_for("L4"), plan_for("1xL4"), plan_for("2xL4", "{emulate: true}")):
        assert require_single_devices(plan) is plan
