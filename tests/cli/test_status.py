"""`keyleash status`: the active policy, identities and limits."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.addons.status.identities import limit_uses
from keyleash.cli.status import bar
from keyleash.commands import load_table
from keyleash.compiler import compile_policy
from keyleash.limits import LimitState, SlotKind
from keyleash.policy import parse_policy
from keyleash.store.state import IdentityState
from support.command_line import Cli
from support.replication import PATIENCE_S
from support.servers import RealServer
from support.terminals import on_a_terminal, read_until

POLICY = """\
version: 1
identities:
  one:
    kind: machine
    grants: [{allow: [read, write], keys: ["k:{part}"]}]
    rate:
      requests: 100/minute
      writes: {limit: 60/hour, burst: 5}
      reads: {limit: 9/minute, per: token}
    budget: {requests: 1000/day}
"""
MINUTE_US = 60_000_000
NOW_US = 1_700_000_000_000_000


def limits_of(output: dict[str, Any], identity: str) -> dict[str, Any]:
    (found,) = (item for item in output["identities"] if item["name"] == identity)
    return {item["name"]: item for item in found["limits"]}


def test_status_without_a_policy_notes_it(cli: Cli) -> None:
    """A new server is not an error."""
    result = cli.run("status")

    assert result.exit_code == 0
    assert "no policy is active" in result.stderr
    output = cli.json("status")
    assert (output["policy"], output["identities"]) == (None, [])


def test_status_shows_the_use_of_each_kind_of_limit(server: RealServer, policy: Path) -> None:
    """The packed state is read as the guard wrote it, on every server."""
    cli = Cli(server.url)
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    token = cli.token("one")
    for number in range(3):
        cli.ok("exec", "SET", "k:1", str(number), KEYLEASH_TOKEN=token)
    cli.ok("exec", "GET", "k:1", KEYLEASH_TOKEN=token)

    limits = limits_of(cli.json("status"), "one")

    assert limits["rate.requests"]["used"] == 4
    assert limits["budget.requests"]["used"] == 4
    assert limits["budget.requests"]["resets_at"].endswith("T00:00:00.000Z")
    assert 1 <= limits["rate.writes"]["used"] <= 3
    assert limits["rate.writes"]["of"] == 5
    assert limits["rate.reads"]["used"] is None
    assert limits["rate.reads"]["per"] == "token"


def test_status_shows_suspension_tokens_and_stream_lengths(loaded: Cli) -> None:
    """An incident starts with these."""
    token = loaded.token("agent-runner")
    revoked = loaded.json("token", "issue", "agent-runner")["id"]
    loaded.ok("token", "revoke", revoked)
    loaded.ok("exec", "SET", "agents:jobs:1:state", "x", KEYLEASH_TOKEN=token)
    loaded.run("exec", "GET", "elsewhere", KEYLEASH_TOKEN=token)
    loaded.ok("freeze", "agent-runner", "--reason", "x")

    (runner,) = (
        item for item in loaded.json("status")["identities"] if item["name"] == "agent-runner"
    )

    assert {name: runner[name] for name in ("kind", "active", "suspended")} == {
        "kind": "machine",
        "active": True,
        "suspended": True,
    }
    # With before-images an event has a second entry, of what it left.
    assert (runner["live_tokens"], runner["audit_length"], runner["denied_length"]) == (1, 2, 1)
    assert runner["events"] == 1
    assert runner["suspension"]["by"] == "tester"
    assert [(item["code"], item["count"]) for item in runner["denials"]] == [("KEY_NOT_GRANTED", 1)]
    assert "SUSPENDED" in loaded.ok("status")


def test_identity_without_a_state_is_not_active(loaded: Cli, embedded: RealServer) -> None:
    """After an eviction, every call is denied."""
    embedded.client().delete("keyleash:state:agent-runner")

    lines = [line for line in loaded.ok("status").splitlines() if "NO STATE" in line]

    assert [line.split()[0] for line in lines] == ["agent-runner"]


@pytest.fixture
def identity_and_slots() -> tuple[Any, dict[str, Any]]:
    table = load_table()
    policy = parse_policy(POLICY, file="policy.yaml", commands=table)
    (guard,) = compile_policy(policy, table)
    return policy.identities[0], {slot.name: slot for slot in guard.layout.slots}


def test_use_of_a_window_that_has_ended_is_zero(
    identity_and_slots: tuple[Any, dict[str, Any]],
) -> None:
    """The state still has the count of the last window."""
    identity, slots = identity_and_slots
    held = (
        LimitState(
            slots["rate.requests"], calls_us=(NOW_US - MINUTE_US, NOW_US - MINUTE_US + 1, NOW_US)
        ),
        LimitState(slots["rate.writes"], tat_us=NOW_US - 1),
        LimitState(slots["budget.requests"], ends_us=NOW_US, used=999),
    )

    uses = {use.name: use for use in limit_uses(identity, IdentityState(1, False, 0, held), NOW_US)}

    assert uses["budget.requests"].used == 0
    assert uses["budget.requests"].resets_ms is None
    assert uses["rate.writes"].used == 0
    assert uses["rate.requests"].used == 2


def test_use_of_a_rate_with_a_burst_is_the_used_burst(
    identity_and_slots: tuple[Any, dict[str, Any]],
) -> None:
    """GCRA stores one time; its distance ahead is the used burst."""
    identity, slots = identity_and_slots
    held = (LimitState(slots["rate.writes"], tat_us=NOW_US + 2 * MINUTE_US + 1),)

    uses = {use.name: use for use in limit_uses(identity, IdentityState(1, False, 0, held), NOW_US)}

    assert (uses["rate.writes"].used, uses["rate.writes"].of) == (3, 5)
    assert uses["rate.writes"].kind is SlotKind.GCRA
    assert uses["rate.writes"].allows == "60 an hour, 5 at once"


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, ""),
        (0.0, ".........."),
        (0.0099, ".........."),
        (0.01, "#........."),
        (0.5, "#####....."),
        (0.999, "#########."),
        (1.0, "##########"),
    ],
)
def test_bar_is_full_only_at_full_use(share: float | None, shown: str) -> None:
    """From 1 % on a use is visible, and the last free call is not rounded away."""
    assert bar(share).plain == shown


def test_oldest_token_overdue_for_rotation_is_marked(cli: Cli, policy: Path) -> None:
    """A deploy forgot to rotate it."""
    policy.write_text(POLICY + "    token: {rotate_after: 1s}\n")
    cli.ok("load", policy, "--yes")
    cli.token("one")
    first = cli.json("token", "list")["tokens"][0]["id"]
    # A time by which it is due, without waiting for it.
    known = json.loads(cli_admin(cli).hget("keyleash:tokens:one", first))
    known["issued_ms"] -= 60_000
    cli_admin(cli).hset("keyleash:tokens:one", first, json.dumps(known))
    cli.token("one")

    (identity,) = cli.json("status")["identities"]
    assert (identity["live_tokens"], identity["tokens_due"]) == (2, 1)
    assert (identity["oldest_token"]["id"], identity["oldest_token"]["due"]) == (first, True)
    assert "1m, due" in cli.ok("status")


def cli_admin(cli: Cli) -> Any:
    import redis

    return redis.Redis.from_url(cli.url)


def test_status_selects_sorts_and_limits_identities(
    cli: Cli, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many identities those that matter now, also in Python, as JSON and in a watch."""
    rules = "{kind: machine, grants: [{allow: [write], keys: ['k']}], budget: {requests: 4/day}}"
    names = [f"agent-{number}" for number in range(6)]
    items = "".join(f"  {name}: {rules}\n" for name in names)
    policy.write_text(f"version: 1\nidentities:\n{items}")
    cli.ok("load", policy, "--yes")
    for name, calls in (("agent-1", 2), ("agent-4", 4), ("agent-3", 1)):
        token = cli.token(name)
        for _ in range(calls):
            cli.ok("exec", "SET", "k", "x", KEYLEASH_TOKEN=token)
    for _ in range(2):
        cli.run("exec", "GET", "elsewhere", KEYLEASH_TOKEN=token)
    cli.ok("freeze", "agent-5", "--reason", "incident")

    def shown(*words: str) -> list[str]:
        return [item["name"] for item in cli.json("status", *words)["identities"]]

    assert shown() == names
    assert shown("agent-4", "agent-1") == ["agent-1", "agent-4"]
    assert shown("--only", "suspended") == ["agent-5"]
    assert shown("--only", "limited") == ["agent-4"]
    assert shown("--only", "denied") == ["agent-3"]
    assert shown("--only", "due") == []
    assert shown("--only", "tokens", "--sort", "limited") == ["agent-4", "agent-1", "agent-3"]
    assert shown("--sort", "denied", "--limit", "1") == ["agent-3"]
    text = cli.ok("status", "--only", "denied")
    assert "shown      1 of 6 identities; `--all` shows each\n" in text
    assert "denied     1+1 is 1 entry and 1 repeat of them\n" in text
    assert "agent-0" not in text
    none = cli.ok("status", "--only", "due")
    assert none.endswith("\n\nnone of 6 identities matches\n")
    monkeypatch.setenv("LINES", "40")
    assert "shown" not in cli.ok("status")
    monkeypatch.setenv("LINES", "14")
    screen = cli.ok("status")
    assert re.findall("^(agent-.)  +machine", screen, re.M) == ["agent-5", "agent-4"]
    assert "shown      2 of 6 identities; `--all` shows each\n" in screen
    assert screen.count("\n") == 13
    assert re.findall("^(agent-.)  +machine", cli.ok("status", "--all"), re.M) == names
    unknown = cli.run("status", "agent-9")
    assert (unknown.exit_code, "did you mean `agent-" in unknown.stderr) == (2, True)
    with keyleash.Operator.from_url(cli.url) as operator:
        assert [item.name for item in operator.status(sort="limited", limit=1).identities] == [
            "agent-4"
        ]
        with pytest.raises(ValueError, match="`only` and `sort` must be one of suspended, "):
            operator.status(only="nothing")
    with cli.spawn(["--json", "status", "--watch", "--only", "limited"]) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
    assert [item["name"] for item in line["identities"]] == ["agent-4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_in_a_pipe_prints_json_lines(loaded: Cli, number: signal.Signals) -> None:
    """On a signal, exit code 0."""
    with loaded.spawn(["status", "--watch", "--interval", "1s", "--json"]) as watching:
        assert watching.stdout is not None
        first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
        watching.send_signal(number)
        rest, errors = watching.communicate(timeout=PATIENCE_S)

    assert first["policy"] == second["policy"]
    assert first["at"] < second["at"]
    assert (errors, watching.returncode) == ("stopped\n", 0)
    assert all(json.loads(line) for line in rest.splitlines())


def test_watch_of_an_unreachable_server_is_an_error(offline: Cli) -> None:
    """Exit code 69, as without --watch; a running watch continues."""
    assert offline.run("status", "--watch").exit_code == 69


def test_watch_on_a_terminal_without_a_cursor_appends_snapshots(loaded: Cli) -> None:
    """Nothing is held back until the end."""
    dumb = Cli(loaded.url, {"TERM": "dumb"})
    with on_a_terminal(dumb, "status", "--watch", "--interval", "1s") as (process, terminal):
        read_until(terminal, "agent-recovery  budget.requests", times=2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_S) == 0


def test_watch_on_a_terminal_redraws(loaded: Cli) -> None:
    """In place, until a signal; then exit code 0."""
    with on_a_terminal(loaded, "status", "--watch", "--interval", "1s") as (process, terminal):
        output = read_until(terminal, "agent-recovery  budget.requests", times=2)
        process.send_signal(signal.SIGINT)
        read_until(terminal, "stopped")
        assert process.wait(timeout=PATIENCE_S) == 0

    assert "\x1b[1A" in output, "the cursor goes up"
    assert "end with Ctrl-C" in output


def test_limits_of_bytes_are_shown_with_their_unit(cli: Cli, tmp_path: Path) -> None:
    """By `status`, `whoami` and the report; programs get whole numbers and the unit."""
    file = tmp_path / "bytes.yaml"
    limits = "bytes_written: 1mb/day, bytes_read: 1mb/day"
    file.write_text(POLICY.replace("requests: 1000/day", limits))
    cli.ok("load", file, "--yes")
    token = cli.token("one")
    for _ in range(3):
        cli.ok("exec", "SET", "k:a", "x" * 509, KEYLEASH_TOKEN=token)

    assert "1.5kb/1mb" in cli.ok("status")
    limit = limits_of(cli.json("status"), "one")["budget.bytes_written"]
    assert (limit["used"], limit["of"], limit["unit"]) == (1536, 1 << 20, "bytes")
    assert limits_of(cli.json("status"), "one")["rate.writes"]["unit"] == "calls"
    cli.ok("exec", "GET", "k:absent", KEYLEASH_TOKEN=token)
    unused = limits_of(cli.json("status"), "one")["budget.bytes_read"]
    assert (unused["used"], unused["resets_at"]) == (0, None)
    assert "1022.5kb" in cli.ok("whoami", KEYLEASH_TOKEN=token)
    page = tmp_path / "report.html"
    cli.ok("audit", "report", "--since", "1h", "-o", page)
    assert '<td class="n">1.5kb</td><td class="n">1mb</td>' in page.read_text()
