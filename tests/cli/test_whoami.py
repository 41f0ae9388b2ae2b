"""`keyleash whoami`: what a token is good for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyleash.store.token import TokenRecord
from support.command_line import Cli
from support.leash import put_token
from support.servers import RealServer

POLICY = """\
version: 1
identities:
  one:
    kind: machine
    grants: [{allow: [read, write], keys: ["k:{part}"], except: [GETDEL]}]
    deny: [{keys: ["k:locked"]}]
    rate:
      requests: {limit: 9/day, per: token}
      writes: {limit: 5/day, per: "{part}"}
    budget: {requests: 7/month}
"""


@pytest.fixture
def one(server: RealServer, policy: Path) -> Cli:
    """The command on each server in turn, with the policy above."""
    cli = Cli(server.url)
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    return cli


def test_holder_learns_scopes_life_and_what_is_left(one: Cli) -> None:
    """By the server's clock, and of its own counter where each token has one."""
    issued = one.json("token", "issue", "one", "--ttl", "2h")
    one.token("one")
    for _ in range(2):
        one.ok("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])

    said = one.json("whoami", KEYLEASH_TOKEN=issued["token"])

    assert (said["identity"], said["token_id"]) == ("one", issued["id"])
    assert said["expires_at"] == issued["expires_at"]
    assert said["issued_at"] < said["expires_at"]
    assert said["stopped"] is None
    assert said["grants"][0]["keys"] == ["k:{part}"]
    assert said["grants"][0]["except"] == ["GETDEL"]
    assert said["deny"] == [["k:locked"]]
    assert {item["name"]: (item["left"], item["of"]) for item in said["limits"]} == {
        "rate.requests": (7, 9),
        "rate.writes": (None, 5),
        "budget.requests": (5, 7),
    }
    resets = {item["name"]: item["resets_at"] for item in said["limits"]}
    assert resets["rate.requests"] is not None
    assert resets["rate.writes"] is None
    assert resets["budget.requests"].endswith("-01T00:00:00.000Z")


def test_text_is_for_people(one: Cli) -> None:
    """The token comes from standard input, and is nowhere in the answer."""
    token = one.token("one")

    said = one.ok("whoami", "--token", "-", stdin=token)

    assert "identity  one (machine)" in said
    assert "may       read, write: k:{part}, except GETDEL" in said
    assert "may not   k:locked" in said
    assert "rate.writes         ?  5 a day, each {part} apart" in said
    assert token not in said


def test_unknown_token_is_not_told_apart_by_what_is_wrong(one: Cli) -> None:
    """A wrong secret, a wrong identity, another's secret, and no token at all: one answer."""
    token = one.token("one")
    secret = token.removeprefix("kl_one_")
    answers = {
        (result.exit_code, result.output)
        for wrong in (f"kl_one_{secret[::-1]}", f"kl_two_{secret}", secret, "x", "ü", "kl_one_")
        for result in [one.run("whoami", KEYLEASH_TOKEN=wrong)]
    }

    ((exit_code, said),) = answers
    assert exit_code == 1
    assert "TOKEN_UNKNOWN" in said
    assert secret not in said


def test_dead_token_says_why(one: Cli, server: RealServer) -> None:
    """As a guard would, but no call is spent on it."""
    revoked = one.token("one")
    one.ok("token", "revoke", "--identity", "one")
    put_token(server.client(), "one", "kl_one_old", TokenRecord("a" * 12, 10**15, 10**15))

    assert "TOKEN_REVOKED" in one.run("whoami", KEYLEASH_TOKEN=revoked).stderr
    # So long after its end that its record is gone.
    assert "TOKEN_UNKNOWN" in one.run("whoami", KEYLEASH_TOKEN="kl_one_old").stderr


def test_token_past_its_life_or_its_idle_time_has_expired(
    loaded: Cli, embedded: RealServer
) -> None:
    """Both ends are told by the record."""
    admin = embedded.client()
    seconds, _ = admin.time()
    now_us = int(seconds) * 1_000_000
    hour_us = 3_600_000_000
    over = TokenRecord("a" * 12, expires_us=now_us - hour_us, used_us=now_us - 2 * hour_us)
    idle = TokenRecord("b" * 12, expires_us=now_us + hour_us, used_us=now_us - hour_us)
    put_token(admin, "human-admin", "kl_human-admin_over", over)
    put_token(admin, "human-admin", "kl_human-admin_idle", idle)

    for name, detail in (("over", "expired_at_ms"), ("idle", "idle_since_ms")):
        result = loaded.json("whoami", exit_code=1, KEYLEASH_TOKEN=f"kl_human-admin_{name}")
        assert result["error"]["code"] == "TOKEN_EXPIRED"
        assert detail in result["error"]["details"]


def test_holder_of_a_suspended_identity_is_told(loaded: Cli) -> None:
    """Its token is still good, but not for anything now."""
    token = loaded.token("agent-runner")
    loaded.ok("freeze", "agent-runner", "--reason", "x")

    assert loaded.json("whoami", KEYLEASH_TOKEN=token)["stopped"] == "SUSPENDED"
    assert "SUSPENDED" in loaded.ok("whoami", KEYLEASH_TOKEN=token)


def test_holder_of_a_frozen_identity_learns_why_and_until_when(loaded: Cli) -> None:
    """On one line, whatever the reason holds: whoever froze it need not be asked."""
    token = loaded.token("agent-runner")
    loaded.ok("freeze", "agent-runner", "--for", "30m", "--reason", "bad\x1b[31m\nwrites")

    said = loaded.json("whoami", KEYLEASH_TOKEN=token)
    text = loaded.ok("whoami", KEYLEASH_TOKEN=token)

    assert said["stopped"] == "SUSPENDED"
    assert said["suspension"]["reason"] == "bad\x1b[31m\nwrites"
    assert said["suspension"]["until"] == next(
        item["suspension"]["until"]
        for item in loaded.json("status")["identities"]
        if item["name"] == "agent-runner"
    )
    (line,) = (line for line in text.splitlines() if line.startswith("stopped"))
    assert "denied: SUSPENDED until 2" in line
    assert line.endswith(": bad\\x1b[31m\\nwrites")


def test_holder_whose_identity_left_the_policy_is_not_active(loaded: Cli, policy: Path) -> None:
    """The token is known, and worth nothing."""
    token = loaded.token("agent-runner")
    policy.write_text(
        "version: 1\nidentities: {a: {kind: machine, grants: [{allow: [read], keys: [a]}]}}\n"
    )
    loaded.ok("load", policy, "--yes", "--allow-widening", "--allow-removal")

    result = loaded.run("whoami", KEYLEASH_TOKEN=token)

    assert result.exit_code == 1
    assert "NOT_ACTIVE" in result.stderr


def test_question_changes_nothing(loaded: Cli, embedded: RealServer) -> None:
    """Not even the time at which the token was last used."""
    admin, token = embedded.client(), loaded.token("human-admin")
    before = {key: admin.dump(key) for key in admin.scan_iter()}

    loaded.ok("whoami", KEYLEASH_TOKEN=token)

    assert {key: admin.dump(key) for key in admin.scan_iter()} == before


def test_user_who_may_only_read_what_the_help_says_is_enough(
    loaded: Cli, embedded: RealServer
) -> None:
    """The rights are documented, so that such a user can be made."""
    admin, token = embedded.client(), loaded.token("agent-runner")
    admin.execute_command(
        "ACL", "SETUSER", "asker", "on", ">pw", "%R~keyleash:*",
        "+get", "+hget", "+hgetall", "+time",
    )  # fmt: skip
    url = embedded.url.replace("redis://", "redis://asker:pw@")

    said = Cli(url).json("whoami", KEYLEASH_TOKEN=token)

    assert said["identity"] == "agent-runner"


def test_no_token_is_a_usage_error(loaded: Cli) -> None:
    """It says how to give one."""
    result = loaded.run("whoami")

    assert result.exit_code == 2
    assert "KEYLEASH_TOKEN" in result.stderr


def test_holder_of_a_token_that_may_be_idle_is_told_when_that_ends(loaded: Cli) -> None:
    """The earlier of two ends is the one that surprises."""
    token = loaded.token("human-admin")

    said = loaded.json("whoami", KEYLEASH_TOKEN=token)

    assert said["issued_at"] < said["idle_ends_at"] < said["expires_at"]
    text = loaded.ok("whoami", KEYLEASH_TOKEN=token)
    assert re.search(r"expires +in .*Z\n +in 1[45]m if it is not used before\n", text)
    machine = loaded.token("agent-reader")
    assert loaded.json("whoami", KEYLEASH_TOKEN=machine)["idle_ends_at"] is None
