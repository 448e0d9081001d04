"""Drafters by name: built-ins imported on demand, others through the entry point group ``helix_df.drafters``.

Owns the names, and the check of what a job says to its drafter.
"""

from __future__ import annotations

from helix_df.errors import SpecError
from helix_df.plugins import Registry, instance_of
from helix_df.runtime.coordinator.drafters.kind import DrafterKind
from helix_df.spec.plugin_options import read_options
from helix_df.spec.section import Section
from helix_df.spec.speculation import Speculation

BUILT_IN = {"lookup": "helix_df.runtime.coordinator.drafters.lookup:LOOKUP"}
"""Where each built-in lives."""

_REGISTRY = Registry(
    what="drafter",
    group="helix_df.drafters",
    built_in=BUILT_IN,
    expected="a helix_df.runtime.coordinator.drafters.kind.DrafterKind",
    made=instance_of(DrafterKind),
    error=SpecError,
)


def drafter_names() -> tuple[str, ...]:
    """All names that ``get_drafter`` knows: built-ins in the order of the registry, then the others by name."""
    return _REGISTRY.names()


def get_drafter(name: str) -> DrafterKind:
    """The drafter of that name.

    Raises:
        SpecError: for a name nobody knows, one that two packages claim, or an entry point that can't be used.
    """
    return _REGISTRY.get(name, "runtime.speculation.drafter")


def options_of(said: Speculation, kind: DrafterKind) -> Section:
    """What a job says to its drafter.

    Raises:
        SpecError: for a mistake in it, or several.
    """
    return read_options(said.options, kind.options, ("runtime", "speculation", "options"))


def check_speculation(said: Speculation | None) -> None:
    """Check that there is the drafter that a job names, and that it takes its options.

    Raises:
        SpecError: as ``get_drafter`` and ``options_of``.
    """
    if said is not None:
        options_of(said, get_drafter(said.drafter))
