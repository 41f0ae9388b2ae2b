"""The examples for agents in the page on tokens, run as written."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from support.command_line import Cli
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "how-to" / "tokens.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## In an agent") : PAGE.index("## Rotating")]
PLAIN, ASYNC = re.findall(r"^```python\n(.*?)^```$", SECTION, re.M | re.S)
FILE, URL = "/run/secrets/token", "redis://127.0.0.1:6379"


def printed(program: str) -> list[str]:
    """Run an example and return the lines that it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "tokens.md", "exec"), {"__name__": "example"})  # noqa: S102
    return output.getvalue().splitlines()


def test_examples_for_agents_work_as_written(
    embedded: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first takes all from the environment, the second its token from a coroutine."""
    cli = Cli(embedded.url)
    cli.ok("load", ROOT / "examples" / "agents.yaml", "--yes")
    file = tmp_path / "token"
    file.write_text(cli.token("agent-runner"))
    monkeypatch.delenv("KEYLEASH_TOKEN", raising=False)
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.setenv("KEYLEASH_TOKEN_FILE", str(file))

    whoami, *limits, denial = printed(PLAIN)

    assert whoami.startswith("agent-runner 20")
    assert limits
    assert all(re.fullmatch(r"(rate|budget)\.\w+ \d+ of \d+", line) for line in limits)
    assert denial == (
        "KeyNotGrantedError("
        "code='KEY_NOT_GRANTED', key='agents:context:42', identity='agent-runner')"
    )
    assert printed(ASYNC.replace(FILE, str(file)).replace(URL, embedded.url)) == []
    assert embedded.client().get("agents:jobs:42:state") == b"done"
