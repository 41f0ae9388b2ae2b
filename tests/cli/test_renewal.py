"""`keyleash token renew`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from keyleash import Policy
from support.command_line import Cli
from support.leash import grant, policy
from support.servers import RealServer

RUNNER: dict[str, Any] = {
    "token": {"ttl": "1h", "max_ttl": "4h"},
    "grants": [grant("read", keys="doc:*")],
}


@pytest.fixture
def cli(embedded: RealServer, tmp_path: Path) -> Cli:
    file = tmp_path / "policy.json"
    file.write_text(policy(runner=RUNNER))
    cli = Cli(embedded.url)
    cli.ok("load", file, "--yes")
    return cli


def test_token_is_renewed_by_its_id_and_shown_with_its_new_life(cli: Cli) -> None:
    """As text and as JSON; a life that was shortened is reported."""
    issued = cli.json("token", "issue", "runner")

    done = cli.run("token", "renew", issued["id"], "--ttl", "2h")
    assert done.stdout == ""
    # A busy machine needs a second to say it.
    assert re.search(rf"token {issued['id']} of `runner` expires in (2h|1h59m)", done.stderr)
    shown = cli.run("--json", "token", "renew", issued["id"], "--ttl", "9h")
    note = r"shortened to (4h|3h59m): the policy's `max_ttl` counts from the issue"
    assert re.search(note, shown.stderr)
    renewed = cli.json("token", "renew", issued["id"], "--ttl", "3h")
    assert set(renewed) == {"server", "id", "identity", "expires_at", "capped"}
    assert cli.json("token", "show", issued["id"])["expires_at"] == renewed["expires_at"]
    done = cli.run("token", "renew", issued["id"], "--ttl", "1m")
    assert "note: unchanged: it lives longer already" in done.stderr
    assert "unchanged" not in shown.stderr
    assert "renew" in cli.ok("audit", "log", "--control")


def test_token_that_cannot_be_renewed_is_an_error_with_its_reason(cli: Cli) -> None:
    """And says how to get another."""
    issued = cli.json("token", "issue", "runner", "--ttl", "4h")
    error = cli.json("token", "renew", issued["id"], "--ttl", "9h", exit_code=1)["error"]
    assert error["code"] == "token-too-old"
    assert "keyleash token issue runner" in error["help"]
    cli.ok("token", "revoke", issued["id"])
    error = cli.json("token", "renew", issued["id"], exit_code=1)["error"]
    assert error["code"] == "token-not-live"
    assert re.search(rf"{issued['id']} .* revoked +\S+ +- +never", cli.ok("token", "list"))
    old, new = (cli.json("token", word, "runner")["id"] for word in ("issue", "rotate"))
    error = cli.json("token", "renew", old, exit_code=1)["error"]
    assert error["help"] == f"renew `{new}`, which replaced it"
    assert f"replaced by {new} " in cli.ok("token", "list")
    assert cli.run("token", "renew", issued["token"]).exit_code == 2
    named = cli.run("token", "renew", "runner")
    assert "the name of an identity" in named.stderr
    assert "`keyleash token list runner`" in named.stderr


def test_permission_to_renew_widens() -> None:
    """`plan` shows it."""
    text = policy(runner={**RUNNER, "token": {**RUNNER["token"], "renew": True}})
    old, new = (Policy(item) for item in (policy(runner=RUNNER), text))
    diff = old.diff(new)
    assert diff.identities[0].widens
    assert "renew" in str(diff)
