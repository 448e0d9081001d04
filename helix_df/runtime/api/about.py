"""What a server says of itself: the model with its limits, the version, whether it is there at all."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helix_df.release import release
from helix_df.runtime.api.answers import Json
from helix_df.runtime.api.bodies import MAX_CHOICES
from helix_df.runtime.api.flow import AnswerFlow
from helix_df.runtime.api.shaping import MAX_STOPS
from helix_df.runtime.sampling import MAX_LOGPROBS


class About:
    """The endpoints.

    Args:
        flow: of the job.
        created: when the model went up, in Unix seconds.
        max_body_bytes: of the largest body that is read.
        max_queue: requests that may wait; any number if None.
    """

    def __init__(self, flow: AnswerFlow, created: int, max_body_bytes: int, max_queue: int | None) -> None:
        self._flow = flow
        self._created = created
        self._max_body_bytes = max_body_bytes
        self._max_queue = max_queue

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{model:path}", self._model, methods=["GET"]),
            Route("/version", self._version, methods=["GET"]),
            Route("/ping", self._ping, methods=["GET", "POST"]),
        ]

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._body()]})

    async def _model(self, request: Request) -> Response:
        self._flow.require_model(request.path_params["model"])
        return JSONResponse(self._body())

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": release()})

    async def _ping(self, request: Request) -> Response:
        return JSONResponse({})

    def _body(self) -> Json:
        return {
            "id": self._flow.text.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "helix-df",
            "max_model_len": self._flow.text.context,
            "limits": {
                "choices": MAX_CHOICES,
                "logprobs": MAX_LOGPROBS,
                "stops": MAX_STOPS,
                "body_bytes": self._max_body_bytes,
                "queue": self._max_queue,
            },
        }
