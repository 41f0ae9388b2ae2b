"""`keyleash vault`, and other commands on a sealed server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import read_seal, server_keyspace
from keyleash.store.store import Store
from keyleash.vault.change import seal
from support.command_line import Cli
from support.fake_resp import bulk, fake_resp, info

POLICY = """\
version: 1
defaults:
  audit: {before_images: {max_bytes: 1kb}}
identities:
  one:
    kind: machine
    grants: [{allow: [read, write, delete], keys: ["k:*"]}]
    budget: {requests: 100/day}
"""


@pytest.fixture
def sealed(cli: Cli, policy: Path) -> Cli:
    """The command on a sealed server with an active policy."""
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    cli.ok("vault", "seal", "--yes")
    return cli


def test_seal_reports_moved_keys_and_agents_continue(cli: Cli, policy: Path) -> None:
    """With the same token and the same key names."""
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    token = cli.token("one")
    cli.ok("exec", "SET", "k:1", "x", KEYLEASH_TOKEN=token)

    result = cli.run("vault", "seal", "--adopt", "k:*", "--yes")

    assert re.fullmatch(
        r"sealed: \d+ keys moved, including control keys; policy generation 2\n", result.stdout
    )
    assert cli.ok("exec", "GET", "k:1", KEYLEASH_TOKEN=token) == "x\n"
    assert cli.json("status")["sealed"] is True
    assert ", sealed" in cli.ok("status")
    secrets = server_keyspace(redis.Redis.from_url(cli.url))
    assert secrets.vault not in result.output + cli.ok("status")


def test_commands_work_on_a_sealed_server_without_options(sealed: Cli, policy: Path) -> None:
    """Their output has the logical names."""
    token = sealed.token("one")
    for value in ("before", "after"):
        sealed.ok("exec", "SET", "k:1", value, KEYLEASH_TOKEN=token)

    secrets = server_keyspace(redis.Redis.from_url(sealed.url))
    event = sealed.lines("audit", "log")[-1]["id"]
    outputs = [
        sealed.ok("token", "list"),
        sealed.ok("audit", "log"),
        sealed.ok("audit", "timeline", "k:1"),
        sealed.ok("audit", "show", event),
        sealed.ok("undo", "--event", event, "--yes"),
        sealed.ok("exec", "GET", "k:1", KEYLEASH_TOKEN=token),
        sealed.ok("freeze", "one", "--reason", "x"),
        sealed.ok("load", policy, "--yes"),
        sealed.ok("token", "revoke", "--identity", "one", "--yes"),
    ]

    assert outputs[5] == "before\n"
    assert not any(secrets.vault in item or secrets.prefix in item for item in outputs)


def test_adopt_and_release_report_the_number_of_keys(sealed: Cli) -> None:
    """In text and as JSON."""
    redis.Redis.from_url(sealed.url).mset({"k:1": "x", "k:2": "y"})

    assert sealed.ok("vault", "adopt", "k:*", "--yes") == "2 keys moved into the vault\n"
    assert sealed.json("vault", "release", "k:1", "k:2", "--yes")["moved"] == 2
    assert sealed.ok("vault", "release", "k:*", "--yes") == "0 keys moved out of the vault\n"


def test_rotate_and_unseal_keep_the_policy(sealed: Cli) -> None:
    """Its generation counts the changes."""
    first = server_keyspace(redis.Redis.from_url(sealed.url))
    assert sealed.json("vault", "rotate", "--yes")["generation"] == 3
    second = server_keyspace(redis.Redis.from_url(sealed.url))
    assert sealed.ok("vault", "unseal", "--yes").startswith("unsealed: ")

    assert first != second
    assert sealed.json("status")["sealed"] is False


@pytest.mark.parametrize("command", ["adopt", "release", "rotate", "unseal"])
def test_command_on_an_open_server_is_an_error(loaded: Cli, command: str) -> None:
    """The help names the first step."""
    words = ["k:*"] if command in ("adopt", "release") else []
    result = loaded.run("vault", command, *words, "--yes")

    assert result.exit_code == 1
    assert "error: the server is not sealed" in result.stderr
    assert "help: see `keyleash vault seal --help`" in result.stderr


@pytest.mark.parametrize("words", [["adopt", "k:{"], ["seal", "--adopt", "k:{"]])
def test_invalid_pattern_is_a_usage_error(sealed: Cli, words: list[str]) -> None:
    """As for every command."""
    result = sealed.run("vault", *words, "--yes")

    assert result.exit_code == 2
    assert "`{` is never closed" in result.stderr


@pytest.mark.parametrize("words", [["adopt", "k:*"], ["release", "k:*"], ["rotate"], ["unseal"]])
def test_nothing_is_moved_without_confirmation(sealed: Cli, words: list[str]) -> None:
    """There is no terminal to ask on."""
    before = server_keyspace(redis.Redis.from_url(sealed.url))

    assert sealed.run("vault", *words).exit_code == 2
    assert server_keyspace(redis.Redis.from_url(sealed.url)) == before


def test_commands_name_an_interrupted_change(cli: Cli, policy: Path) -> None:
    """And how to finish it, because agents are suspended."""
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    token = cli.token("one")
    admin = redis.Redis.from_url(cli.url)

    def die(_done: int, total: int | None) -> None:
        if total is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal(Store(admin), progress=die)

    result = cli.run("token", "list")
    assert result.exit_code == 1
    assert "`keyleash vault seal` is under way or was interrupted" in result.stderr
    assert "run `keyleash vault seal` again: it resumes" in result.stderr
    assert cli.run("vault", "rotate", "--yes").exit_code == 1
    assert cli.json("vault", "seal", "--yes")["resumed"] is True
    assert read_seal(admin).change is None
    assert cli.run("exec", "GET", "k:1", KEYLEASH_TOKEN=token).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [("seal",), ("rotate",), ("unseal",), ("adopt", "k:*"), ("release", "k:*")],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_unreachable_server_has_no_change_to_finish(words: tuple[str, ...], is_known: bool) -> None:
    """It never answers, or stops before the first write."""
    replies = {b"INFO": info(), b"CLIENT": b"+OK\r\n"} if is_known else {}
    with fake_resp(lambda sent: replies.get(sent[0])) as server:
        result = Cli(server.url).run("--timeout", "0.2", "vault", *words, "--yes")

    assert result.exit_code == 69
    assert "may be suspended" not in result.stderr
    if words[0] in {"seal", "rotate", "unseal"} or not is_known:
        assert "error: cannot read from" in result.stderr


def test_change_whose_first_write_is_not_answered_may_suspend_agents(cli: Cli) -> None:
    """The plan may be stored, and the same command continues it."""
    change = {
        "change": "seal",
        "phase": "planned",
        "from_control": "a:",
        "from_vault": "",
        "to_control": "b:",
        "to_vault": "c:",
        "adopt": "[]",
    }
    fields = [bulk(word) for pair in change.items() for word in pair]
    record = b"*%d\r\n" % len(fields) + b"".join(fields)

    policy = iter([b"*0\r\n"])  # for the summary of the server

    def answer(sent: list[bytes]) -> bytes | None:
        if sent == [b"HGETALL", Keyspace().sealed.encode()]:
            return record
        if sent[0] == b"HGETALL":
            return next(policy, None)
        return {b"INFO": info(), b"CLIENT": b"+OK\r\n", b"DBSIZE": b":0\r\n"}.get(sent[0])

    with fake_resp(answer) as server:
        result = Cli(server.url).run("--timeout", "0.2", "vault", "seal", "--yes")

    assert result.exit_code == 69
    assert "agents may be suspended: run `keyleash vault seal` again to finish" in result.stderr


@pytest.mark.parametrize(
    "words", ["vault rotate --yes", "watch --once", "audit export --to FOLDER/two", "status"]
)
def test_no_error_contains_a_prefix(sealed: Cli, tmp_path: Path, words: str) -> None:
    """Errors end in logs, and prefixes are secrets."""
    sealed.ok("audit", "export", "--to", tmp_path / "one")
    operator = redis.Redis.from_url(sealed.url)
    prefix = server_keyspace(operator).prefix
    readable = [f"{prefix}{name}" for name in ("policy", "layouts", "control")]
    keys = ["keyleash:*", *readable]
    operator.acl_setuser("half", enabled=True, passwords=["+half"], keys=keys, commands=["+@all"])
    url = sealed.url if "export" in words else sealed.url.replace("://", "://half:half@")

    result = Cli(url).run(*words.replace("FOLDER", str(tmp_path)).split())

    assert result.exit_code, result.output
    assert prefix.strip(":") not in result.output
    operator.acl_deluser("half")
    operator.close()
