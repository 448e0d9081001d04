"""A worker that isn't told where it is finds out: the address by which its host reaches the coordinator."""

from __future__ import annotations

import pytest

from helix_df.errors import DeploymentError, SpecError
from helix_df.load import parse_job
from helix_df.runtime.wire.own_host import at_own_host
from tests.runtime.tiny import has_ipv6

KEY = "k" * 40


@pytest.mark.parametrize(
    ("listen", "join", "found"),
    [
        ("tcp://auto:*", "tcp://127.0.0.1:7000", "tcp://127.0.0.1:*"),
        ("curve://auto:7001", "curve://127.0.0.1:7000", "curve://127.0.0.1:7001"),
        ("curve://auto:7001", "curve://localhost:7000", "curve://127.0.0.1:7001"),
        ("curve://10.0.0.5:*", "curve://127.0.0.1:7000", "curve://10.0.0.5:*"),
        ("tcp://[fd00::5]:7001", "tcp://127.0.0.1:7000", "tcp://[fd00::5]:7001"),
    ],
)
def test_it_is_the_address_on_the_way_to_the_coordinator(listen: str, join: str, found: str) -> None:
    assert at_own_host(listen, join) == found


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_it_may_be_of_ipv6() -> None:
    assert at_own_host("tcp://auto:*", "tcp://[::1]:7000") == "tcp://[::1]:*"


def test_no_way_to_the_coordinator_is_said() -> None:
    with pytest.raises(DeploymentError, match="no way to the coordinator"):
        at_own_host("tcp://auto:*", "tcp://nobody.invalid:7000")


JOB = """\
model: {{source: "random:tiny"}}
nodes: {{a: {{gpu: L4, address: auto{more}}}}}
links: {{default: {{bandwidth: 1Gbps}}}}
coordinator: {{address: 10.0.0.1}}
"""


def test_a_node_may_be_wherever_who_starts_it_puts_it_but_not_where_this_machine_is() -> None:
    job = parse_job(JOB.format(more=""))
    assert (job.nodes["a"].started_by, job.nodes["a"].is_placed, job.encrypts) == ("external", True, True)
    with pytest.raises(SpecError) as error:
        parse_job(JOB.format(more=", launcher: local"))
    assert "this machine" in str(error.value)


def test_placed_nodes_may_have_the_same_port_since_each_is_on_a_host_of_its_own() -> None:
    text = JOB.format(more=":7000, count: 2").replace("}}}}", "}}")
    assert {node.address for node in parse_job(text).nodes.values()} == {"auto:7000"}
    both = "nodes: {a: {gpu: L4, address: 'auto:7000'}, b: {gpu: L4, address: 'auto:7000'}}"
    assert parse_job(text.replace(text.splitlines()[1], both)).nodes.keys() == {"a", "b"}
