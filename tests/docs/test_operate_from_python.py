"""The programs of docs/how-to/operate-from-python.md, run as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keyleash
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "operate-from-python.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("program", PROGRAMS, ids=["sync", "asyncio"])
def test_program_of_the_page_works_as_written(
    embedded: RealServer, tmp_path: Path, program: str
) -> None:
    """50 agents wrote a key each, one token is revoked, and one run is undone."""
    shutil.copy(ROOT / "examples" / "agents.yaml", tmp_path)
    environment = {**os.environ, "KEYLEASH_URL": embedded.url, "KEYLEASH_ACTOR": "deploy@ci"}

    done = subprocess.run(
        [sys.executable, "-c", f"URL = {embedded.url!r}\n{program}"],
        cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    keys = set(embedded.client().scan_iter("agents:jobs:*"))
    assert len(keys) == 49
    assert b"agents:jobs:7:state" not in keys
    states = [token.state for token in keyleash.Operator.from_url(embedded.url).tokens.list()]
    assert [str(state) for state in states].count("revoked") == 1
