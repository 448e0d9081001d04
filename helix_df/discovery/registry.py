"""Ways to ask clusters by name: built-ins imported on demand, others through the entry points ``helix_df.discoverers``.

Owns the names. Imports none before somebody asks for it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from helix_df.discovery.kind import Discoverer
from helix_df.errors import SpecError
from helix_df.plugins import broken_plugin, load_plugin
from helix_df.suggestions import closest

GROUP = "helix_df.discoverers"
"""Entry point group: ``name = "package.module:DISCOVERER"``, a ``Discoverer``."""

BUILT_IN = {
    "ray": "helix_df.discovery.ray:RAY",
    "slurm": "helix_df.discovery.slurm:SLURM",
    "kubernetes": "helix_df.discovery.kubernetes:KUBERNETES",
}
"""Where each built-in lives. An entry point of the same name is never loaded."""

_EXPECTED = "a helix_df.discovery.kind.Discoverer"


def discoverer_names() -> tuple[str, ...]:
    """All names that ``get_discoverer`` knows: built-ins in the order of the registry, then the others by name."""
    return (*BUILT_IN, *sorted({entry.name for entry in entry_points(group=GROUP)} - set(BUILT_IN)))


def get_discoverer(name: str) -> Discoverer:
    """The way to ask a cluster of that kind.

    Raises:
        SpecError: for a name nobody knows, one that two distributions claim, or an entry point that doesn't load.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        built_in: Discoverer = getattr(import_module(module), attribute)
        return built_in
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if not found:
        near = closest(name, discoverer_names())
        raise SpecError(
            "nothing is known of clusters of this kind",
            found=name,
            expected=f"one of {', '.join(discoverer_names())}",
            hint=None if near is None else f"did you mean {near!r}?",
        )
    if len(found) > 1:
        raise SpecError("two packages offer a discoverer of this name", found=", ".join(found), hint="uninstall one")
    (entry,) = found.values()
    loaded = load_plugin(entry, "discoverer", _EXPECTED, SpecError)
    if not isinstance(loaded, Discoverer):
        raise broken_plugin(entry, "discoverer", type(loaded).__name__, _EXPECTED, SpecError)
    return loaded
