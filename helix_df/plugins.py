"""Things by name: built in and imported on demand, or of other packages by entry points; one error that names the
package to mend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from helix_df.errors import HelixError
from helix_df.suggestions import closest

Error = TypeVar("Error", bound=HelixError)
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Registry(Generic[Kind]):
    """Things of a kind by name.

    Args:
        what: the kind in a word.
        group: entry point group, of which each names what ``expected`` says.
        built_in: by name, where each lives (``package.module:attribute``). An entry point of such a name isn't loaded.
        expected: what an entry point has to name, in words.
        made: one of the kind, given what an entry point or a built-in names; whatever it raises says what is wrong.
        error: to be raised.
    """

    what: str
    group: str
    built_in: Mapping[str, str]
    expected: str
    made: Callable[[object], Kind]
    error: type[HelixError]

    def names(self) -> tuple[str, ...]:
        """All names that ``get`` knows: built-ins in their order, then the others by name."""
        return (*self.built_in, *sorted({entry.name for entry in entry_points(group=self.group)} - set(self.built_in)))

    def get(self, name: str, where: str | None = None) -> Kind:
        """The one of that name, which somebody gave at the path ``where``.

        Raises:
            error: for a name that nobody knows, one that two packages claim, or an entry point that isn't what it
                should be.
        """
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            return self.made(getattr(import_module(module), attribute))
        found = {entry.value: entry for entry in entry_points(group=self.group, name=name)}
        if not found:
            near = closest(name, self.names())
            raise self.error(
                f"no {self.what} is called {name!r}",
                where=where,
                found=name,
                expected=f"one of {', '.join(self.names())}",
                hint=None if near is None else f"did you mean {near!r}?",
            )
        if len(found) > 1:
            raise self.error(
                f"two packages offer a {self.what} called {name!r}",
                where=where,
                found=", ".join(f"{entry.value} of {_package(entry)}" for entry in found.values()),
                hint="uninstall one of them",
            )
        (entry,) = found.values()
        loaded = load_plugin(entry, self.what, self.expected, self.error)
        try:
            return self.made(loaded)
        except Exception as cause:  # whatever a package's own code does
            raise broken_plugin(entry, self.what, _words(cause), self.expected, self.error) from cause


def load_plugin(entry: EntryPoint, what: str, expected: str, error: type[Error]) -> object:
    """What an entry point names, whatever it is.

    Raises:
        error: when its package can't be imported or has no such thing.
    """
    try:
        return entry.load()
    except Exception as cause:  # whatever a package does when it is imported
        raise broken_plugin(entry, what, f"{type(cause).__name__}: {cause}", expected, error) from cause


def broken_plugin(entry: EntryPoint, what: str, found: str, expected: str, error: type[Error]) -> Error:
    """The error to raise for an entry point that isn't what it should be: ``expected``, for a ``what``."""
    return error(
        f"the {what} {entry.name} of {_package(entry)} can't be used",
        where=f"entry point {entry.group}: {entry.value}",
        found=found,
        expected=expected,
        hint="upgrade that package, or remove it",
    )


def instance_of(kind: type[Kind]) -> Callable[[object], Kind]:
    """For ``Registry.made``: what is named is one of the kind."""

    def made(named: object) -> Kind:
        if not isinstance(named, kind):
            raise TypeError(f"{type(named).__name__} is none")
        return named

    return made


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "another package"


def _words(cause: Exception) -> str:
    return str(cause) if type(cause) is TypeError else f"{type(cause).__name__}: {cause}"
