"""`keyleash rollback` and `keyleash policy`: the stored policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.command_line import Cli
from support.servers import RealServer


def variant(example: Path, policy: Path, rate: int) -> Path:
    """Write the example with another rate for agent-reader."""
    policy.write_text(example.read_text().replace("3000/minute", f"{rate}/minute"))
    return policy


def test_rollback_activates_the_previous_policy_and_preserves_counters(
    server: RealServer, example: Path, policy: Path
) -> None:
    """A rollback is a load with a generation of its own."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    first = cli.json("status")["policy"]["digest"]
    cli.ok("load", variant(example, policy, 2000), "--yes")
    token = cli.token("agent-reader")
    cli.ok("exec", "GET", "agents:context:a", KEYLEASH_TOKEN=token)

    result = cli.json("rollback", "--yes", "--allow-widening")

    assert (result["generation"], result["digest"]) == (3, first)
    assert result["plan"]["widens"] is True
    cli.ok("exec", "GET", "agents:context:a", KEYLEASH_TOKEN=token)
    (reader,) = (
        item for item in cli.json("status")["identities"] if item["name"] == "agent-reader"
    )
    assert [limit["used"] for limit in reader["limits"]] == [2, 2]


def test_second_rollback_reverts_the_first(loaded: Cli, example: Path, policy: Path) -> None:
    """As `kubectl rollout undo` does."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    second = loaded.json("status")["policy"]["digest"]

    loaded.ok("rollback", "--yes", "--allow-widening")
    loaded.ok("rollback", "--yes")

    assert loaded.json("status")["policy"]["digest"] == second


def test_rollback_skips_a_load_of_the_same_policy(
    loaded: Cli, example: Path, policy: Path, embedded: RealServer
) -> None:
    """The previous policy has another digest, even if the active one was recompiled."""
    first = loaded.json("status")["policy"]["digest"]
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    client: Any = embedded.client()
    client.delete("keyleash:state:agent-reader")
    loaded.ok("load", policy, "--yes")
    assert loaded.lines("policy", "history")[0]["from"] == first

    result = loaded.json("rollback", "--yes", "--allow-widening")

    assert (result["changed"], result["digest"]) == (True, first)


def test_rollback_that_widens_needs_allow_widening(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """Access that was narrowed in an incident does not return by accident."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")

    denied = loaded.run("rollback", "--yes")

    assert denied.exit_code == 1
    assert "rate.requests 2000 a minute → 3000 a minute   [widens]" in denied.stderr
    assert loaded.json("status")["policy"]["generation"] == 2


def test_rollback_to_an_unknown_digest_lists_the_stored_ones(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """A digest that is too short is unknown as well."""
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
    """Any stored policy can be selected."""
    first = loaded.json("status")["policy"]["digest"]
    for rate in (2000, 1000):
        loaded.ok("load", variant(example, policy, rate), "--yes")

    loaded.ok("rollback", "--to", first[:8], "--yes", "--allow-widening")

    assert loaded.json("status")["policy"]["digest"] == first


def test_rollback_without_an_earlier_policy_fails(loaded: Cli, cli: Cli) -> None:
    """The error says that it is the first."""
    result = loaded.run("rollback", "--yes")

    assert result.exit_code == 1
    assert "no other policy was active before generation 1" in result.stderr


def test_history_lists_each_policy_once_with_its_last_activation(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """Newest first, with the operator and the replaced policy."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    loaded.ok("rollback", "--yes", "--allow-widening")

    first, second = loaded.lines("policy", "history")

    assert (first["generation"], first["active"], first["by"]) == (3, True, "tester")
    assert (second["generation"], second["active"]) == (2, False)
    assert first["from"] == second["digest"]
    assert second["from"] == first["digest"]
    table = loaded.ok("policy", "history")
    assert table.splitlines()[1].endswith("active")


def test_history_stores_twenty_policies(
    loaded: Cli, example: Path, policy: Path, embedded: RealServer
) -> None:
    """Older documents are deleted, so memory is bounded."""
    for rate in range(2999, 2977, -1):
        loaded.ok("load", variant(example, policy, rate), "--yes")

    stored = loaded.lines("policy", "history")

    assert [item["generation"] for item in stored] == [*range(23, 3, -1)]
    client: Any = embedded.client()
    assert len(client.keys("keyleash:policy:*")) == 20
    assert not client.keys("keyleash:staged:*")
    assert all(client.pttl(key) == -1 for key in client.keys("keyleash:policy:*"))


def test_policy_show_prints_the_loaded_document(loaded: Cli, example: Path, policy: Path) -> None:
    """The output equals the file, with comments, so it restores a lost file."""
    first = loaded.json("status")["policy"]["digest"]
    loaded.ok("load", variant(example, policy, 2000), "--yes")

    assert loaded.ok("policy", "show") == policy.read_text()
    assert loaded.ok("policy", "show", "--digest", first[:10]) == example.read_text()
    assert loaded.json("policy", "show")["document"] == policy.read_text()
    assert loaded.run("policy", "show", "--digest", "ffffffff").exit_code == 2


def test_control_stream_has_the_plan_of_each_activation(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """A later review sees what the operator saw."""
    loaded.ok("load", variant(example, policy, 2000), "--yes")
    loaded.ok("rollback", "--yes", "--allow-widening")

    events = [
        line for line in loaded.lines("audit", "log", "--control") if line["event"] == "activate"
    ]

    plans = [json.loads(event["details"]["plan"]) for event in events]
    assert {"changed": ["agent-reader"], "widened": ["agent-reader"]} in plans
    assert {"changed": ["agent-reader"], "narrowed": ["agent-reader"]} in plans


def test_rollback_that_removes_needs_allow_removal(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """A rollback removes identities that were added since."""
    text = example.read_text()
    policy.write_text(text[: text.index("  human-admin:")])
    loaded.ok("load", policy, "--yes", "--allow-removal")
    loaded.ok("load", example, "--yes", "--allow-widening")

    denied = loaded.run("rollback", "--yes")

    assert denied.exit_code == 1
    assert denied.stderr.endswith("removes 1 identity: human-admin\nhelp: pass `--allow-removal`\n")
    assert loaded.json("status")["policy"]["generation"] == 3
    assert loaded.json("rollback", "--yes", "--allow-removal")["removed"] == ["human-admin"]
