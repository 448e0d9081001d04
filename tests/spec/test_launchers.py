"""Who starts workers, by name: built in or of another package, with options of its own, refused where it is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helix_df.check import check_job
from helix_df.errors import DeploymentError, HelixError, SpecError
from helix_df.layers import LayerRange
from helix_df.load import parse_job
from helix_df.runtime.jobs.coordinators import new_coordinator
from helix_df.runtime.jobs.launchers.registry import BUILT_IN, get_launcher, launcher_names
from helix_df.spec.job import Job
from tests.runtime.tiny import answer, tiny_plan, tiny_request

JOB = """\
model: {{source: "random:tiny"}}
gpus: {{any: {{profile: {{tokens_per_s: [400, 200, 130, 100], kv_tokens: [4096, 4096, 4096, 4096]}}}}}}
nodes: {{a: {{gpu: any{node}}}}}
links: {{default: {{bandwidth: 1Gbps}}}}
{more}
"""

PACKAGE = """\
from helix_df.errors import SpecError
from helix_df.runtime.jobs.launchers.embedded import EmbeddedLauncher
from helix_df.runtime.jobs.launchers.kind import LauncherKind
from helix_df.runtime.worker.build import build_engine
from helix_df.spec.section import Section
from pydantic import Field

MADE = []

class Options(Section):
    queue: str = "short"
    hours: int = Field(default=1, ge=1)

def check(nodes, options):
    if options.queue == "closed":
        raise SpecError("the queue is closed", where="launchers.threads.queue", found=", ".join(nodes))

def make(site, options):
    MADE.append((len(site.nodes), options.queue, site.keys.token))
    return EmbeddedLauncher(build_engine)

THREADS = LauncherKind(make, Options, check)
BROKEN = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with a launcher of two names, one of which is taken, and an entry point that is none."""
    (tmp_path / "thread_launcher.py").write_text(PACKAGE)
    info = tmp_path / "thread_launcher-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thread-launcher\nVersion: 1\n")
    names = {"threads": "THREADS", "local": "THREADS", "broken": "BROKEN", "gone": "nobody.there"}
    lines = "\n".join(f"{name} = thread_launcher:{value}" for name, value in names.items())
    (info / "entry_points.txt").write_text(f"[helix_df.launchers]\n{lines}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "thread_launcher", raising=False)
    return tmp_path


def job(node: str = "", more: str = "") -> Job:
    return parse_job(JOB.format(node=node, more=more))


def mistake(given: Job) -> HelixError:
    with pytest.raises(HelixError) as error:
        check_job(given)
    return error.value


def test_names_that_nobody_knows_are_refused_where_they_stand() -> None:
    error = mistake(job(", launcher: locla"))
    assert (error.where, error.found, error.hint) == ("job.yaml:3: nodes.a.launcher", "locla", "did you mean 'local'?")
    assert "local, external" in str(error.expected)
    error = mistake(job(more="launchers: {slrum: {}}"))
    assert (error.where, error.found) == ("job.yaml:5: launchers.slrum", "slrum")


def test_who_has_nothing_to_be_told_has_no_options() -> None:
    for name in ("local", "external"):
        check_job(job(f", launcher: {name}", f"launchers: {{{name}: {{}}}}"))
        error = mistake(job(f", launcher: {name}", f"launchers: {{{name}: {{queue: long}}}}"))
        assert error.where == f"job.yaml:5: launchers.{name}.queue"


@pytest.mark.usefixtures("package")
def test_options_are_checked_by_their_launcher_at_their_path() -> None:
    assert launcher_names() == (*BUILT_IN, "broken", "gone", "threads")
    check_job(job(", launcher: threads", "launchers: {threads: {queue: long, hours: 2}}"))
    error = mistake(job(", launcher: threads", "launchers: {threads: {queu: long}}"))
    assert error.where == "job.yaml:5: launchers.threads.queu"
    assert "did you mean 'queue'?" in str(error)
    error = mistake(job(", launcher: threads", "launchers: {threads: {hours: 0}}"))
    assert (error.where, error.expected) == ("job.yaml:5: launchers.threads.hours", "at least 1")
    error = mistake(job(", launcher: threads", "launchers: {threads: {queue: closed}}"))
    assert (error.where, error.found) == ("job.yaml:5: launchers.threads.queue", "a")
    check_job(job(more="launchers: {threads: {queue: long}}"))


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "found"), [("broken", "int"), ("gone", "AttributeError")])
def test_an_entry_point_that_is_no_launcher_is_told_of(name: str, found: str) -> None:
    with pytest.raises(SpecError, match=f"the launcher {name} of thread-launcher 1") as error:
        get_launcher(name, "nodes.a.launcher")
    assert found in str(error.value.found)


@pytest.mark.usefixtures("package")
async def test_a_launcher_of_another_package_starts_the_workers_of_its_nodes() -> None:
    placement = {"first": LayerRange(0, 2), "second": LayerRange(2, 4)}
    nodes = {name: {"gpu": "toy", "launcher": "threads"} for name in placement}
    coordinator = new_coordinator(tiny_plan(placement, nodes=nodes, launchers={"threads": {"queue": "long"}}))
    try:
        await coordinator.start()
        await coordinator.wait_ready(120)
        another = {name: {"gpu": "toy", "launcher": "gone"} for name in placement}
        with pytest.raises(SpecError, match="the launcher gone of thread-launcher 1"):
            coordinator.begin_change(tiny_plan(placement, nodes=another, launchers={"threads": {"queue": "long"}}))
        with pytest.raises(DeploymentError, match="another launchers"):
            coordinator.begin_change(tiny_plan(placement, nodes=nodes))
        assert coordinator._state.change is None
        assert len(await answer(coordinator, tiny_request(1, max_tokens=5))) == 5
    finally:
        await coordinator.close()
    (made,) = sys.modules["thread_launcher"].MADE
    assert made == (2, "long", coordinator.token)
