"""`keyleash whoami`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyleash.limits import Counter
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
def runner(server: RealServer, policy: Path) -> Cli:
    """The command on each server in turn, with the policy above."""
    cli = Cli(server.url)
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    return cli


def test_whoami_shows_grants_expiry_and_remaining_limits(runner: Cli) -> None:
    """Times are server time; limits per token show the count of this token."""
    issued = runner.json("token", "issue", "one", "--ttl", "2h")
    runner.token("one")
    for _ in range(2):
        runner.ok("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])

    output = runner.json("whoami", KEYLEASH_TOKEN=issued["token"])

    assert (output["identity"], output["token_id"]) == ("one", issued["id"])
    assert output["expires_at"] == issued["expires_at"]
    assert output["issued_at"] < output["expires_at"]
    assert output["stopped"] is None
    assert output["grants"][0]["keys"] == ["k:{part}"]
    assert output["grants"][0]["except"] == ["GETDEL"]
    assert output["deny"] == [["k:locked"]]
    assert {item["name"]: (item["left"], item["of"]) for item in output["limits"]} == {
        "rate.requests": (7, 9),
        "rate.writes": (None, 5),
        "budget.requests": (5, 7),
    }
    resets = {item["name"]: item["resets_at"] for item in output["limits"]}
    assert resets["rate.requests"] is not None
    assert resets["rate.writes"] is None
    assert resets["budget.requests"].endswith("-01T00:00:00.000Z")


def test_whoami_prints_text_without_the_token(runner: Cli) -> None:
    """The token comes from standard input."""
    token = runner.token("one")

    output = runner.ok("whoami", "--token", "-", stdin=token)

    assert "identity  one (machine)" in output
    assert "may       read, write: k:{part}, except GETDEL" in output
    assert "may not   k:locked" in output
    assert "rate.writes         ?  5 a day, each {part} apart" in output
    assert token not in output


@pytest.mark.parametrize(
    ("amount", "text"),
    [(1023, "1023b"), (1024, "1kb"), (2**20 - 1, "1mb"), (2**30 - 1, "1gb"), (1536, "1.5kb")],
)
def test_amount_of_bytes_is_never_1024_of_a_unit(amount: int, text: str) -> None:
    """Almost a unit is rounded to that unit."""
    assert Counter.BYTES_READ.rounded(amount) == text


def test_unknown_tokens_have_one_answer(runner: Cli) -> None:
    """A wrong secret, a wrong identity, a secret of another identity, and no token at all."""
    token = runner.token("one")
    secret = token.removeprefix("kl_one_")
    answers = {
        (result.exit_code, result.output)
        for wrong in (f"kl_one_{secret[::-1]}", f"kl_two_{secret}", secret, "x", "ü", "kl_one_")
        for result in [runner.run("whoami", KEYLEASH_TOKEN=wrong)]
    }

    ((exit_code, output),) = answers
    assert exit_code == 1
    assert "TOKEN_UNKNOWN" in output
    assert secret not in output


def test_dead_token_reports_the_denial_of_the_guard(runner: Cli, server: RealServer) -> None:
    """No call is charged for it."""
    revoked = runner.token("one")
    runner.ok("token", "revoke", "--identity", "one")
    put_token(server.client(), "one", "kl_one_old", TokenRecord("a" * 12, 10**15, 10**15))

    assert "TOKEN_REVOKED" in runner.run("whoami", KEYLEASH_TOKEN=revoked).stderr
    # So long after its end that its record is gone.
    assert "TOKEN_UNKNOWN" in runner.run("whoami", KEYLEASH_TOKEN="kl_one_old").stderr


def test_token_past_its_life_or_its_idle_time_has_expired(
    loaded: Cli, embedded: RealServer
) -> None:
    """The record has both times."""
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


def test_token_of_a_suspended_identity_reports_the_suspension(loaded: Cli) -> None:
    """The token is valid, but every call is denied."""
    token = loaded.token("agent-runner")
    loaded.ok("freeze", "agent-runner", "--reason", "x")

    assert loaded.json("whoami", KEYLEASH_TOKEN=token)["stopped"] == "SUSPENDED"
    assert "SUSPENDED" in loaded.ok("whoami", KEYLEASH_TOKEN=token)


def test_token_of_a_frozen_identity_shows_reason_and_end(loaded: Cli) -> None:
    """On one line, whatever characters the reason has."""
    token = loaded.token("agent-runner")
    loaded.ok("freeze", "agent-runner", "--for", "30m", "--reason", "bad\x1b[31m\nwrites")

    output = loaded.json("whoami", KEYLEASH_TOKEN=token)
    text = loaded.ok("whoami", KEYLEASH_TOKEN=token)

    assert output["stopped"] == "SUSPENDED"
    assert output["suspension"]["reason"] == "bad\x1b[31m\nwrites"
    assert output["suspension"]["until"] == next(
        item["suspension"]["until"]
        for item in loaded.json("status")["identities"]
        if item["name"] == "agent-runner"
    )
    (line,) = (line for line in text.splitlines() if line.startswith("stopped"))
    assert "denied: SUSPENDED until 2" in line
    assert line.endswith(": bad\\x1b[31m\\nwrites")


def test_token_of_a_removed_identity_is_not_active(loaded: Cli, policy: Path) -> None:
    """The token is known, but every call is denied."""
    token = loaded.token("agent-runner")
    policy.write_text(
        "version: 1\nidentities: {a: {kind: machine, grants: [{allow: [read], keys: [a]}]}}\n"
    )
    loaded.ok("load", policy, "--yes", "--allow-widening", "--allow-removal")

    result = loaded.run("whoami", KEYLEASH_TOKEN=token)

    assert result.exit_code == 1
    assert "NOT_ACTIVE" in result.stderr


def test_whoami_changes_nothing(loaded: Cli, embedded: RealServer) -> None:
    """Not even the last use of the token."""
    admin, token = embedded.client(), loaded.token("human-admin")
    before = {key: admin.dump(key) for key in admin.scan_iter()}

    loaded.ok("whoami", KEYLEASH_TOKEN=token)

    assert {key: admin.dump(key) for key in admin.scan_iter()} == before


def test_documented_rights_are_sufficient(loaded: Cli, embedded: RealServer) -> None:
    """A user with only the rights in the help can run the command."""
    admin, token = embedded.client(), loaded.token("agent-runner")
    admin.execute_command(
        "ACL", "SETUSER", "asker", "on", ">pw", "%R~keyleash:*",
        "+get", "+hget", "+hgetall", "+time",
    )  # fmt: skip
    url = embedded.url.replace("redis://", "redis://asker:pw@")

    output = Cli(url).json("whoami", KEYLEASH_TOKEN=token)

    assert output["identity"] == "agent-runner"


def test_no_token_is_a_usage_error(loaded: Cli) -> None:
    """The help says how to pass one."""
    result = loaded.run("whoami")

    assert result.exit_code == 2
    assert "KEYLEASH_TOKEN" in result.stderr


def test_token_with_an_idle_time_shows_its_end(loaded: Cli) -> None:
    """The idle time ends before the life does."""
    token = loaded.token("human-admin")

    output = loaded.json("whoami", KEYLEASH_TOKEN=token)

    assert output["issued_at"] < output["idle_ends_at"] < output["expires_at"]
    text = loaded.ok("whoami", KEYLEASH_TOKEN=token)
    assert re.search(r"expires +in .*Z\n +in 1[45]m if it is not used before\n", text)
    machine = loaded.token("agent-reader")
    assert loaded.json("whoami", KEYLEASH_TOKEN=machine)["idle_ends_at"] is None
