"""The documentation builds as a site without a warning, its links lead somewhere, and its pages load nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow


class _Page(HTMLParser):
    """What a page links to, what it loads, and which anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.loaded += [given[name] for name in ("src", "href") if tag in _LOADING and name in given]


_LOADING = frozenset({"script", "img", "link", "iframe", "source"})


@pytest.fixture(scope="module")
def site() -> Path:
    """Built at ``site/`` of the source tree, from where CI takes it."""
    pytest.importorskip("mkdocs", reason="the site takes the docs extra")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "site"


def test_every_link_leads_to_a_page_and_an_anchor(site: Path) -> None:
    pages = {path.resolve(): _Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme or path.name == "404.html":
                continue
            target, anchor = urldefrag(unquote(link))
            found = (path.parent / target).resolve() if target else path
            found = found / "index.html" if found.is_dir() else found
            if not found.exists() or (anchor and found in pages and anchor not in pages[found].anchors):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    elsewhere = {
        f"{path.name}: {loaded}"
        for path in site.rglob("*.html")
        for loaded in _Page(path.read_text("utf-8")).loaded
        if urlsplit(loaded).netloc
    }
    styles = {path.name for path in site.rglob("*.css") if re.search(r"url\(\"?https?:", path.read_text("utf-8"))}
    assert (elsewhere, styles) == (set(), set())


def test_the_readme_links_to_files_that_are_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            assert urlsplit(link).scheme or (ROOT / link).exists(), f"{page.name}: {link}"
