"""The hosts of a Slurm cluster, as ``sinfo`` lists them: devices by their generic resources, labels by features."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from helix_df.discovery.kind import Discoverer, FoundHost
from helix_df.errors import DeploymentError

FORMAT = "%N|%P|%t|%G|%f"
"""Node, partition, state, generic resources and features; a line for each partition of a node."""

ASK_S = 60.0
USABLE = frozenset({"alloc", "comp", "idle", "mix", "plnd"})
"""States of hosts that serve, now or once whoever is there has gone."""

_GPUS = re.compile(r"(?:^|,)gpu(?::([^:,()]+))?:(\d+)")
_NONE = "(null)"


def find(address: str | None) -> tuple[FoundHost, ...]:
    """The hosts of this host's cluster, or of the one called ``address``.

    Raises:
        DeploymentError: without Slurm's commands, and when Slurm doesn't answer.
    """
    command = shutil.which("sinfo")
    if command is None:
        raise DeploymentError(
            "Slurm's commands aren't here", expected="sinfo on the PATH", hint="run this where jobs are submitted"
        )
    arguments = [command, "--noheader", "--Node", f"--format={FORMAT}", *([f"--clusters={address}"] if address else [])]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=ASK_S, check=False)
    except subprocess.TimeoutExpired:
        raise DeploymentError(f"Slurm hasn't answered for {ASK_S:.0f} s", where="sinfo") from None
    if done.returncode != 0:
        raise DeploymentError("Slurm refuses", where="sinfo", found=done.stderr.strip())
    return hosts_of(done.stdout)


def hosts_of(listed: str) -> tuple[FoundHost, ...]:
    """The hosts of a listing in ``FORMAT``."""
    rows = [_row(line) for line in listed.splitlines() if line.count("|") == FORMAT.count("|")]
    names = dict.fromkeys(row.host for row in rows)
    return tuple(_host(name, [row for row in rows if row.host == name]) for name in names)


@dataclass(frozen=True, slots=True)
class _SinfoRow:
    host: str
    partition: str
    is_default: bool
    state: str
    gres: str
    features: tuple[str, ...]


def _row(line: str) -> _SinfoRow:
    host, partition, state, gres, features = (word.strip() for word in line.split("|"))
    named = () if features == _NONE else tuple(features.split(","))
    return _SinfoRow(host, partition.removesuffix("*"), partition.endswith("*"), state, gres, named)


def _host(name: str, rows: list[_SinfoRow]) -> FoundHost:
    first = rows[0]
    gpus = _GPUS.findall(re.sub(r"\([^)]*\)", "", first.gres))
    kinds = dict.fromkeys(kind for kind, _ in gpus)
    device = next(iter(kinds)) if len(kinds) == 1 else None
    labels = dict.fromkeys(first.features, "")
    # Where jobs go anyway needs no word.
    if not any(row.is_default for row in rows):
        labels["partition"] = ",".join(sorted(row.partition for row in rows))
    return FoundHost(
        name,
        device=device or None,
        devices=sum(int(count) for _, count in gpus),
        labels=labels,
        why_not=None if first.state in USABLE else f"Slurm says that it is {first.state}",
    )


def place(host: FoundHost, label: str | None) -> list[str]:
    """Arguments of ``sbatch`` that ask for such a host."""
    said = [f"--constraint={label}"] if label is not None and host.labels.get(label) == "" else []
    if "partition" in host.labels:
        said.append(f"--partition={host.labels['partition']}")
    if host.devices:
        said.append(f"--gpus-per-node={f'{host.device}:' if host.device else ''}{host.devices}")
    return said


SLURM = Discoverer(find=find, place=place, launcher="slurm")
