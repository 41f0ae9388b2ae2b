"""The page for contributors, compared with the tree."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "explanation" / "code.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "loader" / "keyleash"
FOLDERS = (ROOT, PACKAGE, ROOT / "lua" / "guard")
NAME = re.compile(r"`([\w./-]+(?:\.(?:py|lua|md|json|toml)|/))`")


def test_every_file_named_on_the_page_exists() -> None:
    """Names are relative to the repository, to the package or to lua/guard."""
    names = set(NAME.findall(PAGE))

    assert len(names) > 30
    assert [name for name in sorted(names) if not any((at / name).exists() for at in FOLDERS)] == []


def test_map_lists_every_package() -> None:
    """Each package, and each of addons, has a place on the page."""
    paths = [*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("addons/*/__init__.py")]
    packages = {f"{path.parent.relative_to(PACKAGE)}/" for path in paths}

    assert sorted(name for name in packages if f"`{name}`" not in PAGE) == []
