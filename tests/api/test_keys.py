"""API keys: who has one comes in, as far as its limits go; what is kept of one is a hash."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from helix_df.errors import DeploymentError, RequestError
from helix_df.plan.plan import Plan
from helix_df.runtime.access import SECRET_HEADER, Access, operator_key
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.keys import KeyRing, LimitReached, add_key, read_keys, remove_key
from tests.api.fakes import FakeService, text_service

BODY = {"model": "tiny", "prompt": "p"}
SECRET = "a" * 32


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.json"


Ask = Callable[..., asyncio.Future[httpx.Response]]


@asynccontextmanager
async def asking(ring: KeyRing, service: FakeService) -> AsyncIterator[Ask]:
    """What asks the API with a key, by GET, or by POST of ``BODY``."""
    app = create_app(text_service(service), keys=ring)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        def ask(key: str | None, path: str = "/v1/completions") -> asyncio.Future[httpx.Response]:
            headers: list[tuple[bytes, bytes]] = [] if key is None else [(b"Authorization", f"Bearer {key}".encode())]
            if path == "/v1/completions":
                return asyncio.ensure_future(http.post(path, json=BODY, headers=headers))
            return asyncio.ensure_future(http.get(path, headers=headers))

        yield ask


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/helix/status", "/metrics", "/openapi.json", "/x"])
@pytest.mark.parametrize("wrong", [None, "", "hdf-nobody", "é", "x" * 5000])
async def test_without_a_key_nothing_is_answered(file: Path, service: FakeService, path: str, wrong: str | None):
    add_key(file, "anna")
    async with asking(KeyRing(file, SECRET), service) as ask:
        answer = await ask(wrong, path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not service.requests


async def test_a_key_and_the_jobs_own_tools_come_in_and_health_is_for_all(file: Path, service: FakeService):
    key = add_key(file, "anna")
    async with asking(KeyRing(file, SECRET), service) as ask:
        for right in (key, operator_key(SECRET)):
            assert (await ask(right)).status_code == 200
            assert (await ask(right, "/helix/status")).status_code == 200
        assert (await ask(None, "/health")).status_code == 200
        assert (await ask(operator_key("b" * 32))).status_code == 401
        document = (await ask(key, "/openapi.json")).json()
    assert document["security"] == [{"key": []}]
    assert "401" in document["paths"]["/v1/completions"]["post"]["responses"]


async def test_the_official_client_says_it_is_an_authentication_error(file: Path, service: FakeService):
    add_key(file, "anna")
    transport = httpx.ASGITransport(app=create_app(text_service(service), keys=KeyRing(file, SECRET)))
    speaker: Any = httpx.AsyncClient(transport=transport)
    async with openai.AsyncOpenAI(api_key="sk-x", base_url="http://t/v1", http_client=speaker, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            await client.completions.create(model="tiny", prompt="p")


async def test_a_key_has_so_many_requests_in_flight_until_they_are_over(file: Path, service: FakeService):
    key, other = add_key(file, "anna", max_in_flight=2), add_key(file, "bert")
    service.pause_after = 1
    async with asking(KeyRing(file, SECRET), service) as ask:
        running = [ask(key), ask(key)]
        while service.open < 2:
            await asyncio.sleep(0)
        refused = await ask(key)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "key_in_flight_full"
        assert "anna" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        assert (await ask(key, "/helix/status")).status_code == 200
        third = ask(other)
        service.go_on.set()
        assert [(await one).status_code for one in (*running, third)] == [200] * 3
        assert (await ask(key)).status_code == 200


def test_a_key_has_so_many_requests_a_minute(file: Path, clock: Clock):
    key = add_key(file, "anna", requests_per_minute=6)
    ring = KeyRing(file, SECRET, clock)
    anna = ring.find(f"Bearer {key}")

    def served() -> bool:
        try:
            with ring.counted(anna):
                return True
        except LimitReached as error:
            return not (error.code == "key_rate_full" and 0 < error.retry_after_s <= 10)

    assert [served() for _ in range(8)] == [True] * 6 + [False] * 2
    clock.now += 10
    assert [served() for _ in range(2)] == [True, False]
    clock.now += 1e6
    assert [served() for _ in range(7)] == [True] * 6 + [False]


def test_a_key_that_is_revoked_is_nobodys_within_a_second(file: Path, clock: Clock):
    anna, bert = add_key(file, "anna"), add_key(file, "bert")
    ring = KeyRing(file, SECRET, clock)
    assert ring.find(f"bearer {anna}").name == "anna"
    remove_key(file, "anna")
    clock.now += 1
    with pytest.raises(RequestError, match="Incorrect"):
        ring.find(f"Bearer {anna}")
    assert ring.find(f"Bearer {bert}").name == "bert"
    file.write_text("{")
    clock.now += 1
    assert ring.find(f"Bearer {bert}").name == "bert", "what was read last holds"
    file.unlink()
    clock.now += 1
    assert ring.find(f"Bearer {bert}").name == "bert"


def test_the_file_has_no_key_and_only_the_user_reads_it(file: Path):
    key = add_key(file, "anna", max_in_flight=3)
    assert key not in file.read_text()
    assert len(key) > 40
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert [(one.name, one.max_in_flight) for one in read_keys(file)] == [("anna", 3)]
    assert key not in repr(Access("http://x", key))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a file of API keys"),
        ("[]", "not a file of API keys"),
        ('{"version": 2, "keys": []}', "not a file of API keys"),
        ('{"version": 1, "keys": [{"name": "a"}]}', "not a file of API keys"),
        ('{"version": 1, "keys": [{"name": "a", "sha256": "x", "created": 0}]}', "not a file of API keys"),
        (None, "can't be read"),
    ],
)
def test_a_damaged_file_is_refused(file: Path, text: str | None, problem: str):
    if text is not None:
        file.write_text(text)
    with pytest.raises(DeploymentError, match=problem):
        KeyRing(file, SECRET)


def test_names_are_taken_once(file: Path):
    add_key(file, "anna")
    for name in ("anna", "", "a b", "-x", "x" * 64):
        with pytest.raises(DeploymentError):
            add_key(file, name)
    with pytest.raises(DeploymentError, match="no key of this name"):
        remove_key(file, "bert")
    assert [key["name"] for key in json.loads(file.read_text())["keys"]] == ["anna"]


async def test_who_controls_a_job_needs_its_secret_and_no_key(file: Path, service: FakeService):
    add_key(file, "somebody")
    control = FakeControl()
    app = create_app(text_service(service), keys=KeyRing(file, SECRET), control=control)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for secret, status in (("", 403), ("b" * 32, 403), (SECRET, 202)):
            headers = {SECRET_HEADER: secret, "Content-Type": "application/json"}
            response = await http.post("/helix/control/drain", json={"node": "a"}, headers=headers)
            assert response.status_code == status
        assert control.drained == ["a"]
        wrong = await http.post("/helix/control/stop", json={"grace_s": -1.0}, headers={SECRET_HEADER: SECRET})
        assert wrong.status_code == 400
        assert "grace_s" in wrong.json()["error"]["message"]


class FakeControl:
    """A job that only notes what it is told."""

    secret = SECRET

    def __init__(self) -> None:
        self.drained: list[str] = []

    def begin_change(self, plan: Plan) -> None:
        raise AssertionError(plan)

    def drain(self, node: str, *, undo: bool = False) -> None:
        self.drained.append(node)

    def wind_down(self, grace_s: float) -> None:
        raise AssertionError(grace_s)
