"""Changes as people write them: ``L4:2@eu``, ``eu-us=1Gbps,50ms``; and sweeps: ``rate=1,2,4``.

Owns the notation. What a change means is ``changes``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from helix_df.errors import SpecError
from helix_df.spec.job import COORDINATOR, Job
from helix_df.spec.mistakes import Refusal
from helix_df.spec.units import parse_bandwidth, parse_duration
from helix_df.what_if.changes import AddNodes, Change, RemoveNode, SetLink, regions_of

NODES = "GPU, GPU:COUNT or GPU:COUNT@REGION, such as L4:2@eu"
LINK = "A-B=BANDWIDTH or A-B=BANDWIDTH,LATENCY, such as eu-us=1Gbps,50ms, or A->B=… one way"
SWEEP = "rate=1,2,4; seed=…, scheduler=…, in-flight=…, add-node.L4@eu=1,2, or link.eu-us=100Mbps,1Gbps"
SETTINGS = ("rate", "seed", "scheduler", "in-flight")
"""What a sweep may change beside the job itself."""
MAX_NODES = 1_000
MAX_VALUES = 100


def read_added(text: str) -> AddNodes:
    """``L4``, ``L4:2``, ``L4:2@eu`` or ``L4@eu``.

    Raises:
        SpecError: when it is none of these.
    """
    kind, at, region = text.partition("@")
    gpu, colon, count = kind.partition(":")
    wrong = not gpu or (at and not region) or (colon and not (count.isascii() and count.isdigit()))
    if wrong or not 1 <= int(count or 1) <= MAX_NODES:
        raise SpecError(
            f"these nodes can't be read; 1 to {MAX_NODES:,} can be added",
            where="--add-node",
            found=repr(text),
            expected=NODES,
        )
    return AddNodes(gpu, int(count or 1), region or None)


def read_link(text: str, job: Job) -> SetLink:
    """``eu-us=1Gbps`` or ``eu-us=1Gbps,50ms`` between two regions of the job, or two nodes; ``eu->us`` one way only.

    Names may hold dashes themselves: the dash that parts them is the one with a known name on both sides. A colon does
    the same without any doubt.

    Raises:
        SpecError: when it can't be read, or when no dash or more than one parts two known names.
    """
    ends, equals, quality = text.partition("=")
    bandwidth, comma, latency = quality.partition(",")
    if not equals or not ends or (comma and not latency):
        raise SpecError("this link can't be read", where="--link", found=repr(text), expected=LINK)
    try:
        bytes_per_s = parse_bandwidth(bandwidth)
        latency_s = parse_duration(latency) if comma else None
    except Refusal as error:
        raise SpecError(error.problem, where="--link", found=repr(text), expected=error.expected) from None
    tail, arrow, head = ends.partition("->")
    between = (tail, head) if arrow else _parted(ends, job)
    return SetLink(between, bytes_per_s, latency_s, one_way=bool(arrow))


def _parted(ends: str, job: Job) -> tuple[str, str]:
    if ":" in ends:
        a, _, b = ends.partition(":")
        return a, b
    parts = ends.split("-")
    ways = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    known = {*job.nodes, COORDINATOR, *regions_of(job)}
    good = [way for way in ways if known.issuperset(way)]
    if len(good) == 1 or (not good and len(ways) == 1):
        return (good or ways)[0]
    if not good:
        shown = [*regions_of(job), *job.nodes]
        raise SpecError(
            "these are no two regions or nodes",
            where="--link",
            found=repr(ends),
            expected="A-B of " + " | ".join(shown[:20]) + (" | …" if len(shown) > 20 else ""),
        )
    raise SpecError(
        "it isn't clear which dash parts the two names",
        where="--link",
        found=repr(ends),
        expected=" or ".join(":".join(way) for way in good),
    )


@dataclass(frozen=True, slots=True)
class SweepStep:
    """One value of a sweep: what it is called, the setting it has, or the change of the job it is."""

    name: str
    setting: tuple[str, str] | None = None
    change: Change | None = None


def read_sweep(text: str, job: Job) -> tuple[SweepStep, ...]:
    """The steps of ``rate=1,2,4`` and its like; values of settings are still text.

    Raises:
        SpecError: for a subject that nobody knows, without a value, and as ``read_added`` and ``read_link``.
    """
    subject, _, values = text.partition("=")
    parts = [value.strip() for value in values.split(",")]
    if not all(parts) or len(set(parts)) < len(parts) or len(parts) > MAX_VALUES:
        raise SpecError(
            f"a sweep needs up to {MAX_VALUES} different values", where="--sweep", found=repr(text), expected=SWEEP
        )
    if subject in SETTINGS:
        return tuple(SweepStep(f"{subject} {value}", setting=(subject, value)) for value in parts)
    read = _reader(subject, job)
    if read is None:
        raise SpecError("this can't be swept", where="--sweep", found=repr(subject), expected=SWEEP)
    changes = [read(value) for value in parts]
    return tuple(SweepStep(str(change), change=change) for change in changes)


def _reader(subject: str, job: Job) -> Callable[[str], Change] | None:
    kind, _, rest = subject.partition(".")
    if kind == "link" and rest:
        return lambda value: read_link(f"{rest}={value}", job)
    if kind == "add-node" and rest:
        gpu, at, region = rest.partition("@")
        return lambda count: read_added(f"{gpu}:{count}{at}{region}")
    return None


def read_changes(added: Collection[str], removed: Collection[str], links: Collection[str], job: Job) -> list[Change]:
    """All changes of a command line: nodes that come, then nodes that go, then links.

    Raises:
        SpecError: as ``read_added`` and ``read_link``.
    """
    return [*map(read_added, added), *map(RemoveNode, removed), *(read_link(text, job) for text in links)]
