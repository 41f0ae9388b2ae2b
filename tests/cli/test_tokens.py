"""Issuing, listing and revoking tokens: `keyleash token`."""

from __future__ import annotations

import re

import pytest

import keyleash
from keyleash.operator.tokens.issue import issue_token
from keyleash.store.keyspace import Keyspace
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from support.command_line import Cli
from support.servers import RealServer

NAMES = Keyspace()

TOKEN = re.compile(r"kl_[a-z0-9-]+_[A-Za-z0-9_-]{32}")


def test_issue_prints_the_token_alone_on_standard_output(loaded: Cli) -> None:
    """`TOKEN=$(keyleash token issue …)` must hold the token and nothing else."""
    result = loaded.run("token", "issue", "agent-runner", "--ttl", "2h")

    assert TOKEN.fullmatch(result.stdout.removesuffix("\n"))
    assert re.fullmatch(
        rf"server     {loaded.url}\n"
        r"token \w+ of `agent-runner` expires in (?:2h|1h59m), at [-0-9]+ [:0-9]+Z\n",
        result.stderr,
    )
    assert len(TOKEN.findall(result.output)) == 1


def test_revocation_of_many_tokens_prints_one_row_for_an_identity(
    loaded: Cli, embedded: RealServer
) -> None:
    """With the sum of their calls; up to fifty tokens have a row each."""
    operator = keyleash.Operator.from_url(embedded.url)
    for count, rows in ((50, 50), (51, 1)):
        operator.tokens.issue_many("agent-runner", count)

        shown = loaded.ok("token", "revoke", "--identity", "agent-runner").splitlines()

        assert len(shown) == 1 + rows
    assert re.fullmatch(r"\w+ and 50 more +agent-runner +0", shown[1])


def test_issue_without_a_policy_says_how_to_load_one(cli: Cli) -> None:
    """The first thing that a newcomer forgets."""
    error = cli.json("token", "issue", "agent-runner", exit_code=1)["error"]

    assert error["code"] == "no-policy"
    assert "keyleash load" in error["help"]


def test_note_with_a_token_that_the_library_did_not_write_is_shown_without(
    loaded: Cli, embedded: RealServer
) -> None:
    """The library rejects such a note; a record may have it nonetheless."""
    token = loaded.token("agent-reader")
    admin: Client = embedded.client()
    issued = issue_token(Store(admin), "agent-reader", note="was PLACE")
    recorded = admin.hget(NAMES.tokens("agent-reader"), issued.id).decode()
    admin.hset(NAMES.tokens("agent-reader"), issued.id, recorded.replace("PLACE", token))

    for words in (("token", "list"), ("token", "show", issued.id)):
        for option in ((), ("--json",)):
            shown = loaded.ok(*option, *words)
            assert token not in shown
            assert "was kl_agent-reader_" in shown


def test_list_shows_tokens_newest_first_without_secrets(loaded: Cli) -> None:
    """The list may be read by anyone who may read the server."""
    first = loaded.json("token", "issue", "agent-runner", "--note", "first")
    second = loaded.json("token", "issue", "agent-reader")
    loaded.ok("token", "revoke", first["id"])

    output = loaded.ok("token", "list")
    lines = output.splitlines()

    columns = ["id", "identity", "state", "age", "rotate", "expires", "used", "by", "note"]
    assert lines[0].split() == columns
    assert {line.split()[0]: line.split()[2] for line in lines[1:]} == {
        second["id"]: "live",
        first["id"]: "revoked",
    }
    assert not TOKEN.search(output)


def test_note_cannot_move_the_cursor(loaded: Cli) -> None:
    """Escape sequences in a note are shown, not interpreted."""
    loaded.token("agent-reader", "--note", "a\x1b[2Jb [bold]c")

    listed = loaded.ok("token", "list")

    assert "\x1b" not in listed
    assert r"a\x1b[2Jb [bold]c" in listed


def test_revoke_by_id_takes_effect_on_the_next_call(server: RealServer, example: str) -> None:
    """Revocation that works during an incident, on every server."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    issued = cli.json("token", "issue", "agent-reader")
    call = ("exec", "GET", "agents:context:1")
    cli.ok(*call, KEYLEASH_TOKEN=issued["token"])

    shown = cli.ok("token", "revoke", issued["id"])

    assert issued["id"] in shown
    refused = cli.run(*call, KEYLEASH_TOKEN=issued["token"])
    assert refused.exit_code == 1
    assert "TOKEN_REVOKED" in refused.stderr
    assert cli.ok("token", "revoke", issued["id"]) == f"`{issued['id']}` was already revoked\n"


def test_revoke_of_an_identity_leaves_the_others(loaded: Cli) -> None:
    """Other identities keep their tokens."""
    mine = [loaded.json("token", "issue", "agent-runner")["id"] for _ in range(2)]
    loaded.token("agent-reader")

    shown = loaded.json("token", "revoke", "--identity", "agent-runner")

    assert {item["id"] for item in shown["revoked"]} == set(mine)
    assert {item["identity"] for item in shown["revoked"]} == {"agent-runner"}
    states = {item["identity"]: item["state"] for item in loaded.json("token", "list")["tokens"]}
    assert states == {"agent-runner": "revoked", "agent-reader": "live"}


def test_revoke_of_all_needs_consent(loaded: Cli) -> None:
    """A script must pass `--yes`."""
    loaded.token("agent-reader")
    loaded.token("agent-runner")

    assert loaded.run("token", "revoke", "--all").exit_code == 2
    assert len(loaded.json("token", "revoke", "--all", "--yes")["revoked"]) == 2
    assert loaded.ok("token", "revoke", "--all", "--yes") == "no live token to revoke\n"


@pytest.mark.parametrize("words", [("",), ("--identity", "")])
def test_revoke_of_an_empty_name_revokes_nothing(loaded: Cli, words: tuple[str, ...]) -> None:
    """`revoke "$ID"` where the variable was never set must not stop the fleet."""
    loaded.token("agent-reader")

    result = loaded.run("token", "revoke", *words)

    assert result.exit_code == (2 if "--identity" in words else 1)
    assert "``" in result.stderr
    assert [item["state"] for item in loaded.json("token", "list")["tokens"]] == ["live"]


@pytest.mark.parametrize("record", ["no JSON", '"text"', "{}"])
def test_corrupt_record_does_not_prevent_revocation_of_other_tokens(
    loaded: Cli, embedded: RealServer, record: str
) -> None:
    """Other tokens are revoked; the error has the identity and the command to suspend it."""
    token = loaded.token("agent-runner")
    embedded.client().hset(Keyspace().tokens("agent-reader"), "k2k2k2k2k2k2", record)

    result = loaded.run("token", "revoke", "--all", "--yes")

    assert result.exit_code == 1
    assert "1 token revoked" in result.stderr
    assert "error: 1 token of `agent-reader` not revoked" in result.stderr
    assert "keyleash freeze agent-reader" in result.stderr
    refused = loaded.run("exec", "GET", "agents:jobs:1:state", KEYLEASH_TOKEN=token)
    assert "TOKEN_REVOKED" in refused.stderr
    again = loaded.json("token", "revoke", "--all", "--yes", exit_code=1)
    assert (again["revoked"], again["unreadable"]) == ([], ["agent-reader"])


@pytest.mark.parametrize("words", [("token", "list"), ("status",)], ids=" ".join)
def test_unreadable_record_is_an_error_without_a_traceback(
    loaded: Cli, embedded: RealServer, words: tuple[str, ...]
) -> None:
    """The help names `keyleash doctor`."""
    embedded.client().hset(Keyspace().tokens("agent-reader"), "k2k2k2k2k2k2", "no JSON")

    assert loaded.json(*words, exit_code=1)["error"]["code"] == "unreadable"


def test_list_shows_one_screen_with_those_that_are_due(
    loaded: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of tokens do not fill the terminal."""
    monkeypatch.setenv("LINES", "8")
    ids = [loaded.json("token", "issue", "agent-runner")["id"] for _ in range(3)]

    result = loaded.run("token", "list")

    assert ids[0] not in result.stdout
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "shown: 2 of 3 tokens; `--all` shows each\n"
    assert len(loaded.json("token", "list")["tokens"]) == 3
    assert len(loaded.ok("token", "list", "--all").splitlines()) == 4
