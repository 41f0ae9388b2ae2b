"""The policy and the program of the page on safe retries, run as written."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from support.command_line import Cli
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "safe-retries.md").read_text(encoding="utf-8")


def test_page_on_safe_retries_works_as_written(
    embedded: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step gets the replies of the first, and status counts it."""
    (policy,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "agents.yaml").write_text(policy)
    cli = Cli(embedded.url)
    cli.ok("load", tmp_path / "agents.yaml", "--yes")
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.setenv("KEYLEASH_TOKEN", cli.json("token", "issue", "agent-runner")["token"])

    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "safe-retries.md", "exec"), {"__name__": "example"})  # noqa: S102

    assert output.getvalue().splitlines() == [
        "[1, 7] [1, 7]",
        "8",
        "job-42/step-3 belongs to another call",
    ]
    (identity,) = cli.json("status")["identities"]
    assert identity["replays"] == 2
    assert 'keyleash_replays_total{identity="agent-runner"} 2.0' in cli.ok("metrics")
