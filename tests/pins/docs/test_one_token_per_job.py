"""The policy, the command and the orchestrator of the page on bound tokens, run as written."""

from __future__ import annotations

import re
import shlex

import pytest

from support.how_to import HowTo
from support.servers import RealServer

PAGE = "one-token-per-job"
LOADS = re.compile(r"^    keyleash load agents.yaml (.*)$", re.M)


def test_page_on_bound_tokens_works_as_written(how_to: HowTo, embedded: RealServer) -> None:
    """Each job reaches its own keys, and the tokens of a run are revoked by their label."""
    (command,) = re.findall(r"^    (keyleash token issue .*?)\n\n", how_to.text, re.M | re.S)
    how_to.load()
    how_to.cli.ok(*shlex.split(command.replace("\\\n", ""))[1:])

    assert how_to.run() == [
        "agents:jobs:7:state denied by token",
        "42 may only use its own keys",
        "agents:jobs:7:state denied by token",
        "43 may only use its own keys",
    ]
    assert embedded.client().mget("agents:jobs:42:state", "agents:jobs:43:state") == [
        b"running",
        b"running",
    ]
    assert how_to.cli.json("token", "list", "--meta", "run=r-17")["tokens"][0]["state"] == "revoked"
    listed = how_to.cli.ok("token", "list")
    assert "job_id=42" in listed
    assert "job=43" in listed


def test_delegation_on_the_page_works_as_written(
    how_to: HowTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child reads its job, and is denied what its parent may do."""
    for number, options in enumerate(LOADS.findall(how_to.text)):
        how_to.load(number, *options.split())
    monkeypatch.setenv("KEYLEASH_TOKEN", how_to.cli.token("agent-runner"))

    assert how_to.run(1) == ["None", "write denied by token", "bind job_id=43"]
    child = how_to.cli.json("token", "list", "--meta", "step=summary")["tokens"][0]
    assert len(child["chain"]) == 1
