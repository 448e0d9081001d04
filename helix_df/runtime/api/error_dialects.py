"""Errors in the words of the endpoint that was asked, and with the headers that go with them."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from helix_df.errors import HelixError
from helix_df.runtime.api.answers import Json, describe, error_body
from helix_df.runtime.api.keys import LimitReached
from helix_df.runtime.api.messages_answers import message_error
from helix_df.runtime.api.messages_endpoint import PATH as MESSAGES
from helix_df.runtime.api.overload import whole_seconds
from helix_df.runtime.api.request_ids import ID_NAME

log = logging.getLogger(__name__)


def refusal(request: Request, error: HelixError) -> Response:
    """The answer that says an error."""
    status, body = describe(error)
    if status >= 500 and status not in (503, 504):
        log.error("%s %s failed (%s)", request.method, request.url.path, request.scope.get(ID_NAME), exc_info=error)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = whole_seconds(error.retry_after_s) if isinstance(error, LimitReached) else "1"
    elif status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(_in_its_words(request, status, body), status_code=status, headers=headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """What there isn't, or isn't allowed."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"Unknown URL: {request.method} {request.url.path}",
        405: f"Not allowed: {request.method} on {request.url.path}",
    }.get(error.status_code, error.detail)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    body = _in_its_words(request, error.status_code, error_body(error.status_code, message, code=code))
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def on_disconnect(_request: Request, _error: Exception) -> Response:
    """A client that has left."""
    return _Nothing()


async def on_error(request: Request, _error: Exception) -> Response:
    """What nobody expected."""
    body = error_body(500, "The server had an error; its log says which.")
    return JSONResponse(_in_its_words(request, 500, body), status_code=500)


def _in_its_words(request: Request, status: int, body: Json) -> Json:
    path = request.url.path
    if path == MESSAGES or path.startswith(f"{MESSAGES}/"):
        return message_error(status, body["error"]["message"], request.scope.get(ID_NAME))
    return body


class _Nothing(Response):
    """No answer: nobody is there to read it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return
