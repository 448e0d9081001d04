"""Ways to ask clusters by name: built-ins imported on demand, others through the entry points ``helix_df.discoverers``.

Owns the names. Imports none before somebody asks for it.
"""

from __future__ import annotations

from helix_df.discovery.kind import Discoverer
from helix_df.errors import SpecError
from helix_df.plugins import Registry, instance_of

BUILT_IN = {
    "ray": "helix_df.discovery.ray:RAY",
    "slurm": "helix_df.discovery.slurm:SLURM",
    "kubernetes": "helix_df.discovery.kubernetes:KUBERNETES",
}
"""Where each built-in lives."""

_REGISTRY = Registry(
    what="discoverer",
    group="helix_df.discoverers",
    built_in=BUILT_IN,
    expected="a helix_df.discovery.kind.Discoverer",
    made=instance_of(Discoverer),
    error=SpecError,
)


def discoverer_names() -> tuple[str, ...]:
    """All names that ``get_discoverer`` knows: built-ins in the order of the registry, then the others by name."""
    return _REGISTRY.names()


def get_discoverer(name: str) -> Discoverer:
    """The way to ask a cluster of that kind.

    Raises:
        SpecError: for a name nobody knows, one that two packages claim, or an entry point that can't be used.
    """
    return _REGISTRY.get(name)
