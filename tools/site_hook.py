"""Hooks of MkDocs: navigation, generated pages, and the pages outside of `docs/`.

The navigation of hand-written pages is that of docs/README.md. Pages and files outside of `docs/`
that others link to become part of the site, so that links work as they do in the repository.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# The command `mkdocs`, unlike `python -m mkdocs`, does not look for modules here.
sys.path.insert(0, str(ROOT))

from tools.site_pages import API, CLI, ERRORS, generated_navigation, generated_pages  # noqa: E402

MOVED = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "docs/reference/cli.md": f"{CLI}/index.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages by the path in the repository, where the site has another."""

_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
_RAISED = re.compile(r"<code>((?:(?!</code>).)*?)</code>(?=\s*–)", re.DOTALL)
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Make the navigation from the tables of docs/README.md."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    first = re.search(r"\]\((tutorial/[^)]*)\)", text)
    nav: list[Any] = [{"Home": "index.md"}, {"Tutorial": [first[1] if first else "contents.md"]}]
    for section in text.split("\n## ")[1:]:
        title, _, tables = section.partition("\n")
        links = [{name: page} for name, page in re.findall(r"\[([^]]*)\]\(([^)]*)\)", tables)]
        if title == "Reference":
            links = [link for link in links if "CLI" not in link]
            links += [{name: pages} for name, pages in generated_navigation().items()]
        nav.append({title: links})
    project = ["contents.md", *(f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY"))]
    config.nav = [*nav, {"Project": [*project, "benchmarks.md"]}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and everything outside of `docs/` that a page links to."""
    for name, text in generated_pages().items():
        files.append(File.generated(config, name, content=text))
    written = [file for file in files.documentation_pages() if file.generated_by is None]
    waiting = ["README.md", "CHANGELOG.md", *(f"docs/{file.src_uri}" for file in written)]
    for file in written:
        if f"docs/{file.src_uri}" in MOVED:
            files.remove(file)
    seen = set(waiting)
    for source in waiting:
        path = ROOT / source
        if files.get_file_from_path(_site_path(source)) is None:
            files.append(File.generated(config, _site_path(source), abs_src_path=str(path)))
        if path.suffix == ".md":
            for link in _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8"))):
                target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
                if target not in seen and (ROOT / target).is_file():
                    seen.add(target)
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to where the site has their targets."""
    if page.file.generated_by and page.file.abs_src_path is None:
        return markdown
    source = os.path.relpath(page.file.abs_src_path, ROOT)

    def site_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return posixpath.relpath(_site_path(target), posixpath.dirname(page.file.src_uri) or ".")

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(site_link, part) for part in parts)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Link the code in `OperationError (code): …` of docstrings, which is taken for a call."""
    if not page.file.src_uri.startswith(API):
        return html

    def link(match: re.Match[str]) -> str:
        call = re.fullmatch(r"(\w+Error)\(([\w -]+)\)", re.sub(r"<[^>]*>", "", match[1]))
        if call is None:
            return match[0]
        code = call[2].replace(" ", "")
        href = posixpath.relpath(f"{ERRORS}/{code}.html", API)
        return f'<code>{call[1]}</code> (<a href="{href}"><code>{code}</code></a>)'

    return _RAISED.sub(link, html)


def _site_path(source: str) -> str:
    """Return the path in the site of a file of the repository."""
    return MOVED.get(source, source.removeprefix("docs/"))
