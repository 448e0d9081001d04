"""What whoever holds a job's secret may have done to it over HTTP: let another plan take over, drain a node, wind down.

Owns these routes and their proof. Doesn't know how it is done.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helix_df.errors import DeploymentError, HelixError, PlanError, RequestError, SpecError
from helix_df.plan.plan import Plan, from_document
from helix_df.runtime.access import CONTROL, SECRET_HEADER
from helix_df.runtime.api.stream import read_json_body

MOST_PLAN_BYTES = 64 * 2**20
LONGEST_GRACE_S = 86_400.0


class Control(Protocol):
    """A job that can be told something."""

    secret: str

    def begin_change(self, plan: Plan) -> None:
        """Let another plan take over as soon as its workers are up.

        Raises:
            DeploymentError: when it can't.
        """
        ...

    def drain(self, node: str, *, undo: bool = False) -> None:
        """Send no new requests to a node, or do again.

        Raises:
            DeploymentError: when that can't be.
        """
        ...

    def wind_down(self, grace_s: float) -> None:
        """Take no new requests, and end once those that there are have ended, or after ``grace_s`` seconds."""
        ...


class ControlBody(BaseModel):
    """What a job can be told."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


AnyAsked = TypeVar("AnyAsked", bound=ControlBody)


class ChangeBody(ControlBody):
    """``POST /helix/control/plan``: another plan is to take over."""

    plan: dict[str, Any] = Field(description="a plan, as its file has it")


class DrainBody(ControlBody):
    """``POST /helix/control/drain``: a node is to get no new requests, or some again."""

    node: str = Field(description="the name of a node", max_length=512)
    undo: bool = Field(False, description="true to send it requests again")


class StopBody(ControlBody):
    """``POST /helix/control/stop``: no new requests, and the end once those that there are have ended."""

    grace_s: float = Field(ge=0, le=LONGEST_GRACE_S, description="seconds that they have")


def control_routes(control: Control) -> list[Route]:
    """The routes of a job's control; without the job's secret each is a 403."""
    doors = _Doors(control)
    return [
        Route(f"{CONTROL}/plan", doors.plan, methods=["POST"]),
        Route(f"{CONTROL}/drain", doors.drain, methods=["POST"]),
        Route(f"{CONTROL}/stop", doors.stop, methods=["POST"]),
    ]


class _Doors:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def plan(self, request: Request) -> Response:
        body = await self._read(ChangeBody, request)
        try:
            self._control.begin_change(await asyncio.to_thread(from_document, body.plan))
        except (DeploymentError, PlanError, SpecError) as error:
            raise _refusal(error) from error
        return _done()

    async def drain(self, request: Request) -> Response:
        body = await self._read(DrainBody, request)
        try:
            self._control.drain(body.node, undo=body.undo)
        except DeploymentError as error:
            raise _refusal(error) from error
        return _done()

    async def stop(self, request: Request) -> Response:
        body = await self._read(StopBody, request)
        self._control.wind_down(body.grace_s)
        return _done()

    async def _read(self, kind: type[AnyAsked], request: Request) -> AnyAsked:
        """What is asked, by somebody who knows the job's secret; of others nothing is read.

        Raises:
            RequestError: 403 for all others, and as ``read_json_body``.
        """
        said = request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(said.encode("utf-8", "replace"), self._control.secret.encode()):
            raise RequestError(
                "Only who holds the job's secret may do this.", code="forbidden", status=403, expected=SECRET_HEADER
            )
        raw = await read_json_body(request, MOST_PLAN_BYTES)
        try:
            return await asyncio.to_thread(kind.model_validate_json, raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise RequestError(f"Invalid value for '{where}': {first['msg']}.", param=where) from None


def _done() -> Response:
    return JSONResponse({"done": True}, status_code=202)


def _refusal(error: HelixError) -> RequestError:
    return RequestError(
        error.problem,
        code="refused",
        status=409,
        found=None if error.found is None else str(error.found),
        expected=error.expected,
        hint=error.hint,
    )
