"""What can go wrong, as types a caller can catch.

Owns the shape of every message a user sees on failure: where it is, what was found, what was expected and what
would work. Knows nothing of the domain; each layer raises these with its own words.
"""

from __future__ import annotations


class HelixError(Exception):
    """A failure explained to a person.

    Args:
        problem: one sentence that says what is wrong.
        where: a field path (``nodes.a100.gpu``), a ``file:line`` or both.
        found: the offending value as the user wrote it.
        expected: what would have been accepted.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        found: object | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.found = found
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.problem}" if self.where else self.problem]
        if self.found is not None:
            lines.append(f"  found:    {self.found}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.hint is not None:
            lines.append(f"  try:      {self.hint}")
        return "\n".join(lines)


class SpecError(HelixError):
    """The job file says something that can't be meant."""

    exit_code = 2


class SpecErrors(SpecError):
    """Several mistakes in one job file, reported together."""

    def __init__(self, errors: tuple[SpecError, ...]) -> None:
        super().__init__(f"{len(errors)} mistakes in the job")
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class Infeasible(HelixError):
    """No placement can serve the model on these nodes; says which requirement fails."""

    exit_code = 3


class PlanError(HelixError):
    """A plan file is unreadable, of another version, or doesn't fit its job."""

    exit_code = 4


class SolverError(HelixError):
    """A solver is unknown, misconfigured or broke its contract."""

    exit_code = 5


class ModelError(HelixError):
    """Weights, tokenizer or configuration of the model are missing or not understood."""

    exit_code = 6


class DeploymentError(HelixError):
    """Workers or the coordinator didn't start, or stopped."""

    exit_code = 7


class ProtocolError(HelixError):
    """A message that the receiver can't accept in its state."""

    exit_code = 8


class SimulationError(HelixError):
    """A trace can't be read, or a simulation was asked for that makes no sense."""

    exit_code = 9


class MissingExtra(HelixError):
    """What was asked for takes packages of an extra of helix-df that isn't installed here."""

    exit_code = 10


class FileError(HelixError):
    """A file or folder of helix-df's own can't be read or written: the disk is full, read-only, or not the user's."""

    exit_code = 11


class RequestError(HelixError):
    """A generation request that can't be served as asked (unknown model, prompt over the context, bad parameter).

    Args:
        param: the request field at fault, as the OpenAI error body names it.
        code: a stable machine-readable code.
        status: the HTTP status that says it best.
    """

    def __init__(
        self,
        problem: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        **details: str | None,
    ) -> None:
        super().__init__(problem, where=param, **details)
        self.param = param
        self.code = code
        self.status = status
