"""The page at ``/`` as people see and use it, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from helix_df.runtime.requests import HopStatus, NodeStatus
from tests.api.fakes import FakeService
from tests.page.conftest import NODES, Look

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the extra `browser`")
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
DRAWN_AGAIN = """async () => {
  const { show } = await import("./page/cluster.js");
  const now = await (await fetch("helix/overview")).json();
  return Array.from({ length: 5 }, () => {
    const began = performance.now();
    show(now, began / 1000);
    document.body.getBoundingClientRect();
    return performance.now() - began;
  });
}"""
"""Milliseconds of drawing what the page shows once more, its layout included."""

KINDS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
    "phone in the dark": PHONE | {"color_scheme": "dark"},
}


async def test_a_chat_by_keyboard_alone(url: str, service: FakeService, look: Look) -> None:
    from playwright.async_api import expect

    service.answer = "Paris, **of course**."
    async with look(url) as seen:
        await expect(seen.page.locator("#model")).to_have_text("tiny")
        await seen.page.keyboard.type("What is the capital of France?")
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator("#said")).to_contain_text("Paris, **of course**.")
        await expect(seen.page.locator("#said .note")).to_contain_text("tokens in")
        await seen.page.keyboard.press("Tab")
        assert await seen.page.evaluate("document.activeElement.id") == "send"
        await seen.page.keyboard.press("Tab")  # Stop is disabled: nothing runs
        assert await seen.page.evaluate("document.activeElement.id") == "clear"
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator("#said .turn")).to_have_count(0)
        assert await seen.page.evaluate("document.activeElement.id") == "question"
        assert not seen.said


async def test_what_was_said_is_said_again(url: str, service: FakeService, look: Look) -> None:
    from playwright.async_api import expect

    service.answer = "Yes."
    async with look(url) as seen:
        await expect(seen.page.locator("#model")).to_have_text("tiny")
        for count, question in enumerate(("One?", "Two?"), start=1):
            await seen.page.keyboard.type(question)
            await seen.page.keyboard.press("Enter")
            await expect(seen.page.locator("#said .note")).to_have_count(count)
        assert not seen.said
    prompt = bytes(service.requests[-1].prompt).decode()
    assert [prompt.index(words) for words in ("One?", "Yes.", "Two?")] == sorted(
        prompt.index(words) for words in ("One?", "Yes.", "Two?")
    )


async def test_nothing_that_is_said_is_markup(url: str, service: FakeService, look: Look) -> None:
    from playwright.async_api import expect

    words = "<b>bold</b><img src=x onerror=\"document.title='!'\">"
    service.answer = words
    async with look(url) as seen:
        await expect(seen.page.locator("#nodes")).to_contain_text("a100<b>large</b>")
        await expect(seen.page.locator("#hops")).to_contain_text("a100<b>large</b>")
        await seen.page.keyboard.type(words)
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator("#said .note")).to_have_count(1)
        assert (await seen.page.locator("#said").text_content() or "").count(words) == 2
        assert await seen.page.locator("#said b, #said img, #said script, #nodes b, #hops b").count() == 0
        assert await seen.page.title() == "tiny · helix-df"
        assert not seen.said


@pytest.mark.parametrize("way", ["Escape", "button"])
async def test_stop_ends_the_answer_for_good(url: str, service: FakeService, look: Look, way: str) -> None:
    from playwright.async_api import expect

    service.answer, service.pause_after = "A long story", 6
    async with look(url) as seen:
        await expect(seen.page.locator("#model")).to_have_text("tiny")
        await seen.page.keyboard.type("Tell me")
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator("#said")).to_contain_text("A long")
        if way == "Escape":
            await seen.page.keyboard.press("Escape")
        else:
            await seen.page.locator("#stop").click()
        await expect(seen.page.locator("#said .note")).to_have_text("stopped")
        await expect(seen.page.locator("#send")).to_be_enabled()
        await service.ended.wait()
        assert service.open == 0
        assert not seen.said


async def test_who_is_ill_is_seen(url: str, service: FakeService, look: Look) -> None:
    from playwright.async_api import expect

    async with look(url) as seen:
        row = seen.page.locator("#nodes tbody tr").nth(1)
        await expect(row).to_contain_text("● ready")
        lost = replace(NODES[1], state="lost", detail="nothing heard for 3.2 s")
        service.status = replace(
            service.status, state="degraded", ready=False, nodes=(NODES[0], lost), missing_layers=((13, 30),)
        )
        await expect(row).to_contain_text("✕ lost")
        await expect(row).to_contain_text("nothing heard for 3.2 s")
        await expect(seen.page.locator("#state")).to_have_text("degraded: nobody holds layers 13 to 29")
        assert not seen.said


async def test_figures_follow_what_the_job_does(url: str, service: FakeService, look: Look) -> None:
    from playwright.async_api import expect

    async with look(url) as seen:
        await expect(seen.page.locator("#hops tbody tr").first).to_contain_text("400")
        hops = tuple(replace(hop, tokens=hop.tokens + 10_000_000) for hop in service.status.hops)
        service.status = replace(service.status, generated_tokens=10_000_000, finished=1234, hops=hops)
        await expect(seen.page.locator("#figures")).to_contain_text("1,234")
        rate = await seen.page.locator("#hops tbody tr").first.locator("td").nth(3).text_content() or ""
        assert 1e5 < float(rate.replace(",", "")) < 1e8, "tokens a second since the status before"
        assert not seen.said


def many(lost: int) -> tuple[NodeStatus, ...]:
    """A thousand nodes of four groups, the last of which are lost."""
    names = (
        f"{gpu}-{site}-{number}" for gpu in ("a100", "l4") for site in ("oslo", "lima") for number in range(1, 251)
    )
    return tuple(
        NodeStatus(
            name, "ready" if at < 1000 - lost else "lost", (at % 30, at % 30 + 1), None, 1.0, "", 10, 4000, at % 2
        )
        for at, name in enumerate(names)
    )


@pytest.mark.parametrize("kind", ["light", "phone"])
async def test_a_thousand_nodes_fit_a_screen(url: str, service: FakeService, look: Look, kind: str) -> None:
    """Those that are ill by name, all others by group; and drawing them again takes no time that anybody notices."""
    from axe_playwright_python.async_playwright import Axe
    from playwright.async_api import expect

    hops = tuple(HopStatus("coordinator", node.name, 1.0, 10, 1) for node in many(0))
    service.status = replace(service.status, nodes=many(20), hops=hops)
    async with look(url, **KINDS[kind]) as seen:
        await expect(seen.page.locator("#states")).to_have_text("1,000: 980 ready, 20 lost")
        rows = seen.page.locator("#nodes tbody tr")
        await expect(rows).to_have_count(12 + 1 + 4)
        await expect(rows.first).to_contain_text("l4-lima-231✕ lost")
        await expect(rows.last).to_contain_text("l4-lima-*230 nodes● ready")
        await expect(seen.page.locator("#hops tbody tr")).to_have_count(4)
        took_ms = await seen.page.evaluate(DRAWN_AGAIN)
        assert min(took_ms) < 100
        found = (await Axe().run(seen.page)).response["violations"]
        assert not [it["id"] for it in found if it["impact"] in ("serious", "critical")], found
        assert await seen.page.evaluate("document.documentElement.scrollWidth === innerWidth")
        assert not seen.said


@pytest.mark.parametrize("kind", KINDS)
async def test_everybody_can_use_it(url: str, service: FakeService, look: Look, kind: str) -> None:
    """As far as axe can tell, and without a sideways scroll."""
    from axe_playwright_python.async_playwright import Axe
    from playwright.async_api import expect

    async with look(url, **KINDS[kind]) as seen:
        await expect(seen.page.locator("#hops tbody tr")).to_have_count(3)
        await seen.page.keyboard.type("Hello")
        await seen.page.keyboard.press("Enter")
        await expect(seen.page.locator("#said .note")).to_have_count(1)
        await seen.page.locator("summary").last.click()
        found = (await Axe().run(seen.page)).response["violations"]
        serious = [it["id"] for it in found if it["impact"] in ("serious", "critical")]
        assert not serious, found
        width = await seen.page.evaluate("document.documentElement.scrollWidth")
        assert width == await seen.page.evaluate("innerWidth")
        assert not seen.said


async def test_the_page_asks_nobody_else(url: str, look: Look) -> None:
    async with look("about:blank") as seen:
        asked: list[str] = []
        seen.page.on("request", lambda request: asked.append(request.url))
        await seen.page.goto(url)
        await seen.page.wait_for_selector("#hops tbody tr")
    assert asked
    assert all(one.startswith(url) for one in asked)
    async with httpx.AsyncClient(base_url=url) as http:
        policy = (await http.get("/")).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
