"""The parent's side of a MIP solve in a child process.

Owns what is asked and answered, and the folder that both use. Doesn't know placements or what the backends are called
in OR-Tools (``mip_worker`` does).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from helix_df.errors import SolverError
from helix_df.solvers.child import Child, ChildEnded


@dataclass(frozen=True, slots=True)
class MipRequest:
    """What to solve: ``model``, a serialized MathOpt ``ModelProto``, and how.

    ``decisions`` names the variables whose values are sent back; ``scratch`` is a folder for the child's files.
    """

    model: bytes
    backend: str
    time_limit_s: float
    seed: int
    threads: int
    gap: float
    decisions: Sequence[str]
    hint: Mapping[str, float]
    scratch: str = ""


@dataclass(frozen=True, slots=True)
class MipMessage:
    """An answer: a better solution (its values above 0), at the end a bound and a status, or what went wrong."""

    values: Mapping[str, float] | None = None
    bound: float | None = None
    status: str | None = None
    error: str | None = None


class MipChild:
    """A running solve; ``next`` waits for its answers."""

    def __init__(self, child: Child, backend: str) -> None:
        self.child, self.backend = child, backend

    def next(self, timeout_s: float) -> MipMessage | None:
        """The next answer, or ``None`` when none came in time.

        Raises:
            SolverError: when the backend failed or the child ended without a result.
        """
        try:
            message = self.child.next(MipMessage, timeout_s)
        except ChildEnded as error:
            raise self._failure(str(error)) from None
        if message is not None and message.error is not None:
            raise self._failure(message.error)
        return message

    def _failure(self, found: str) -> SolverError:
        return SolverError(
            f"the backend {self.backend} failed", where="solver.backend", found=found, hint="try another backend"
        )


@contextmanager
def run_mip(request: MipRequest) -> Iterator[MipChild]:
    """A child that solves; it is gone when the block is left."""
    with tempfile.TemporaryDirectory(prefix="helix-df-mip-") as scratch:
        child = Child("helix_df.solvers.mip_worker")
        child.tell(replace(request, scratch=scratch))
        try:
            yield MipChild(child, request.backend)
        finally:
            child.close()
