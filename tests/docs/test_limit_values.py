"""The policy and the program of the page on values, run as written."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from support.command_line import Cli
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "limit-values.md").read_text(encoding="utf-8")


def test_page_on_values_works_as_written(
    embedded: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rule denies what the page says, and the denial has the numbers."""
    (policy,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "agents.yaml").write_text(policy)
    cli = Cli(embedded.url)
    cli.ok("load", tmp_path / "agents.yaml", "--yes")
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.setenv("KEYLEASH_TOKEN", cli.token("agent-runner"))

    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "limit-values.md", "exec"), {"__name__": "example"})  # noqa: S102

    *rules, read, written = output.getvalue().splitlines()
    assert rules == [
        "True",
        "agents:jobs:42:log 100000 over 65536",
        "max_elements 1000 1001",
        "only absent present",
    ]
    assert re.fullmatch(r"budget\.bytes_written [1-9]\d+ bytes used", written)
    assert read == "budget.bytes_read 0 bytes used"
