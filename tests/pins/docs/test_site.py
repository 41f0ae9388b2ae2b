"""The documentation site, as `make site` builds it into the folder KEYLEASH_SITE."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from tools.site_pages import generated_pages

FOLDER = os.environ.get("KEYLEASH_SITE", "")
SITE = Path(FOLDER).resolve()

pytestmark = pytest.mark.skipif(not FOLDER, reason="the site is not built here: run `make site`")


class Page(HTMLParser):
    """The links, the anchors and the loaded files of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element refers to."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if "href" in found:
            (self.loaded if tag == "link" else self.links).append(found["href"])
        if "src" in found:
            self.loaded.append(found["src"])


@cache
def page(file: Path) -> Page:
    """Return a page, parsed once."""
    return Page(file)


def pages() -> list[Path]:
    """Return all pages; the page of unknown addresses has absolute links."""
    return sorted(file for file in SITE.rglob("*.html") if file != SITE / "404.html")


def target(file: Path, link: str) -> tuple[Path, str]:
    """Return the file and the anchor that a link of *file* names."""
    parts = urlsplit(link)
    path = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    return path / "index.html" if path.is_dir() else path, unquote(parts.fragment)


def is_internal(link: str) -> bool:
    """Return whether a link stays in the site."""
    return not urlsplit(link).scheme and not urlsplit(link).netloc


def test_every_internal_link_has_a_target_and_every_page_is_reached() -> None:
    """Links name existing files and anchors; from the first page they lead to all pages."""
    broken = []
    waiting = [SITE / "index.html"]
    seen = set(waiting)
    for file in waiting:
        for link in filter(is_internal, page(file).links + page(file).loaded):
            path, anchor = target(file, link)
            is_page = path.suffix == ".html" and path.is_file()
            if not path.is_file() or (is_page and anchor not in page(path).anchors):
                broken.append(f"{file.relative_to(SITE)}: {link}")
            if is_page and path not in seen:
                seen.add(path)
                waiting.append(path)

    assert broken == []
    assert set(pages()) <= seen
    assert len(seen) > 150


def test_pages_load_nothing_from_other_hosts() -> None:
    """Fonts, scripts, styles and pictures are part of the site."""
    assert [link for file in pages() for link in page(file).loaded if not is_internal(link)] == []
    for style in SITE.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8"))
    # The theme would load the library that draws these.
    assert not any('class="mermaid"' in file.read_text(encoding="utf-8") for file in pages())


def test_search_and_site_have_every_generated_page() -> None:
    """Commands and error codes are found by their names."""
    index = json.loads((SITE / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}

    assert {name.replace(".md", ".html") for name in generated_pages()} <= found


def test_docstring_sections_are_rendered_as_sections() -> None:
    """Args, Attributes and Raises of docstrings become lists, and codes of errors links."""
    client = (SITE / "reference" / "api" / "client.html").read_text(encoding="utf-8")
    testing = (SITE / "reference" / "api" / "testing.html").read_text(encoding="utf-8")

    assert "Parameters:" in client
    assert not re.search(r"<p>(Args|Attributes|Raises|Returns):", client + testing)
    assert '<a href="../errors/unknown-identity.html">' in testing
