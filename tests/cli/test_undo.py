"""`keyleash undo` and `keyleash audit as-of`."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from keyleash.cli.render import table
from keyleash.text import iso_time, json_bytes, printable
from support.command_line import Cli
from support.scribe import Scribe
from support.servers import RealServer

STATE = "agents:jobs:1:state"
RESULT = "agents:jobs:1:result"


def document(runner: str = "agents:jobs:*", **audit: Any) -> str:
    images = {"before_images": {"max_bytes": "64kb"}, **audit}
    classes = ["read", "write", "delete"]
    return json.dumps(
        {
            "version": 1,
            "defaults": {"audit": images},
            "identities": {
                "runner": {"kind": "machine", "grants": [{"allow": classes, "keys": [runner]}]},
                "other": {"kind": "machine", "grants": [{"allow": classes, "keys": ["*"]}]},
            },
        }
    )


class Agents:
    """Two identities with before-images that run commands."""

    def __init__(self, cli: Cli, policy: Path) -> None:
        self.cli, self.policy = cli, policy
        self.load(document())
        self.tokens = {name: cli.token(name) for name in ("runner", "other")}

    def load(self, text: str) -> None:
        self.policy.write_text(text)
        self.cli.ok("load", self.policy, "--yes", "--allow-widening")

    def run(self, identity: str, correlation: str, *words: str) -> None:
        token = self.tokens[identity]
        self.cli.ok("exec", "--correlation", correlation, *words, KEYLEASH_TOKEN=token)


def now(client: Any) -> str:
    """Return server time after all commands so far."""
    time.sleep(0.002)
    seconds, micros = client.time()
    return iso_time(int(seconds) * 1000 + int(micros) // 1000)


@pytest.fixture
def agents(cli: Cli, policy: Path) -> Agents:
    return Agents(cli, policy)


@pytest.fixture
def admin(embedded: RealServer) -> Any:
    return embedded.client(decode_responses=True)


def test_undo_prints_its_plan_and_the_command_that_reverts_it(
    cli: Cli, agents: Agents, admin: Any
) -> None:
    """It prints a table of values, a summary, and the command that reverts the undo."""
    agents.run("runner", "before", "SET", STATE, "queued")
    agents.run("runner", "req-1", "SET", STATE, "broken")
    agents.run("runner", "req-1", "HSET", RESULT, "code", "7")

    done = cli.run("undo", "--correlation", "req-1", "--yes")

    assert done.exit_code == 0
    header, first, second = done.stdout.splitlines()
    assert header.split() == ["key", "identity", "action", "before", "now"]
    assert first.split("  ")[0] == RESULT
    assert "remove" in first
    assert "absent" in first
    assert "hash {code: 7}" in first
    assert 'string "queued"' in second
    assert 'string "broken"' in second
    assert admin.get(STATE) == "queued"
    assert not admin.exists(RESULT)
    revert = done.stderr.splitlines()[-1].split("keyleash ")[1].split()
    cli.ok(*revert, "--yes")
    assert admin.get(STATE) == "broken"


def test_dry_run_changes_nothing(cli: Cli, agents: Agents, admin: Any) -> None:
    """It prints the plan and needs no confirmation."""
    agents.run("runner", "req-1", "SET", STATE, "x")

    shown = cli.ok("undo", "--correlation", "req-1", "--dry-run")

    assert STATE in shown
    assert admin.get(STATE) == "x"
    assert admin.xlen("keyleash:audit:@operators") == 0


def test_conflict_names_the_change_by_another_identity(
    cli: Cli, agents: Agents, admin: Any
) -> None:
    """Identity, token, command, time and event."""
    agents.run("runner", "req-1", "SET", STATE, "x")
    agents.run("runner", "req-1", "SET", RESULT, "x")
    agents.run("other", "req-2", "SET", STATE, "y")

    for options in (["--dry-run"], ["--yes"]):
        denied = cli.run("undo", "--correlation", "req-1", *options)
        assert denied.exit_code == 1
        assert f"conflict: `{STATE}` changed since by `other`: SET at 20" in denied.stdout
        assert "token " in denied.stdout
        assert "correlation req-2" in denied.stdout
        assert "cannot restore 1 of 2 keys" in denied.stderr
        assert "--force KEY" in denied.stderr
        words = ("undo", "--correlation", "req-1", "--skip-conflicts", "--skip", RESULT, *options)
        skipped = cli.run(*words)
        assert skipped.exit_code == 1
        assert f"conflict: `{STATE}` changed since by `other`: SET at 20" in skipped.stdout
        assert ("error: every key is left out" in skipped.stderr) == (options == ["--yes"])

    assert admin.mget(STATE, RESULT) == ["y", "x"]
    cli.ok("undo", "--correlation", "req-1", "--force", STATE, "--yes")
    assert admin.mget(STATE, RESULT) == [None, None]


def test_second_undo_reports_the_first(cli: Cli, agents: Agents) -> None:
    """The keys have their previous values already, which is not a change by others."""
    agents.run("runner", "req-1", "SET", STATE, "x")
    undone = cli.json("undo", "--correlation", "req-1", "--yes")["undone"]["correlation"]

    again = cli.run("undo", "--correlation", "req-1", "--yes")

    assert again.exit_code == 1
    assert f"note: `{STATE}` was already undone by {undone}\n" in again.stdout
    assert re.search(rf"{STATE} +runner +already undone", again.stdout)
    assert "error: every key already has its value from before these events" in again.stderr


def test_plan_as_json_has_keys_conflicts_and_result(cli: Cli, agents: Agents) -> None:
    """It is one document, also if the undo is blocked."""
    agents.run("runner", "req-1", "SET", STATE, "x")
    agents.run("other", "req-2", "SET", STATE, "y")

    denied = cli.json("undo", "--correlation", "req-1", "--yes", exit_code=1)
    done = cli.json("undo", "--correlation", "req-1", "--yes", "--force", STATE)

    assert (denied["blocked"], denied["undone"]) == (1, None)
    (conflict,) = denied["keys"][0]["conflicts"]
    assert (conflict["kind"], conflict["by"][0]["identity"]) == ("changed", "other")
    assert denied["keys"][0]["before"] == {"exists": False}
    assert done["keys"][0]["conflicts"][0]["forced"]
    assert done["undone"]["removed"] == 1
    assert done["undone"]["events"][0].startswith("@operators/")


def test_undo_of_a_change_no_longer_granted_is_a_conflict(
    cli: Cli, agents: Agents, admin: Any
) -> None:
    """Access removed on purpose does not return by an undo."""
    agents.run("runner", "req-1", "SET", STATE, "x")
    agents.load(document(runner="elsewhere:*"))

    denied = cli.run("undo", "--correlation", "req-1", "--yes")

    assert denied.exit_code == 1
    assert "the active policy no longer lets `runner` change it" in denied.stdout
    assert re.search(rf"{STATE} +runner +conflict", denied.stdout)
    assert "`--across-policies` overrides" in denied.stderr
    assert admin.get(STATE) == "x"
    cli.ok("undo", "--correlation", "req-1", "--across-policies", "--yes")
    assert not admin.exists(STATE)


def test_key_without_a_before_image_can_only_be_skipped(
    cli: Cli, agents: Agents, admin: Any
) -> None:
    """`--force` cannot restore an unknown value."""
    agents.load(document(before_images="off"))
    agents.run("runner", "req-1", "SET", STATE, "x")
    agents.load(document())
    agents.run("runner", "req-1", "SET", RESULT, "x")

    denied = cli.run("undo", "--correlation", "req-1", "--force", STATE, "--yes")

    assert denied.exit_code == 1
    plan = cli.json("undo", "--correlation", "req-1", "--dry-run", exit_code=1)
    assert {item["action"] for item in plan["keys"] if item["blocked"]} == {"blocked"}
    reason = " ".join(denied.stdout.split())
    assert f"nothing to restore: `{STATE}`: event runner/" in reason
    assert "`before_images` was off for it" in reason
    assert "conflict:" not in denied.output
    assert "--force" not in denied.output
    assert "help: `--skip KEY` leaves a key out, `--skip-conflicts` all with conflicts; with" in (
        denied.stderr
    )
    cli.ok("undo", "--correlation", "req-1", "--skip", STATE, "--yes")
    assert admin.mget(STATE, RESULT) == ["x", None]


def test_undo_without_a_terminal_and_consent_changes_nothing(
    cli: Cli, agents: Agents, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of no changes nothing either."""
    agents.run("runner", "req-1", "SET", STATE, "x")

    denied = cli.run("undo", "--correlation", "req-1")
    assert denied.exit_code == 2
    assert "--yes" in denied.stderr
    monkeypatch.setattr("keyleash.cli.options.sys", Mock())
    monkeypatch.setattr("click.confirm", lambda _question, err: False)
    declined = cli.run("undo", "--correlation", "req-1")

    assert (declined.exit_code, "nothing was undone" in declined.stderr) == (1, True)
    assert admin.get(STATE) == "x"


def test_undo_by_identity_or_key_since_a_time_restores_matching_keys(
    cli: Cli, agents: Agents, admin: Any
) -> None:
    """Other keys of the same events are reported."""
    agents.run("runner", "req-1", "MSET", STATE, "x", RESULT, "x")

    by_key = cli.run("undo", "--key", "agents:jobs:{id}:state", "--since", "10m", "--yes")
    assert by_key.exit_code == 0
    assert f"note: the same events changed `{RESULT}` too" in by_key.stderr
    assert admin.mget(STATE, RESULT) == [None, "x"]
    cli.ok("undo", "--identity", "runner", "--since", "10m", "--force", STATE, "--yes")

    assert admin.mget(STATE, RESULT) == [None, None]


def test_key_that_is_not_utf8_can_be_named_as_printed(
    cli: Cli, agents: Agents, embedded: RealServer
) -> None:
    """The escaped key can be copied from the table; JSON has base64."""
    client = embedded.client()
    Scribe(client).run("other", "SET", b"k\xff\n", b"\xff")
    client.set(b"k\xff\n", b"\x1b[2J")

    shown = cli.run("undo", "--correlation", "c", "--dry-run").stdout
    plan = cli.json("undo", "--correlation", "c", "--dry-run", exit_code=1)

    assert r"k\xff\n" in shown
    assert r'string "\x1b[2J"' in shown
    assert plan["keys"][0]["key"] == {"base64": "a/8K"}
    cli.ok("undo", "--correlation", "c", "--force", r"k\xff\n", "--yes")
    assert not client.exists(b"k\xff\n")


def test_escaped_key_names_the_key_unless_it_exists_literally(
    cli: Cli, agents: Agents, embedded: RealServer
) -> None:
    """Some bytes cannot be typed, and NUL cannot be an argument."""
    client = embedded.client()
    odd = b"k\xff\x00 \n\x1b\xe2\x80\xae"
    Scribe(client).run("other", "SET", odd, "1")
    Scribe(client).run("other", "SET", b"k\n", "2")

    assert cli.lines("audit", "timeline", printable(odd))[0]["keys"] == [json_bytes(odd)]
    assert cli.ok("audit", "as-of", now(client), printable(odd)) == "1\n"
    assert cli.ok("audit", "as-of", now(client), r"k\n") == "2\n"

    Scribe(client).run("other", "SET", rb"k\n", "3")

    assert cli.ok("audit", "as-of", now(client), r"k\n") == "3\n"
    client.delete(rb"k\n")
    assert len(cli.lines("audit", "timeline", r"k\n")) == 1


def test_forced_key_without_conflicts_is_undone(cli: Cli, agents: Agents, admin: Any) -> None:
    """`--force` accepts every key of the plan."""
    agents.run("runner", "req-1", "SET", STATE, "x")

    cli.ok("undo", "--correlation", "req-1", "--force", STATE, "--yes")

    assert not admin.exists(STATE)


def test_as_of_prints_only_the_value_to_standard_output(
    cli: Cli, agents: Agents, admin: Any
) -> None:
    """The source of the value goes to standard error."""
    agents.run("runner", "req-1", "HSET", STATE, "phase", "2", "owner", "x")
    moment = now(admin)
    time.sleep(0.002)
    agents.run("runner", "req-1", "DEL", STATE)

    result = cli.run("audit", "as-of", moment, STATE)
    value = cli.json("audit", "as-of", moment, STATE)

    assert result.stdout.splitlines() == ["phase: 2", "owner: x"]
    assert "until event runner/" in result.stderr
    assert (value["exists"], value["type"], value["compared"]) == (True, "hash", True)
    assert value["value"][1] == {"field": "owner", "value": "x", "expires_at": None}
    assert cli.json("audit", "as-of", "1h", RESULT)["exists"] is False
    assert "a hash of 2 elements; until" in result.stderr
    assert "did not exist" in cli.run("audit", "as-of", "1h", RESULT).stderr


def test_as_of_an_unknown_value_exits_with_1(cli: Cli, agents: Agents) -> None:
    """The message has the reason."""
    agents.load(document(before_images="off"))
    agents.run("runner", "req-1", "SET", STATE, "x")

    result = cli.run("audit", "as-of", "1h", STATE)

    assert result.exit_code == 1
    assert "no before-image was taken" in result.stderr


def test_undo_of_many_keys_shows_a_summary_with_conflicts_by_reason(
    cli: Cli, agents: Agents, admin: Any
) -> None:
    """5,000 rows would hide the conflicts; `--full` shows them."""
    keys = [f"agents:jobs:{number:03}:state" for number in range(60)]
    agents.run("runner", "many", "MSET", *(word for key in keys for word in (key, "x")))
    agents.run("other", "c", "MSET", *(word for key in keys[:9] for word in (key, "y")))
    admin.mset(dict.fromkeys(keys[9:11], "z"))

    shown = cli.run("undo", "--correlation", "many", "--dry-run")
    full = cli.run("undo", "--correlation", "many", "--dry-run", "--full")

    assert shown.exit_code == 1
    rows = shown.stdout.splitlines()
    assert rows[0].split() == ["key", "identity", "action"]
    assert {re.sub(r"^\S+ +", "", row) for row in rows[1:3]} == {
        "and 48 more  runner    remove", "and 10 more  runner    conflict",
    }  # fmt: skip
    assert len(rows) == 7
    assert rows[3].startswith("conflict: `agents:jobs:000:state` changed since by `other`: MSET at")
    assert (
        rows[4]
        == "  the same kind, at 8 other keys: "
        + ", ".join(f"`{key}`" for key in keys[1:6])
        + " and 3 more"
    )
    assert [row.partition(" changed")[0] for row in rows[5:]] == [
        f"conflict: `{key}`" for key in keys[9:11]
    ]
    assert "note: a summary, since there are many keys; `--full` shows each\n" in shown.stderr
    assert len(full.stdout.splitlines()) == 1 + 60 + 11


@pytest.mark.parametrize(
    "options",
    [
        ["--skip-conflicts"],
        ["--skip", "agents:jobs:{id}:state"],
        ["--skip", "agents:jobs:1:state", "--skip", "agents:jobs:2:s*"],
        ["--skip-from", "-"],
    ],
)
def test_conflicts_are_skipped_by_one_option_by_pattern_and_by_file(
    cli: Cli, agents: Agents, admin: Any, options: list[str]
) -> None:
    """The other keys are restored."""
    keys = ["agents:jobs:1:state", "agents:jobs:2:state"]
    agents.run("runner", "c", "MSET", keys[0], "x", keys[1], "x", RESULT, "x")
    agents.run("other", "d", "MSET", keys[0], "y", keys[1], "y")

    done = cli.run(
        "undo", "--correlation", "c", *options, "--yes", stdin="agents:jobs:1:state\n\n*:2:*\n"
    )
    if options == ["--skip-from", "-"]:
        assert (done.exit_code, "`*:2:*` is not a key of this undo" in done.stderr) == (2, True)
        done = cli.run(
            "undo", "--correlation", "c", *options, "--yes", stdin="\n".join(["# a comment", *keys])
        )

    assert (done.exit_code, "1 key removed; 2 keys left out" in done.stderr) == (0, True), (
        done.output
    )
    assert admin.mget(*keys, RESULT) == ["y", "y", None]
    again = cli.run("undo", "--correlation", "c", *options, "--yes", stdin="\n".join(keys))
    assert "every key that is not left out already has its value" in again.stderr


def test_undo_of_several_identities_names_them_and_asks(
    cli: Cli, agents: Agents, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent may name its calls after another's run, which then is not undone unseen."""
    agents.run("runner", "run-7", "SET", STATE, "x")
    agents.run("other", "run-7", "SET", "elsewhere", "y")
    questions: list[str] = []

    denied = cli.run("undo", "--correlation", "run-7", "--yes")

    assert (denied.exit_code, denied.stdout.count("  other  ")) == (2, 1)
    assert "these are changes by `other`, `runner`" in denied.stderr
    with monkeypatch.context() as patch:
        patch.setattr("keyleash.cli.options.sys", Mock())
        patch.setattr("click.confirm", lambda text, err: questions.append(text))
        cli.run("undo", "--correlation", "run-7")
    assert questions[0].startswith("change 2 keys, by `other`, `runner`, on redis://")
    assert admin.mget(STATE, "elsewhere") == ["x", "y"]

    cli.ok("undo", "--correlation", "run-7", "--identity", "runner", "--since", "1h", "--yes")
    assert admin.mget(STATE, "elsewhere") == [None, "y"]
    cli.ok("undo", "--correlation", "run-7", "--all-identities", "--force", STATE, "--yes")
    assert admin.mget(STATE, "elsewhere") == [None, None]


def test_plan_on_a_narrow_terminal_folds(
    cli: Cli, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text is cut off."""
    monkeypatch.setattr(table, "is_terminal", lambda: True)
    agents.run("runner", "req-1", "SET", STATE, "word " * 20)

    shown = cli.run("undo", "--correlation", "req-1", "--dry-run", COLUMNS="60").stdout

    assert max(map(len, shown.splitlines())) <= 60
