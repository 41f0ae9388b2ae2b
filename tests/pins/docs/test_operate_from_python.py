"""The programs of docs/how-to/operate-from-python.md, run as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keyleash
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "how-to" / "operate-from-python.md").read_text(encoding="utf-8")
SYNC, ASYNC = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def test_programs_of_the_page_work_as_written_one_after_the_other(
    embedded: RealServer, tmp_path: Path
) -> None:
    """Each time 50 agents wrote a key each, one token is revoked, and one run is undone."""
    shutil.copy(ROOT / "examples" / "agents.yaml", tmp_path)
    environment = {**os.environ, "KEYLEASH_URL": embedded.url, "KEYLEASH_ACTOR": "deploy@ci"}
    operator, client = keyleash.Operator.from_url(embedded.url), embedded.client()

    for count, program in enumerate((SYNC, ASYNC, SYNC), 1):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=600,
        )  # fmt: skip

        assert done.returncode == 0, done.stderr
        keys = set(client.scan_iter("agents:jobs:*"))
        assert len(keys) == 49
        assert b"agents:jobs:7:state" not in keys
        states = [str(token.state) for token in operator.tokens.list()]
        assert states.count("revoked") == count
        operator.limits.reset("agent-runner", reason="a run of a later minute")
