"""The policy, the command and the orchestrator of the page on bound tokens, run as written."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from support.command_line import Cli
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "one-token-per-job.md").read_text(encoding="utf-8")


def test_page_on_bound_tokens_works_as_written(
    embedded: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job reaches its own keys, and the tokens of a run are revoked by their label."""
    policy, _ = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    program, _ = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (command,) = re.findall(r"^    (keyleash token issue .*?)\n\n", PAGE, re.M | re.S)
    (tmp_path / "agents.yaml").write_text(policy)
    cli = Cli(embedded.url)
    cli.ok("load", tmp_path / "agents.yaml", "--yes")
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.delenv("KEYLEASH_TOKEN", raising=False)

    cli.ok(*shlex.split(command.replace("\\\n", ""))[1:])
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "one-token-per-job.md", "exec"), {"__name__": "example"})  # noqa: S102

    assert output.getvalue().splitlines() == [
        "agents:jobs:7:state denied by token",
        "42 may only use its own keys",
        "agents:jobs:7:state denied by token",
        "43 may only use its own keys",
    ]
    assert embedded.client().mget("agents:jobs:42:state", "agents:jobs:43:state") == [
        b"running",
        b"running",
    ]
    assert cli.json("token", "list", "--meta", "run=r-17")["tokens"][0]["state"] == "revoked"
    listed = cli.ok("token", "list")
    assert "job_id=42" in listed
    assert "job=43" in listed


def test_delegation_on_the_page_works_as_written(
    embedded: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child reads its job, and is denied what its parent may do."""
    _, policy = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    _, program = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "agents.yaml").write_text(policy)
    cli = Cli(embedded.url)
    cli.ok("load", tmp_path / "agents.yaml", "--yes")
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.setenv("KEYLEASH_TOKEN", cli.ok("token", "issue", "agent-runner").strip())

    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(program, "one-token-per-job.md", "exec"), {"__name__": "example"})  # noqa: S102

    assert output.getvalue().splitlines() == ["None", "write denied by token", "bind job_id=43"]
    child = cli.json("token", "list", "--meta", "step=summary")["tokens"][0]
    assert len(child["chain"]) == 1
