"""`keyleash token rotate`, `show`, `list --stale` and what `revoke` says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.command_line import Cli

TOKEN = re.compile(r"kl_agent-runner_[A-Za-z0-9_-]{32}")
SET = ("exec", "SET", "agents:jobs:1:state", "x")


def test_rotate_prints_the_new_token_alone_and_says_until_when_the_old_is_good(loaded: Cli) -> None:
    """`TOKEN=$(keyleash token rotate …)` in a deploy; both work meanwhile."""
    old = loaded.token("agent-runner")
    (listed,) = loaded.json("token", "list", "agent-runner")["tokens"]

    result = loaded.run("token", "rotate", "agent-runner", "--grace", "10m")

    new = result.stdout.removesuffix("\n")
    assert TOKEN.fullmatch(new)
    assert len(TOKEN.findall(result.output)) == 1
    assert re.search(
        rf"it replaces {listed['id']}, which expires in (10m|9m59s), at \S+ \S+Z\n", result.stderr
    )
    for token in (old, new):
        loaded.ok(*SET, KEYLEASH_TOKEN=token)


@pytest.mark.parametrize("grace", ["0", "0s", "0m"])
def test_rotate_of_one_token_without_a_grace_leaves_the_others(loaded: Cli, grace: str) -> None:
    """By its id; the old one is refused as expired at once."""
    kept = loaded.token("agent-runner")
    old = loaded.json("token", "issue", "agent-runner", "--note", "ci")

    rotated = loaded.json("token", "rotate", old["id"], "--grace", grace, "--ttl", "1h")

    assert [item["id"] for item in rotated["replaced"]] == [old["id"]]
    assert loaded.run(*SET, KEYLEASH_TOKEN=old["token"]).stderr.startswith("error: TOKEN_EXPIRED")
    for token in (kept, rotated["token"]):
        loaded.ok(*SET, KEYLEASH_TOKEN=token)
    shown = loaded.json("token", "show", old["id"])
    assert (shown["state"], shown["replaced_by"]) == ("expired", rotated["id"])
    assert loaded.json("token", "show", rotated["id"])["note"] == "ci"
    assert re.search(rf"rotated to +{rotated['id']}\n", loaded.ok("token", "show", old["id"]))


def test_leaked_token_is_revoked_by_itself_and_not_repeated(loaded: Cli) -> None:
    """Who finds a token does not know its id, which is recorded and printed."""
    issued = loaded.json("token", "issue", "agent-runner")

    done = loaded.run("token", "revoke", issued["token"], "--reason", "found in a log")
    again = loaded.run("token", "revoke", issued["token"])
    unknown = loaded.run("token", "revoke", "kl_agent-runner_" + "x" * 32)

    assert f"`{issued['id']}`; arguments are visible: use ids" in done.stderr
    assert (done.exit_code, again.exit_code, unknown.exit_code) == (0, 0, 1)
    assert "was already revoked" in again.stdout
    assert "error: the server has no such token" in unknown.stderr
    assert not [x for x in (done, again) if issued["token"] in x.output]
    (event,) = [
        item for item in loaded.lines("audit", "log", "--control") if item["event"] == "revoke"
    ]
    assert event["details"] == {
        "identity": "agent-runner", "token": issued["id"], "reason": "found in a log",
    }  # fmt: skip


def test_rotate_of_a_revoked_token_says_what_to_do(loaded: Cli) -> None:
    """It was cut on purpose; a new one is issued on purpose, too."""
    issued = loaded.json("token", "issue", "agent-runner")
    loaded.ok("token", "revoke", issued["id"])

    error = loaded.json("token", "rotate", issued["id"], exit_code=1)["error"]

    assert error["code"] == "token-not-live"
    assert "keyleash token issue agent-runner" in error["help"]


def test_show_tells_state_life_and_use(loaded: Cli) -> None:
    """The output does not contain the token."""
    issued = loaded.json("token", "issue", "agent-runner", "--note", "deploy 7")
    unused = loaded.ok("token", "show", issued["id"])
    assert re.search(r"last used +never\n", unused)
    assert re.search(r"uses +0 recorded\n", unused)
    for _ in range(2):
        loaded.ok(*SET, KEYLEASH_TOKEN=issued["token"])

    used = loaded.ok("token", "show", issued["id"])

    assert re.search(r"state +live\nissued +\S+ \S+Z \(\S+ ago\) by tester\nnote +deploy 7\n", used)
    assert re.search(r"last used +\S+ \S+Z \((in 0s|\S+ ago)\)\n", used)
    assert re.search(r"uses +2 recorded\n", used)
    assert "denied" not in used
    loaded.ok("token", "revoke", issued["id"])
    loaded.run(*SET, KEYLEASH_TOKEN=issued["token"])
    assert re.search(r"denied +1 since it was revoked\n", loaded.ok("token", "show", issued["id"]))
    assert issued["token"] not in used
    assert loaded.run("token", "show", "nosuchtokenx").exit_code == 1


def test_stale_token_fails_a_pipeline_until_it_is_rotated(cli: Cli, tmp_path: Path) -> None:
    """`keyleash token list --stale` is one line of it: 0 if nothing is due, else 1."""
    policy = tmp_path / "policy.yaml"
    rule = "{kind: machine, token: {rotate_after: 1s}, grants: [{allow: [read], keys: [a]}]}"
    policy.write_text(f"version: 1\nidentities:\n  one: {rule}\n")
    cli.ok("load", policy, "--yes")
    assert "no token is due" in cli.run("token", "list", "--stale").stderr
    issued = cli.json("token", "issue", "one")
    while not cli.json("token", "list")["tokens"][0]["stale"]:
        pass

    result = cli.run("token", "list", "--stale")

    assert result.exit_code == 1
    assert re.search(rf"{issued['id']} +one +live +\S+ +DUE (in 0s|\S+ ago) ", result.stdout)
    assert "1 token to rotate" in result.stderr
    assert cli.json("token", "list", "one", "--stale", exit_code=1)["tokens"][0]["stale"] is True
    new = cli.json("token", "rotate", issued["id"])["id"]
    listed = cli.json("token", "list")["tokens"]
    assert {item["id"]: item["stale"] for item in listed}[issued["id"]] is False
    cli.ok("token", "revoke", new)
    assert cli.run("token", "list", "--stale").exit_code == 0
    assert f"replaced by {new}" in cli.ok("token", "list")


def test_revoke_prints_its_time_and_the_calls_before(loaded: Cli) -> None:
    """Calls are counted per token."""
    busy, idle = (loaded.json("token", "issue", "agent-runner") for _ in range(2))
    for _ in range(3):
        loaded.ok(*SET, KEYLEASH_TOKEN=busy["token"])

    result = loaded.run("token", "revoke", "--identity", "agent-runner")

    assert re.search(rf"{busy['id']} +agent-runner +3\n", result.stdout)
    assert re.search(rf"{idle['id']} +agent-runner +0\n", result.stdout)
    assert re.search(r"2 tokens revoked, effective \S+Z\n", result.stderr)


def test_revoke_as_json_has_the_moment_and_the_numbers(loaded: Cli) -> None:
    """The document has the time and the counts."""
    issued = loaded.json("token", "issue", "agent-runner")
    loaded.ok(*SET, KEYLEASH_TOKEN=issued["token"])

    shown = loaded.json("token", "revoke", issued["id"])

    assert shown.pop("bound_at").endswith("Z")
    assert shown.pop("server") == loaded.url
    assert shown == {
        "revoked": [
            {"id": issued["id"], "identity": "agent-runner", "recorded_in_the_minute_before": 1}
        ],
        "unreadable": [],
    }
