"""A job on a real Ray cluster, whose raylets are on hosts of their own."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from helix_df.check import check_job
from helix_df.errors import HelixError
from helix_df.load import parse_job
from tests.chaos import hosts

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray isn't installed")


@pytest.mark.slow
@pytest.mark.skipif(hosts.why_not() is not None, reason=f"no hosts can be made here: {hosts.why_not()}")
def test_a_job_on_ray_serves_is_found_again_heals_and_leaves_nothing() -> None:
    with hosts.enter("tests.chaos.ray_cluster", []) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    done = json.loads(printed.strip().splitlines()[-1])
    assert done["kinds"] == ["large", "small"], "labels say where workers go"
    assert (done["actors"], done["log"], done["secret_shown"]) == (2, True, False)
    assert (done["adopted"], done["same_after_coordinator"]) == (True, True)
    assert (done["moved"], done["same_after_host"]) == (True, True)
    assert done["left"] == [[], []]


JOB = """\
model: {{source: "random:tiny"}}
nodes:
  a: {{gpu: L4, launcher: ray, {node}}}
links: {{default: {{bandwidth: 1Gbps}}}}
launchers: {{ray: {{{options}}}}}
"""


@pytest.mark.parametrize(
    ("node", "options", "where"),
    [
        ("address: 10.0.0.1", "", "nodes.a.address"),
        ("region: here", "", "nodes.a.address"),
        ("address: auto", "place: {T4: {gpus: 1}}", "launchers.ray.place.T4"),
        ("address: auto", "place: {L4: {gpu: 1}}", "launchers.ray.place.L4.gpu"),
        ("address: auto", "wait: 0s", "launchers.ray.wait"),
    ],
)
def test_mistakes_are_found_at_validate(node: str, options: str, where: str) -> None:
    with pytest.raises(HelixError) as error:
        check_job(parse_job(JOB.format(node=node, options=options)))
    assert error.value.where == f"job.yaml:{3 if where.startswith('nodes') else 5}: {where}"


def test_what_is_right_is_taken() -> None:
    place = "place: {a: {cpus: 2, labels: {zone: here}, resources: {big: 1}}, default: {}}"
    check_job(parse_job(JOB.format(node="address: auto", options=place)))
