"""`keyleash load`: what it shows, when it asks, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.command_line import Cli
from support.servers import RealServer


def test_load_shows_the_server_and_the_identities_and_activates(
    server: RealServer, example: Path
) -> None:
    """Whoever reads the log of a deploy sees what went where."""
    cli = Cli(server.url)

    result = cli.run("load", example, "--yes")

    assert result.exit_code == 0
    assert f"server     {server.url}" in result.stderr
    assert "new        agent-reader, agent-runner, agent-recovery, human-admin" in result.stderr
    assert result.stdout == "activated generation 1: 4 identities\n"


def test_load_without_terminal_and_without_yes_is_a_usage_error(cli: Cli, example: Path) -> None:
    """A script must not hang on a question, nor go on as if it were answered."""
    result = cli.run("load", example)

    assert result.exit_code == 2
    assert "help: add `--yes`" in result.stderr
    assert cli.json("status")["policy"] is None


def test_load_of_the_active_policy_says_that_nothing_changed(loaded: Cli, example: Path) -> None:
    """A deploy that runs twice is not an event; no question is asked either."""
    assert loaded.ok("load", example) == "already active as generation 1; nothing changed\n"


def test_load_tells_new_changed_unchanged_and_removed_identities_apart(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """A removed identity is what an operator must not overlook."""
    text = example.read_text()
    start, end = text.index("  agent-recovery:"), text.index("  human-admin:")
    text = text[:start] + text[end:].replace("human-admin", "human-ops")
    policy.write_text(text.replace("3000/minute", "2000/minute"))

    result = loaded.run("load", policy, "--yes")

    lines = result.stderr.splitlines()
    assert "new        human-ops" in lines
    assert "changed    agent-reader" in lines
    assert "unchanged  agent-runner" in lines
    assert "removed    agent-recovery, human-admin" in lines
    assert result.stdout == "activated generation 2: 3 identities\n"


def test_load_of_a_bad_policy_leaves_the_server_as_it_is(loaded: Cli, policy: Path) -> None:
    """Problems are found before the server is asked anything."""
    policy.write_text("version: 1\nidentities: {}\n")

    assert loaded.run("load", policy, "--yes").exit_code == 65
    assert loaded.json("status")["policy"]["generation"] == 1


def test_load_as_json_is_one_document(cli: Cli, example: Path) -> None:
    """A deploy reads the generation from it."""
    said = cli.json("load", example, "--yes")

    assert set(said) == {"server", "changed", "generation", "digest", "identities", "removed"}
    assert said["changed"] is True
    assert said["generation"] == 1
    assert said["digest"] == cli.json("status")["policy"]["digest"]
    assert cli.json("load", example)["changed"] is False


def test_load_records_who_did_it(loaded: Cli, embedded: RealServer) -> None:
    """`--actor` reaches the active policy and the control stream."""
    assert loaded.json("status")["policy"]["by"] == "tester"
    client: Any = embedded.client()
    ((_, event),) = client.xrange("keyleash:control")
    assert event[b"actor"] == b"tester"
