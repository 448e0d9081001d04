"""Clients that come back get what follows on what they have, wherever the stream and the coordinator broke off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from helix_df.models.chat import PLAIN_TEMPLATE
from helix_df.models.streaming_text import StopRule
from helix_df.runtime.api.answering import Form
from helix_df.runtime.api.answers import Json
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.keys import KeyRing, add_key
from helix_df.runtime.api.reconnect import NAME_HEADER, Reconnects
from helix_df.runtime.kept_answers import AcceptedAnswer, BrokenOff, KeptAnswer, KeptRequest
from helix_df.runtime.requests import TokenEvent
from tests.api.fakes import FakeService, text_service, user


@dataclass
class FakeKeeper:
    """Keeps in memory what is accepted, as if it broke off after so many events of each request."""

    service: FakeService
    unwritten: int = 0
    answers: dict[str, KeptAnswer] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    disk: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.disk.set()

    @property
    def left(self) -> tuple[KeptAnswer, ...]:
        return tuple(self.answers.values())

    def accept(self, answer: AcceptedAnswer) -> None:
        requests = tuple(KeptRequest(asked) for asked in answer.requests)
        self.answers[answer.id] = KeptAnswer(answer.id, answer.form, requests, answer.name)

    async def written(self) -> None:
        await self.disk.wait()

    def refuse(self, answer: str) -> None:
        self.refused.append(answer)

    async def find(self, id_or_name: str) -> KeptAnswer | None:
        await asyncio.sleep(0)  # as a file makes one wait
        return next((one for one in self.left if id_or_name in (one.id, one.name)), None)

    async def go_on(self, kept: KeptRequest) -> AsyncGenerator[TokenEvent, None]:
        number = 0
        async for event in self.service.submit(kept.asked):
            number += 1
            if number > len(kept.events):
                yield event

    async def write(self, unwritten: int) -> None:
        """All but the last events."""
        for answer in self.left:
            requests = []
            for one in answer.requests:
                events = [event async for event in self.service.submit(one.asked)]
                requests.append(KeptRequest(one.asked, tuple(events[: max(0, len(events) - unwritten)])))
            self.answers[answer.id] = KeptAnswer(answer.id, answer.form, tuple(requests), answer.name)


def client_of(
    service: FakeService,
    keeper: FakeKeeper,
    keys: KeyRing | None = None,
    template: str = PLAIN_TEMPLATE,
    **headers: str,
):
    text = text_service(service, template=template)
    reconnects = Reconnects(text, keeper)
    app = create_app(text, reconnects=reconnects, keys=keys)
    transport = httpx.ASGITransport(app=app)
    return reconnects, httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


NAMED = {NAME_HEADER: "one"}
"""Of a request whose client may come back: its events say where they are."""


async def test_events_of_a_request_without_a_name_are_lines_of_data_alone():
    """A load generator that reads them by hand knows no others."""
    service = FakeService()
    _, http = client_of(service, FakeKeeper(service))
    body = {"model": "tiny", "prompt": [1, 2], "max_tokens": 5, "stream": True}
    events = (await http.post("/v1/completions", json=body)).text.split("\n\n")
    assert len(events) > 5
    assert all(event.startswith("data: ") and "\n" not in event for event in events[:-1])
    named = (await http.post("/v1/completions", json=body, headers=NAMED)).text.split("\n\n")
    assert all(event.startswith("id: ") for event in named[:-2])


def parsed(text: str) -> list[tuple[str, dict]]:
    """Ids and documents of a stream's events, but for the last, which says that this is the end."""
    *events, last, nothing = text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    found = []
    for event in events:
        name, data = event.split("\n")
        found.append((name.removeprefix("id: "), json.loads(data.removeprefix("data: "))))
    return found


def said(events: list[tuple[str, dict]]) -> tuple[dict[int, str], dict[int, list[int]], list[tuple[int, str]]]:
    texts: dict[int, str] = {}
    ids: dict[int, list[int]] = {}
    ends: list[tuple[int, str]] = []
    for _, document in events:
        for choice in document["choices"]:
            text = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + text
            ids.setdefault(choice["index"], []).extend(choice.get("token_ids", ()))
            ends += [(choice["index"], choice["finish_reason"])] if choice["finish_reason"] else []
    return texts, ids, ends


ASKED = [
    ("completions", {"prompt": "p", "max_tokens": 40}),
    ("completions", {"prompt": ["p", "q"], "n": 2, "max_tokens": 40, "echo": True}),
    ("completions", {"prompt": "p", "max_tokens": 40, "stop": ["sto"], "return_token_ids": True}),
    ("chat/completions", {"messages": user("Hi"), "max_tokens": 9, "logprobs": True, "top_logprobs": 1}),
]


@pytest.mark.parametrize(("path", "body"), ASKED)
@pytest.mark.parametrize("unwritten", [0, 1, 3, 100])
async def test_what_a_client_has_and_what_it_gets_are_the_whole(path: str, body: dict, unwritten: int) -> None:
    service = FakeService("Hé 😀, nonstop stories")
    keeper = FakeKeeper(service)
    _, http = client_of(service, keeper)
    wanted = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}} | body
    whole = parsed((await http.post(f"/v1/{path}", json=wanted, headers=NAMED)).text)
    assert len(whole) > 8
    await keeper.write(unwritten)
    for at in range(len(whole)):
        reconnects, http = client_of(service, keeper)
        reconnects.go_on()
        place, document = whole[at]
        answer = await http.get(f"/helix/requests/{document['id']}", headers={"Last-Event-ID": place})
        assert answer.status_code == 200, answer.text
        rest = parsed(answer.text)
        joined = said([*whole[: at + 1], *rest])
        texts, ids, ends = said(whole)
        assert (joined[0], joined[1], sorted(joined[2])) == (texts, ids, sorted(ends))
        assert rest[-1][1]["usage"] == whole[-1][1]["usage"]
        await reconnects.close()


async def test_an_answer_is_for_the_key_that_asked_for_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, second = add_key(file, "first"), add_key(file, "second")
    service = FakeService()
    keeper = FakeKeeper(service)
    _, http = client_of(service, keeper, KeyRing(file, "secret"))
    body = {"model": "tiny", "prompt": "p"}
    named = {"Authorization": f"Bearer {first}", "X-Helix-Request-Id": "mine"}
    assert (await http.post("/v1/completions", json=body, headers=named)).status_code == 200
    await keeper.write(0)
    statuses = [
        (await http.get("/helix/requests/mine", headers={"Authorization": f"Bearer {key}"})).status_code
        for key in (first, second)
    ]
    assert statuses == [200, 404]


async def test_what_was_refused_is_not_kept_and_what_broke_off_says_why() -> None:
    service = FakeService()
    keeper = FakeKeeper(service)
    _, http = client_of(service, keeper)
    body = {"model": "tiny", "prompt": "p"}
    assert (await http.post("/v1/completions", json=body)).status_code == 200
    (answer,) = keeper.left
    (one,) = answer.requests
    for why, status in ((BrokenOff("cancelled"), 410), (BrokenOff("failed", "no room", 503, None, "kv_full"), 503)):
        keeper.answers[answer.id] = KeptAnswer(answer.id, answer.form, (KeptRequest(one.asked, (), why),))
        assert (await http.get(f"/helix/requests/{answer.id}")).status_code == status
    wrong = await http.post("/v1/completions", json=body, headers={"X-Helix-Request-Id": "no name"})
    assert wrong.status_code == 400
    assert keeper.refused == []


async def test_a_client_hears_nothing_before_its_request_is_kept() -> None:
    service = FakeService()
    keeper = FakeKeeper(service)
    keeper.disk.clear()
    reconnects = Reconnects(text_service(service), keeper)
    form = Form("cmpl", "cmpl-1", 0, "tiny", 1, False, False, False, False, ("",), (StopRule(),), (1,))

    async def documents() -> AsyncGenerator[Json, None]:
        yield {}
        yield {}

    kept = reconnects.keep(form, (), None, documents())
    first = asyncio.create_task(anext(kept))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not first.done()
    keeper.disk.set()
    assert await first == {}
    assert [document async for document in kept] == [{}]


async def test_of_two_that_take_a_name_at_once_one_gets_it() -> None:
    service = FakeService()
    _, client = client_of(service, FakeKeeper(service))
    body = {"model": "tiny", "prompt": "p"}
    async with client as http:
        posts = (http.post("/v1/completions", json=body, headers={"X-Helix-Request-Id": "mine"}) for _ in range(3))
        assert sorted(one.status_code for one in await asyncio.gather(*posts)) == [200, 409, 409]
    assert len(service.requests) == 1
