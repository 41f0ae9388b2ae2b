"""Corrupt records that a fenced agent can write do not break any command.

It may write its own state, its tokens' records, and entries of its own audit streams: see
docs/how-to/fence.md.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.follow import follow_denials, follow_events
from keyleash.audit.read import Query
from keyleash.store.keyspace import Keyspace
from keyleash.store.store import Store
from keyleash.store.token import token_digest
from support.command_line import Cli
from support.servers import RealServer

RUNNER, OTHER = "agent-runner", "agent-recovery"
NAMES = Keyspace()
LONG, NAN, FOREVER = b"9" * 5000, float("nan"), "18446744073709551615-1"
EVENTS: tuple[tuple[Any, ...], ...] = (
    ("", ""),
    ("key", "alone"),
    ("of", "nothing", "error", "x", "after", "x"),
    ("seq", LONG, "SET", "k", "cost", LONG, "lengths", LONG),
    ("seq", "²", b"S\xff", "", "cost", "²,1w", "correlation", "\x1b[2J\n"),
    ("SET:2", "99999:k", "before", "k", "expires", LONG, "value", "x"),
    ("SET*2", b"\xdd\xff\xff\xff\xff\xa1k", "SET*2", b"\x92\xdb\xff\xff\xff\xffk", "before", "k"),
    ("SET", "k", "before", "k", "expires", "9" * 18, "image", b"\0\xff"),
)
LAST_EVENT, LAST_DENIAL = ("seq", "7", "SET", "k"), ("seq", "7", "op", "SET", "key", "k")
DENIALS: tuple[tuple[Any, ...], ...] = (
    ("", ""),
    ("code", "KEY_DENIED", "of", "nothing"),
    ("of", "nothing"),
    ("of", "1-1", "repeats", LONG),
    ("seq", LONG, "code", "KEY_DENIED"),
)
READING = (
    "audit log", "audit log --denied", "audit stats", "audit timeline k",
    "audit report --since 1h -o FOLDER/report.html", "audit export --to FOLDER/jsonl",
    "token list", "status",
)  # fmt: skip


@pytest.fixture
def forged(loaded: Cli, embedded: RealServer) -> Cli:
    """The example policy, of which one agent forged whatever it may write, and one is honest."""
    client = embedded.client()
    token = loaded.token(RUNNER)
    loaded.ok("exec", "SET", "agents:recovery:1", "x", KEYLEASH_TOKEN=loaded.token(OTHER))
    for stream, entries, last in (
        (NAMES.audit(RUNNER), EVENTS, LAST_EVENT),
        (NAMES.denied(RUNNER), DENIALS, LAST_DENIAL),
    ):
        for words in entries:
            client.execute_command("XADD", stream, "*", *words)
        client.execute_command("XADD", stream, FOREVER, *last)
    client.hset(NAMES.repeats(RUNNER), mapping={"id:x": "1-1", "x": LONG, "minute": "x"})
    client.setrange(NAMES.state(RUNNER), 16, struct.pack("<3d", NAN, float("inf"), -1e300))
    record = struct.pack("<ddB12s", NAN, 1e300, 0, b"\xff" * 12) + b"and more"
    client.setrange(NAMES.token(RUNNER, token_digest(token)), 0, record)
    return loaded


@pytest.mark.parametrize("words", READING)
def test_forged_entries_and_numbers_stop_no_tool(forged: Cli, tmp_path: Path, words: str) -> None:
    """Events of other identities are still shown."""
    result = forged.run(*words.replace("FOLDER", str(tmp_path)).split())

    assert result.exit_code == 0, result.output
    if words == "audit log":
        assert "agents:recovery:1" in result.output


def test_undo_of_an_honest_agent_is_planned_beside_forged_entries(forged: Cli) -> None:
    """A plan with conflicts is a plan; of events that are all made up there is none."""

    def undo(*of: str) -> dict[str, Any]:
        output = forged.run("--json", "undo", *of, "--since", "1h", "--dry-run").stdout
        plan: dict[str, Any] = json.loads(output)
        return plan

    for of in (("--identity", OTHER), ("--key", "agents:recovery:*")):
        assert undo(*of)["keys"]
    assert f"untrusted: 6 of `{RUNNER}`" in undo("--identity", RUNNER)["error"]["message"]


def test_forged_entries_are_followed(forged: Cli, embedded: RealServer) -> None:
    """All entries are printed, and the command then waits."""
    query, client = Query(since_ms=1), embedded.client()
    for follow, entries in ((follow_events, EVENTS), (follow_denials, DENIALS)):
        found = iter(follow(Store(client), lambda: [RUNNER], query))
        entries_read = list(iter(lambda found=found: next(found), None))  # type: ignore[misc]
        assert 0 < len(entries_read) <= len(entries) + 1


def test_policy_is_loaded_over_a_forged_state(forged: Cli, example: Path, policy: Path) -> None:
    """Its counts are migrated unchanged, or not at all."""
    policy.write_text(example.read_text().replace("50000/day", "40000/day"))

    forged.ok("load", policy, "--yes")

    assert forged.run("status").exit_code == 0


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (f"explain {RUNNER} PING", 1),
        (f"--json explain {RUNNER} PING", 1),
        (f"can-i {RUNNER} PING", 1),
        ("status", 0),
        ("--json status", 0),
        (f"freeze {RUNNER} --reason why --for 1h", 0),
        (f"--json freeze {RUNNER} --reason why --for 1h", 0),
        (f"thaw {RUNNER}", 0),
        ("audit log --denied", 0),
    ],
)
def test_suspension_of_hostile_bytes_stops_no_tool(
    loaded: Cli, embedded: RealServer, words: str, exit_code: int
) -> None:
    """An agent with a circuit breaker can write the reason and end of its suspension."""
    client = embedded.client()
    token = loaded.token(RUNNER)
    wrong: dict[Any, Any] = {
        "reason": b"\xff\xfe \0",
        "by": b"\xfd",
        "since_ms": LONG,
        "until_ms": LONG,
    }
    client.hset(NAMES.suspension(RUNNER), mapping=wrong)
    client.setrange(NAMES.state(RUNNER), 8, struct.pack("<d", 2.0**51))
    loaded.run("exec", "PING", KEYLEASH_TOKEN=token)

    result = loaded.run(*words.split())

    assert result.exit_code == exit_code, result.output
    if "explain" in words:
        assert "SUSPENDED" in result.output


@pytest.mark.parametrize("form", ["", "--json "])
@pytest.mark.parametrize("place", [24, 32, 40])
def test_corrupt_counter_is_explained(
    loaded: Cli, embedded: RealServer, form: str, place: int
) -> None:
    """The explanation has the code of the guard, and no time of a reset."""
    embedded.client().setrange(NAMES.state(RUNNER), place, struct.pack("<d", NAN))
    call = ("SET", "agents:jobs:7:state", "x")

    result = loaded.run(*form.split(), "explain", RUNNER, "--", *call)
    answer = loaded.run("exec", *call, KEYLEASH_TOKEN=loaded.token(RUNNER))

    assert (result.exit_code, answer.exit_code) == (1, 1)
    assert "COUNTER_CORRUPT" in result.output
    assert "COUNTER_CORRUPT" in answer.output
    assert "9999" not in result.output
    holder = loaded.run(*form.split(), "whoami", KEYLEASH_TOKEN=loaded.token(RUNNER))
    assert holder.exit_code == 0
    assert "9999" not in holder.output
    assert loaded.run("status").exit_code == 0


def test_short_record_of_a_token_stops_no_tool(loaded: Cli, embedded: RealServer) -> None:
    """An agent can create the record of an expired token."""
    token = loaded.token(RUNNER)
    embedded.client().set(NAMES.token(RUNNER, token_digest(token)), b"x")

    for words in ("token list", "status", f"token rotate {RUNNER}", f"token revoke {RUNNER}"):
        result = loaded.run(*words.split())
        assert result.exit_code in (0, 1, 2), result.output
        assert "Traceback" not in result.output
