"""`keyleash rollback` and `keyleash policy`: earlier policies, kept and made active again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.command_line import Cli
from support.servers import RealServer

OPTIONS = {"transport": ["--transport", "function"], "state": []}


def variant(example: Path, policy: Path, rate: int) -> Path:
    """The example with another rate for agent-reader."""
    policy.write_text(example.read_text().replace("3000/minute", f"{rate}/minute"))
    return policy


def test_rollback_makes_the_policy_before_the_active_one_and_keeps_what_was_counted(
    server: RealServer, example: Path, policy: Path
) -> None:
    """On every kind of server, with a generation of its own."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    first = cli.json("status")["policy"]["digest"]
    cli.ok("load", variant(example, policy, 2000), "--yes")
    token = cli.token("agent-reader")
    cli.ok("exec", "GET", "agents:context:a", KEYLEASH_TOKEN=token)

    said = cli.json("rollback", "--yes", "--allow-widening")

    assert (said["generation"], said["digest"]) == (3, first)
    assert said["plan"]["widens"] is True
    cli.ok("exec", "GET", "agents:context:a", KEYLEASH_TOKEN=token)
    (reader,) = (
        item for item in cli.json("status")["identities"] if item["name"] == "agent-reader"
    )
    assert [limit["used"] for limit in reader["limits"]] == [2, 2]


def test_second_rollback_takes_the_first_one_back(loaded: Cli, example: Path, policy: Path) -> None:
    """As `kubectl rollout undo` does."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    second = loaded.json("status")["policy"]["digest"]

    loaded.ok("rollback", "--yes", "--allow-widening")
    loaded.ok("rollback", "--yes")

    assert loaded.json("status")["policy"]["digest"] == second


@pytest.mark.parametrize("mended", OPTIONS)
def test_rollback_goes_past_a_load_that_only_made_guards_anew(
    loaded: Cli, example: Path, policy: Path, embedded: RealServer, mended: str
) -> None:
    """The policy before is another one, however often this one was loaded."""
    first = loaded.json("status")["policy"]["digest"]
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    if mended == "state":
        client: Any = embedded.client()
        client.delete("keyleash:state:agent-reader")
    loaded.ok("load", policy, "--yes", *OPTIONS[mended])
    assert loaded.lines("policy", "history")[0]["from"] == first

    said = loaded.json("rollback", "--yes", "--allow-widening")

    assert (said["changed"], said["digest"]) == (True, first)


def test_rollback_that_widens_needs_the_same_consent_as_a_load(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """What was narrowed in an incident must not come back by a habit."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")

    refused = loaded.run("rollback", "--yes")

    assert refused.exit_code == 1
    assert "rate.requests 2000/minute → 3000/minute   [widens]" in refused.stderr
    assert loaded.json("status")["policy"]["generation"] == 2


def test_rollback_to_an_unknown_digest_lists_those_that_are_known(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """And changes nothing; a digest too short to be sure of is unknown too."""
    first = loaded.json("status")["policy"]["digest"]
    loaded.ok("load", variant(example, policy, 2000), "--yes")

    for digest in ("0123456789ab", first[:5]):
        result = loaded.run("rollback", "--to", digest, "--yes")

        assert result.exit_code == 2
        assert f"`{first[:12]}` (generation 1, " in result.stderr
        assert loaded.json("status")["policy"]["generation"] == 2


def test_rollback_names_a_policy_by_its_first_digits(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """Of any that is kept."""
    first = loaded.json("status")["policy"]["digest"]
    for rate in (2000, 1000):
        loaded.ok("load", variant(example, policy, rate), "--yes")

    loaded.ok("rollback", "--to", first[:8], "--yes", "--allow-widening")

    assert loaded.json("status")["policy"]["digest"] == first


def test_rollback_without_an_earlier_policy_says_so(loaded: Cli, cli: Cli) -> None:
    """There is nothing to go back to."""
    result = loaded.run("rollback", "--yes")

    assert result.exit_code == 1
    assert "not kept here" in result.stderr


def test_history_lists_each_policy_once_as_it_last_was_active(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """The newest first, with who activated it, and what it replaced."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    loaded.ok("rollback", "--yes", "--allow-widening")

    first, second = loaded.lines("policy", "history")

    assert (first["generation"], first["active"], first["by"]) == (3, True, "tester")
    assert (second["generation"], second["active"]) == (2, False)
    assert first["from"] == second["digest"]
    assert second["from"] == first["digest"]
    table = loaded.ok("policy", "history")
    assert table.splitlines()[1].endswith("active")


def test_twenty_policies_are_kept(
    loaded: Cli, example: Path, policy: Path, embedded: RealServer
) -> None:
    """With the oldest one goes its document, so that the server does not fill up."""
    for rate in range(2999, 2977, -1):
        loaded.ok("load", variant(example, policy, rate), "--yes")

    kept = loaded.lines("policy", "history")

    assert [item["generation"] for item in kept] == [*range(23, 3, -1)]
    client: Any = embedded.client()
    assert len(client.keys("keyleash:policy:*")) == 20
    assert not client.keys("keyleash:staged:*")
    assert all(client.pttl(key) == -1 for key in client.keys("keyleash:policy:*"))


def test_policy_show_prints_the_document_as_it_was_loaded(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """To the byte, comments and all: a lost file comes back."""
    first = loaded.json("status")["policy"]["digest"]
    loaded.ok("load", variant(example, policy, 2000), "--yes")

    assert loaded.ok("policy", "show") == policy.read_text()
    assert loaded.ok("policy", "show", "--digest", first[:10]) == example.read_text()
    assert loaded.json("policy", "show")["document"] == policy.read_text()
    assert loaded.run("policy", "show", "--digest", "ffffffff").exit_code == 2


def test_control_stream_says_what_was_planned(loaded: Cli, example: Path, policy: Path) -> None:
    """Who looks later sees what whoever activated it was shown."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    loaded.ok("rollback", "--yes", "--allow-widening")

    events = [
        line for line in loaded.lines("audit", "log", "--control") if line["event"] == "activate"
    ]

    plans = [json.loads(event["details"]["plan"]) for event in events]
    assert {"changed": ["agent-reader"], "widened": ["agent-reader"]} in plans
    assert {"changed": ["agent-reader"], "narrowed": ["agent-reader"]} in plans


def test_rollback_that_removes_needs_the_same_consent_as_a_load(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """To go back takes away who came since."""
    text = example.read_text()
    policy.write_text(text[: text.index("  human-admin:")])
    loaded.ok("load", policy, "--yes", "--allow-removal")
    loaded.ok("load", example, "--yes", "--allow-widening")

    denied = loaded.run("rollback", "--yes")

    assert denied.exit_code == 1
    assert denied.stderr.endswith(
        "removes 1 identity: human-admin\nhelp: pass `--allow-removal` to confirm,"
        " or leave out `--yes` to see the plan and be asked\n"
    )
    assert loaded.json("status")["policy"]["generation"] == 3
    assert loaded.json("rollback", "--yes", "--allow-removal")["removed"] == ["human-admin"]
