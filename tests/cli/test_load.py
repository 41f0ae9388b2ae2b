"""`keyleash load`: output, consent, warnings and interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from support.command_line import Cli
from support.servers import RealServer


def test_load_shows_server_and_plan_and_activates(server: RealServer, example: Path) -> None:
    """The log of a deploy shows the server and the changes."""
    cli = Cli(server.url)

    result = cli.run("load", example, "--yes")

    assert result.exit_code == 0
    assert f"server     {server.url}" in result.stderr
    assert "+ agent-runner (machine)   [widens]" in result.stderr
    assert "4 new, 0 changed, 0 removed, 0 unchanged" in result.stderr
    assert result.stdout == "activated generation 1: 4 identities\n"


def test_load_counts_new_changed_unchanged_and_removed_identities(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """An operator must not overlook a removed identity."""
    text = example.read_text()
    start, end = text.index("  agent-recovery:"), text.index("  human-admin:")
    text = text[:start] + text[end:].replace("human-admin", "human-ops")
    policy.write_text(text.replace("3000/minute", "2000/minute"))

    result = loaded.run("load", policy, "--yes", "--allow-widening", "--allow-removal")

    lines = result.stderr.splitlines()
    assert "+ human-ops (human)   [widens]" in lines
    assert "~ agent-reader (machine)   [narrows]" in lines
    assert "    ~ rate.requests 3000 a minute → 2000 a minute   [narrows]" in lines
    assert "- agent-recovery (machine)   [narrows]" in lines
    assert "1 new, 1 changed, 2 removed, 1 unchanged" in lines
    assert result.stdout == "activated generation 2: 3 identities\n"


def test_load_records_the_actor(loaded: Cli, embedded: RealServer) -> None:
    """`--actor` reaches the active policy and the control stream."""
    assert loaded.json("status")["policy"]["by"] == "tester"
    client: Any = embedded.client()
    ((_, event),) = client.xrange("keyleash:control")
    assert event[b"actor"] == b"tester"


ABSENT = """\
version: 1
identities:
  agent:
    kind: machine
    grants:
      - {allow: [read], keys: ["a:*"], only: [GET, MSETEX, VCARD]}
"""
MESSAGE = "the server has no `VCARD`"
HELP = "the rule has no effect for it there; remove it, or load on a server that has it"


@pytest.fixture
def valkey(embedded: RealServer, policy: Path) -> Cli:
    """The command, with a server that has no vector sets, and a policy that names one."""
    policy.write_text(ABSENT)
    return Cli(embedded.url)


def test_load_warns_of_a_command_that_the_server_lacks(valkey: Cli, policy: Path) -> None:
    """A policy may be for several servers, so this is no error."""
    result = valkey.run("load", policy, "--yes")

    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert lines[:2] == [f"{policy}:6:60: warning: {MESSAGE} [absent-command]", f"  help: {HELP}"]
    assert lines[2].startswith("server ")
    assert result.stdout == "activated generation 1: 1 identity\n"
    again = valkey.run("load", policy)
    assert again.stdout == "already active as generation 1; nothing changed\n"
    assert again.stderr.splitlines() == [*lines[:2], f"server     {valkey.url}"]


def test_load_as_json_lists_warnings_with_their_places(valkey: Cli, policy: Path) -> None:
    """Warnings have the same members as problems."""
    assert valkey.json("load", policy, "--yes")["warnings"] == [
        {
            "code": "absent-command",
            "message": MESSAGE,
            "help": HELP,
            "file": str(policy),
            "line": 6,
            "column": 60,
        }
    ]


def test_check_does_not_warn_of_commands_of_one_server(valkey: Cli, policy: Path) -> None:
    """A supported server has the command."""
    result = valkey.run("check", policy)

    assert (result.exit_code, result.stderr) == (0, "")


def test_load_by_a_user_without_command_warns_and_loads(
    embedded: RealServer, example: Path
) -> None:
    """The guards are then compiled for the shipped command table."""
    client: Any = embedded.client()
    client.execute_command("ACL", "SETUSER", "ops", "on", ">pw", "~*", "+@all", "-command")
    cli = Cli(embedded.url.replace("redis://", "redis://ops:pw@"))

    result = cli.run("load", example, "--yes")

    assert result.exit_code == 0
    first, second, *_ = result.stderr.splitlines()
    assert first.startswith(f"{example}:1:1: warning: cannot read the server's commands: ")
    assert second.startswith("  help: use a user who may run COMMAND, on Redis 7 or later; until")


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("step", "outcome", "generation"),
    [
        ("activate_policy", "nothing was activated", 1),
        ("verify_activation", "active as generation 2, but not verified: see `keyleash doctor`", 2),
    ],
)
def test_interrupted_load_reports_its_outcome(
    loaded: Cli,
    example: Path,
    policy: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    outcome: str,
    generation: int,
) -> None:
    """After Ctrl-C the operator must not guess which policy is active."""
    policy.write_text(example.read_text().replace("3000/minute", "2000/minute"))
    monkeypatch.setattr(f"keyleash.api.loading.{step}", interrupt)

    result = loaded.run("load", policy, "--yes")

    assert result.exit_code == 130
    assert [line for line in result.stderr.splitlines() if line][-2:] == [outcome, "interrupted"]
    assert loaded.json("status")["policy"]["generation"] == generation


def test_load_with_a_lost_reply_reports_that_the_policy_is_active(
    loaded: Cli, example: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection error after the activation is not a failed load."""
    policy.write_text(example.read_text().replace("3000/minute", "2000/minute"))

    def lose(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("connection closed by server")

    monkeypatch.setattr("keyleash.api.loading.verify_activation", lose)

    result = loaded.run("load", policy, "--yes")

    assert result.exit_code == 69
    assert "active as generation 2, but not verified" in result.stderr
