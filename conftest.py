"""What all tests share: hypothesis is deterministic, slow tests are marked, long tables of cases are sampled,
and CI can insist on the live oracle."""

from __future__ import annotations

import fcntl
import os

os.environ.setdefault("HELIX_DF_CHECKS", "1")  # before anything of helix_df is imported; child processes have it, too

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, and no deadline: a slow shared machine is not a failing test.
settings.register_profile(
    "helix-df",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# More of them, freshly drawn, for hunting: pytest --hypothesis-profile=hunt
settings.register_profile("hunt", max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("helix-df")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-oracle", action="store_true", help="fail if torch and transformers are not installed")
    parser.addoption("--every-case", action="store_true", help="run the cases, too, that tests/sampled.txt leaves out")


# Files and tests that take long, as measured; scripts/slow-tests writes it. Others carry the mark themselves.
SLOW = frozenset((Path(__file__).parent / "tests/slow.txt").read_text("utf-8").splitlines())

SAMPLED = {
    test: int(one_of)
    for one_of, test in map(str.split, (Path(__file__).parent / "tests/sampled.txt").read_text("utf-8").splitlines())
}
"""Tests whose cases each take seconds and are much alike: of these one of so many is run, all with ``--every-case``."""


LONGEST = "property_tests/test_simulator_is_runtime.py"
"""Takes minutes on one core, so it begins first: what begins last keeps everybody waiting."""


TOGETHER = (
    "tests/chaos/test_hosts.py",
    "tests/clients/test_clients.py",
    "tests/docs/test_commands.py",
    "tests/docs/test_site.py",
    "tests/e2e/test_quickstart.py",
    "tests/jobs/test_kubernetes.py",
    "tests/jobs/test_slurm.py",
    "tests/oracle/test_recorded_devices.py",
    "tests/solvers/test_chosen_rules.py",
    "tests/solvers/test_goodput.py",
)
"""Tests that share a job, plans or whatever else takes long to make, or need the machine's cores: those of a line run
one after another, by one process."""


ALONE = ("tests/chaos/test_hosts.py::test_where_the_layers_survive", "tests/chaos/test_fleet.py::test_a_fleet")
"""What is promised in seconds of a machine that does nothing else: these run while no other test does."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with _cores(item.nodeid.startswith(ALONE)):
        return (yield)


@contextmanager
def _cores(alone: bool) -> Iterator[None]:
    """Let tests of all processes that run this tree's in, or one that is alone. Whoever comes waits behind those that
    wait already, so that tests which follow one another keep nobody out."""
    room, turn = Path(__file__), Path(__file__).with_name("pyproject.toml")
    with room.open() as entered, turn.open() as next_in:
        fcntl.flock(next_in, fcntl.LOCK_EX)
        fcntl.flock(entered, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(next_in, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Its own groups (``--dist loadgroup``) are of no effect with pytest 9.2, which doesn't take the names it gives."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class OneAfterAnother(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((line for line in TOGETHER if nodeid.startswith(line)), nodeid)

    return OneAfterAnother(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    for item in items:
        test = _test_of(item)
        if test in SLOW or test.partition("::")[0] in SLOW:
            item.add_marker(pytest.mark.slow)
            if not test.startswith("property_tests/"):  # counting lines costs most where a job or a model is started
                item.add_marker("no_cover")
    # A case that somebody asks for by its name is run.
    if not config.getoption("--every-case") and not any("[" in word for word in config.args):
        _leave_out(config, items)


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    left_out = []
    for item in items:
        test = _test_of(item)
        if test in SAMPLED:
            if seen[test] % SAMPLED[test]:
                left_out.append(item)
            seen[test] += 1
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _test_of(item: pytest.Item) -> str:
    """Without its case."""
    return item.nodeid.partition("[")[0]


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--require-oracle"):
        import torch  # noqa: F401
        import transformers  # noqa: F401
