"""What stands in for the hub on loopback: one model, in some revisions, and which bytes were asked for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_INFO = re.compile(r"/api/models/acme/small(?:/revision/(?P<revision>[^/?]+))?")
_FILE = re.compile(r"/acme/small/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class HubStandin:
    """``commits`` are folders by commit; ``main`` is the commit of the main branch. ``sent`` counts bytes of answers to
    GET by file, ``asked`` requests; after ``breaks_after`` bytes more of any file a connection ends, once."""

    commits: dict[str, Path]
    main: str
    url: str = ""
    sent: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    breaks_after: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def folder(self, revision: str | None) -> tuple[str, Path] | None:
        commit = self.main if revision in (None, "main") else str(revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


@contextmanager
def hub_standin(commits: dict[str, Path], main: str) -> Iterator[HubStandin]:
    """Serve until the block ends."""
    hub = HubStandin(commits, main)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.asked += 1
            path = self.path.partition("?")[0]
            info, file = _INFO.fullmatch(path), _FILE.fullmatch(path)
            found = hub.folder((info or file)["revision"]) if info or file else None
            if found is None:
                self._refuse("RevisionNotFound" if info or file else "RepoNotFound")
            elif info is not None:
                names = sorted(one.name for one in found[1].iterdir())
                document = {"id": "acme/small", "sha": found[0], "siblings": [{"rfilename": one} for one in names]}
                self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, with_body)
            else:
                assert file is not None
                self._send_file(found[0], found[1] / file["file"], with_body)

        def _refuse(self, code: str) -> None:
            self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": code}, True)

        def _send_file(self, commit: str, path: Path, with_body: bool) -> None:
            if not path.is_file():
                self._refuse("EntryNotFound")
                return
            data = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            if asked is None:
                self._send(200, data, headers, with_body, path.name)
                return
            start, stop = int(asked[1]), int(asked[2]) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self._send(206, data[start:stop], headers, with_body, path.name)

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool, name: str = "") -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if not with_body:
                return
            with hub.lock:
                if hub.breaks_after is not None and name:
                    cut, hub.breaks_after = body[: hub.breaks_after], hub.breaks_after - len(body)
                    if hub.breaks_after < 0:
                        body, hub.breaks_after, self.close_connection = cut, None, True
                hub.sent[name] += len(body)
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
