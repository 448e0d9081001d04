"""The page at ``/``: a chat, and the plan as it runs.

Three kinds of files, served as they lie here: no build step, and nothing from elsewhere, which the headers also
forbid. The page holds no secret, so it needs no key; what it asks of the API does.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PAGE = "/"
FOLDER = "/page"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def is_page(path: str) -> bool:
    """Whether a path is of the page, which is for everybody."""
    return path == PAGE or path.startswith(f"{FOLDER}/")


def page_routes() -> list[Route]:
    """The page and the files that it loads."""
    return [_file(PAGE, "index.html"), *(_file(f"{FOLDER}/{name}", name) for name in _names())]


def _names() -> list[str]:
    kinds = tuple(f".{kind}" for kind in _TYPES)
    return sorted(file.name for file in files(__name__).iterdir() if file.name.endswith(kinds))


def _file(path: str, name: str) -> Route:
    content = files(__name__).joinpath(name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]

    async def answer(_request: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return Route(path, answer, methods=["GET"], include_in_schema=False)
