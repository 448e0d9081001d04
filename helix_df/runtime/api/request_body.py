"""What every body of a request has: fields that are checked, names that are taken though they change nothing, and names
that are refused unless they ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, PrivateAttr


class RequestBody(BaseModel):
    """A body of JSON.

    ``harmless`` parameters can't change an answer here, whatever they say; ``unsupported`` ones aren't supported, but
    for the values by which they ask for nothing. An error in a ``nested`` field names the part at fault.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    harmless: ClassVar[frozenset[str]] = frozenset()
    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    nested: ClassVar[frozenset[str]] = frozenset()

    _ignored: tuple[str, ...] = PrivateAttr(())

    @property
    def ignored(self) -> tuple[str, ...]:
        """What the client said and nothing was made of, by name."""
        return self._ignored

    def ignore(self, names: tuple[str, ...]) -> None:
        """Note what nothing is made of."""
        self._ignored += names

    def check(self) -> None:
        """Check what spans several fields.

        Raises:
            RequestError: with the field at fault.
        """
