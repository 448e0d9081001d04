"""The accelerators of this machine, as its driver names them: what ``gpu: auto`` stands for.

Owns who is asked and how answers are read. Which row of the catalogue a name means is ``catalogue``'s to say. Asks
programs that drivers and systems bring, and imports no jax: a plan needs none.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from helix_df.errors import ModelError
from helix_df.profiles.catalogue import rows_printed_as

TIMEOUT_S = 30.0
"""Within which a driver answers; the first question after a start can take several seconds."""

MIB = 2**20
_MEASURE = "declare the type under gpus, with what `helix-df profile JOB` measures on the device"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device as its driver tells of it: its name and its memory in bytes."""

    name: str
    memory_bytes: float

    def __str__(self) -> str:
        return f"{self.name} with {self.memory_bytes / 1e9:.0f} GB"


def accelerators() -> tuple[Accelerator, ...]:
    """Those of this machine in the order of their driver; none where no driver that is known answers."""
    return tuple(_nvidia()) or tuple(_apple())


def type_of(found: tuple[Accelerator, ...], share: int) -> str:
    """The catalogue's name of an equal share of a machine's devices, ``2xL4`` say.

    Args:
        found: the devices.
        share: among how many nodes they are divided.

    Raises:
        ModelError: when there are none, they differ, the catalogue doesn't know them, or they can't be divided so.
    """
    if not found:
        raise ModelError(
            "no accelerator answers on this machine", found="no nvidia-smi, and no Apple chip", hint=_MEASURE
        )
    if len({device.name for device in found}) > 1:
        raise ModelError(
            "the devices of this machine differ",
            found=", ".join(map(str, found)),
            expected="a node for each, with its type by name",
        )
    if len(found) % share:
        raise ModelError(
            f"{share} nodes of this machine can't share its devices evenly",
            found=f"{len(found)} devices",
            expected="as many devices for each node",
        )
    rows = rows_printed_as(found[0].name)
    if not rows:
        raise ModelError("the catalogue doesn't know this machine's device", found=str(found[0]), hint=_MEASURE)
    nearest = min(rows, key=lambda row: abs(row.memory_bytes - found[0].memory_bytes))
    count = len(found) // share
    return nearest.name if count == 1 else f"{count}x{nearest.name}"


def _nvidia() -> Iterator[Accelerator]:
    for line in _said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"):
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdecimal():
            yield Accelerator(name.strip(), int(mebibytes) * MIB)


def _apple() -> Iterator[Accelerator]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return
    told = _said("sysctl", "-n", "machdep.cpu.brand_string", "hw.memsize")
    if len(told) == 2 and told[1].isdecimal():
        yield Accelerator(told[0], int(told[1]))


def _said(*command: str) -> list[str]:
    """The lines that a program prints, none if it isn't there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return done.stdout.splitlines()
