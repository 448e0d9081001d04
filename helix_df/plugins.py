"""What other packages bring by entry points: loaded, or one error that names the package to mend."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TypeVar

from helix_df.errors import HelixError

Error = TypeVar("Error", bound=HelixError)


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
        f"the {what} {entry.name} of another package can't be used",
        where=f"entry point {entry.group}: {entry.value}",
        found=found,
        expected=expected,
        hint="remove that package, or mend it",
    )
