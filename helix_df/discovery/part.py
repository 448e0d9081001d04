"""Hosts that were found, as a part of a job: ``nodes`` in groups that are alike, and where launchers put each.

Owns which hosts are nodes and of which GPU type, and the text of the part. The same hosts give the same text, in
whatever order they were found. Doesn't ask anybody.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from helix_df.discovery.kind import Discoverer, FoundHost
from helix_df.errors import SpecError
from helix_df.profiles.catalogue import device_count, devices, find_device, labelled_as
from helix_df.runtime.jobs.launchers.registry import launcher_names
from helix_df.spec.nodes import names_of
from helix_df.spec.section import NAME
from helix_df.suggestions import alike

NAMES_SHOWN = 6
LONGEST_KEY = 52
"""Letters of an entry's name, which leave room for a number in the names of its nodes."""


@dataclass(frozen=True, slots=True)
class JobPart:
    """A part of a job as YAML, and which hosts aren't in it, each with the reason."""

    text: str
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Hosts that are alike; ``place`` is what the launcher's options say of them, as JSON."""

    gpu: str
    region: str | None
    place: str


def part_of(name: str, discoverer: Discoverer, hosts: Iterable[FoundHost], types: Mapping[str, str]) -> JobPart:
    """The part of a job that hosts make.

    Args:
        name: of the discoverer.
        discoverer: which found them.
        hosts: what was found.
        types: GPU types by labels, by what the cluster calls a device, or by host, for what clusters don't say; a label
            is ``KEY=VALUE``, or its key if it has no value.

    Raises:
        SpecError: when no host can be a node, and for a label that no host has.
    """
    kinds: dict[_Kind, list[FoundHost]] = {}
    left_out: list[tuple[str, str]] = []
    unused = set(types)
    for host in sorted(hosts, key=lambda host: _natural(host.name)):
        label = next((label for label in types if _has(host, label)), None)
        unused.discard(str(label))
        gpu = _gpu(host, None if label is None else types[label])
        why_not = host.why_not or (_untyped(host) if gpu is None else None)
        if gpu is None or why_not is not None:
            left_out.append((host.name, str(why_not)))
            continue
        place = json.dumps(discoverer.place(host, label), sort_keys=True)
        kinds.setdefault(_Kind(gpu, host.region, place), []).append(host)
    if unused:
        raise SpecError("no host has this label", where="--type", found=", ".join(sorted(unused)))
    if not kinds:
        raise SpecError(
            f"{name} has no host that could be a node",
            found="; ".join(f"{host}: {reason}" for host, reason in left_out[:NAMES_SHOWN]) or "no hosts at all",
        )
    if not discoverer.by_node:
        kinds = _one_place(kinds, left_out)
    entries = _entries(kinds)
    text = "\n".join([*_head(name, kinds), *_nodes(discoverer, entries), *_launchers(discoverer, entries)])
    return JobPart(text + "\n", tuple(left_out))


def _has(host: FoundHost, label: str) -> bool:
    key, equals, value = label.partition("=")
    return label in (host.name, host.device) or host.labels.get(key) == (value if equals else "")


def _gpu(host: FoundHost, told: str | None) -> str | None:
    """The GPU type of a host's node: all of its devices together; ``None`` if nobody says."""
    single = told or (None if host.device is None or not host.devices else labelled_as(host.device))
    if single is None:
        return None
    return f"{host.devices}x{single}" if host.devices > 1 else single


def _untyped(host: FoundHost) -> str:
    if not host.devices:
        return "it has no accelerator that the cluster knows of"
    return f"nobody says of which type its {host.devices} accelerators are; --type LABEL=GPU does"


def _one_place(kinds: Mapping[_Kind, list[FoundHost]], left_out: list[tuple[str, str]]) -> dict[_Kind, list[FoundHost]]:
    """The kinds for a launcher that knows one place for each GPU type: of several the one with the most hosts.

    A region is said only where all hosts of a type are in it.
    """
    regions: dict[str, set[str | None]] = {}
    merged: dict[_Kind, list[FoundHost]] = {}
    for kind, hosts in kinds.items():
        regions.setdefault(kind.gpu, set()).add(kind.region)
        merged.setdefault(_Kind(kind.gpu, None, kind.place), []).extend(hosts)
    most = {kind.gpu: kind for kind, hosts in sorted(merged.items(), key=lambda item: len(item[1]))}
    found = {}
    for kind, hosts in merged.items():
        if most[kind.gpu] == kind:
            (region,) = regions[kind.gpu] if len(regions[kind.gpu]) == 1 else (None,)
            found[_Kind(kind.gpu, region, kind.place)] = sorted(hosts, key=lambda host: _natural(host.name))
        else:
            reason = f"other hosts of {kind.gpu} are told apart in another way, {most[kind.gpu].place}"
            left_out.extend((host.name, reason) for host in hosts)
    return found


def _entries(kinds: Mapping[_Kind, list[FoundHost]]) -> dict[str, tuple[_Kind, list[FoundHost]]]:
    """The kinds by the names of their entries, in order."""
    entries: dict[str, tuple[_Kind, list[FoundHost]]] = {}
    for kind, hosts in sorted(kinds.items(), key=lambda item: (item[0].gpu, item[0].region or "", item[0].place)):
        words = re.sub(r"[^a-z0-9._-]+", "-", "-".join(filter(None, (kind.gpu, kind.region))).lower())
        stem = words.strip("._-")[:LONGEST_KEY] or "node"
        number = next(n for n in range(1, len(kinds) + 1) if (stem if n == 1 else f"{stem}.{n}") not in entries)
        entries[stem if number == 1 else f"{stem}.{number}"] = (kind, hosts)
    return entries


def _head(name: str, kinds: Mapping[_Kind, list[FoundHost]]) -> list[str]:
    count = sum(map(len, kinds.values()))
    return [
        f"# {count} host{'s' if count > 1 else ''} that `helix-df discover {name}` found. A job takes them in by"
        " `include:`, and may say more of each there."
    ]


def _nodes(discoverer: Discoverer, entries: Mapping[str, tuple[_Kind, list[FoundHost]]]) -> list[str]:
    lines = ["nodes:"]
    for key, (kind, hosts) in entries.items():
        node: dict[str, Any] = {"gpu": kind.gpu}
        if kind.region is not None:
            node["region"] = kind.region
        if len(hosts) > 1:
            node["count"] = len(hosts)
        if _has_launcher(discoverer):
            node["launcher"] = discoverer.launcher
        node["address"] = "auto"
        lines.append(f"  # {_named(hosts)}{_labels(hosts)}")
        lines += _doubt(kind.gpu)
        lines.append(f"  {key}: {_flow(node)}")
    return lines


def _has_launcher(discoverer: Discoverer) -> bool:
    return discoverer.launcher in launcher_names()


def _doubt(gpu: str) -> list[str]:
    """What to do about a GPU type that the catalogue doesn't know."""
    if find_device(gpu) is not None:
        return []
    single = gpu.partition("x")[2] if device_count(gpu) > 1 else gpu
    near = "|".join(alike(single, devices(), 3))
    return [
        _one_line(f"  # the catalogue has no {single}: declare it under gpus, or find it by --type {single}={near}")
    ]


def _launchers(discoverer: Discoverer, entries: Mapping[str, tuple[_Kind, list[FoundHost]]]) -> list[str]:
    """By GPU types where one place is that of all its nodes, else by nodes."""
    if not _has_launcher(discoverer):
        return []
    places: dict[str, set[str]] = {}
    for kind, _ in entries.values():
        places.setdefault(kind.gpu, set()).add(kind.place)
    said: dict[str, Any] = {}
    for key, (kind, hosts) in entries.items():
        names = (
            [kind.gpu] if len(places[kind.gpu]) == 1 else names_of(key, len(hosts) if len(hosts) > 1 else None, None)
        )
        said |= dict.fromkeys(names, json.loads(kind.place))
    lines = [f"      {_flow(name)}: {_flow(place)}" for name, place in said.items() if place]
    return ["launchers:", f"  {discoverer.launcher}:", "    place:", *lines] if lines else []


def _flow(value: object) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 30, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _named(hosts: Sequence[FoundHost]) -> str:
    names = ", ".join(host.name for host in hosts[:NAMES_SHOWN])
    return _one_line(names if len(hosts) <= NAMES_SHOWN else f"{names} and {len(hosts) - NAMES_SHOWN} more")


def _labels(hosts: Sequence[FoundHost]) -> str:
    """The labels that all of some hosts have."""
    counted = Counter(f"{key}={value}" if value else key for host in hosts for key, value in host.labels.items())
    common = [label for label, count in sorted(counted.items()) if count == len(hosts)]
    return _one_line(f": {', '.join(common)}") if common else ""


def _one_line(text: str) -> str:
    """What a cluster says, as a comment can have it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _natural(name: str) -> list[tuple[int, str]]:
    """An order in which ``a2`` is before ``a10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def region_name(text: str | None) -> str | None:
    """What a cluster calls a region, if that can be a region's name."""
    return text if text is not None and NAME.fullmatch(text) is not None else None
