"""`keyleash audit log`: text and JSON."""

from __future__ import annotations

import re

import pytest

from keyleash.cli.render import audit, table
from support.command_line import Cli
from support.servers import RealServer

COLUMNS = ["time", "identity", "token", "op", "key", "result", "correlation", "event"]


@pytest.fixture
def busy(loaded: Cli) -> Cli:
    """A server on which two identities ran commands; one failed and one was denied."""
    runner, admin = loaded.token("agent-runner"), loaded.token("human-admin")
    state = "agents:jobs:1:state"
    loaded.ok("exec", "--correlation", "c-1", "SET", state, "x", KEYLEASH_TOKEN=runner)
    loaded.ok("exec", "--correlation", "c-2", "MSET", "a b", "1", "c", "2", KEYLEASH_TOKEN=admin)
    loaded.run("exec", "--correlation", "c-3", "LPUSH", state, "y", KEYLEASH_TOKEN=runner)
    loaded.run("exec", "--correlation", "c-4", "GET", "elsewhere", KEYLEASH_TOKEN=runner)
    return loaded


def test_log_of_all_identities_is_sorted_by_time(busy: Cli) -> None:
    """The oldest entry comes first, and a failed command is one line with its error."""
    lines = busy.ok("audit", "log").splitlines()

    assert lines[0].split() == COLUMNS
    assert [line.split()[-2] for line in lines[1:]] == ["c-1", "c-2", "c-3"]
    assert [line.split()[1] for line in lines[1:]] == [
        "agent-runner",
        "human-admin",
        "agent-runner",
    ]
    assert "  ok  " in lines[1]
    assert r"a\x20b c" in lines[2]
    assert "WRONGTYPE" in lines[3]


def test_log_as_json_has_keys_and_error_as_fields(busy: Cli) -> None:
    """Programs need not parse text."""
    first, second, third = busy.lines("audit", "log")

    assert set(first) == {
        *("kind", "id", "time", "identity", "seq", "token", "op", "keys", "correlation"),
        *("policy", "cost", "error", "changes"),
    }
    assert first["error"] is None
    assert first["time"].endswith("Z")
    assert second["keys"] == ["a b", "c"]
    assert third["error"].startswith("WRONGTYPE")


def test_key_that_is_not_utf8_is_escaped_in_text_and_base64_in_json(
    loaded: Cli, embedded: RealServer
) -> None:
    """Keys are bytes, which must not control the terminal or break JSON."""
    embedded.client().xadd(
        "keyleash:audit:agent-runner",
        {"token": "t", "correlation": b"c\xff", "SET": b"\xff\x1b[2J\x00"},
    )

    assert r"\xff\x1b[2J\x00" in loaded.ok("audit", "log")
    (event,) = loaded.lines("audit", "log")
    assert event["keys"] == [{"base64": "/xtbMkoA"}]


def test_entry_of_many_keys_shows_one_and_their_number(loaded: Cli, embedded: RealServer) -> None:
    """A timeline shows its own key, also if it is masked there."""
    names = [f"agents:jobs:{number}:state" for number in range(200)]
    keys = "".join(f"{len(name)}:{name}," for name in names)
    embedded.client().xadd("keyleash:audit:agent-runner", {"token": "t", "MSET:200": keys})

    logged = loaded.ok("audit", "log").splitlines()[1]
    timeline = loaded.ok("audit", "timeline", names[77]).splitlines()[1]

    assert f" {names[0]} and 199 more  ok " in logged
    assert f" {names[77]} and 199 more  ok " in timeline
    assert len(loaded.lines("audit", "log")[0]["keys"]) == 200


def test_actions_of_many_tokens_become_one_row(loaded: Cli, embedded: RealServer) -> None:
    """Tokens that a program issues do not push all else out of the log."""
    client = embedded.client()
    minute = 4_102_444_800
    for number in range(60):
        words = ("event", "issue", "actor", "a", "identity", "i", "token", f"t{number}")
        client.execute_command("XADD", "keyleash:control", f"{minute}000-{number}", *words)
    for number in range(4):
        thaw = ("event", "thaw", "actor", "a", "identity", "i")
        client.execute_command("XADD", "keyleash:control", f"{minute}001-{number}", *thaw)

    shown = loaded.ok("audit", "log", "--control").splitlines()[1:]

    assert [line.split()[1:3] for line in shown] == [
        ["activate", "tester"],
        ["issue", "×60"],
        *[["thaw", "a"]] * 4,
    ]
    assert "identity=i  4102444800000-59" in re.sub(" {3,}", "  ", shown[1])
    assert len(loaded.lines("audit", "log", "--control", "--limit", "99")) == 65


def test_log_on_a_narrow_terminal_prints_blocks(busy: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry takes two lines where the table would not fit."""
    monkeypatch.setattr(table, "is_terminal", lambda: True)
    monkeypatch.setattr(audit, "is_terminal", lambda: True)

    narrow = busy.ok("audit", "log", COLUMNS="80").splitlines()
    wide = busy.ok("audit", "log", COLUMNS="200").splitlines()

    assert re.fullmatch(r"[-0-9]{10} UTC", narrow[0])
    assert re.fullmatch(r"[.:0-9]{12}  agent-runner  SET agents:jobs:1:state", narrow[1])
    assert re.fullmatch(r"  ok  \(token \w+, correlation c-1, event \d+-\d+\)", narrow[2])
    assert [word for word in wide[0].split() if word != "UTC"][1:] == COLUMNS[1:]
    assert len(wide) == 4
