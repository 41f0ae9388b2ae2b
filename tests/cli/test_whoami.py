"""`keyleash whoami`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyleash.limits import Counter
from keyleash.store.token import TokenRecord
from support.command_line import Cli
from support.leash import Leash, grant, put_token
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
    assert output["grants"][0]["keys"] == ["k:{part}"]
    assert output["grants"][0]["except"] == ["GETDEL"]
    assert output["deny"] == ["k:locked"]
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

    assert "identity  one\n" in output
    assert "may       read, write: k:{part}, except GETDEL" in output
    assert "may not   k:locked" in output
    assert "rate.writes         ?  5 a day, each captured segment apart" in output
    assert token not in output


@pytest.mark.parametrize(
    ("amount", "text"),
    [(1023, "1023b"), (1024, "1kb"), (2**20 - 1, "1mb"), (2**30 - 1, "1gb"), (1536, "1.5kb")],
)
def test_amount_of_bytes_is_never_1024_of_a_unit(amount: int, text: str) -> None:
    """Almost a unit is rounded to that unit."""
    assert Counter.BYTES_READ.rounded(amount) == text


def test_unknown_tokens_have_one_answer(runner: Cli) -> None:
    """A wrong secret, and no token at all; the name of another identity is no secret."""
    token = runner.token("one")
    secret = token.removeprefix("kl_one_")
    answers = {
        (result.exit_code, result.output)
        for wrong in (f"kl_one_{secret[::-1]}", "kl_one_x")
        for result in [runner.run("whoami", KEYLEASH_TOKEN=wrong)]
    }
    for wrong in (secret, "x", "ü"):
        assert "TOKEN_UNKNOWN" in runner.run("whoami", KEYLEASH_TOKEN=wrong).stderr, wrong
    assert "NOT_ACTIVE" in runner.run("whoami", KEYLEASH_TOKEN=f"kl_two_{secret}").stderr

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


def test_token_of_a_frozen_identity_reports_reason_and_end(loaded: Cli) -> None:
    """As every call of it, on one line, whatever characters the reason has."""
    token = loaded.token("agent-runner")
    loaded.ok("freeze", "agent-runner", "--for", "30m", "--reason", "bad\x1b[31m\nwrites")

    error = loaded.json("whoami", exit_code=1, KEYLEASH_TOKEN=token)["error"]
    text = loaded.run("whoami", KEYLEASH_TOKEN=token).stderr

    assert error["code"] == "SUSPENDED"
    assert error["details"]["reason"] == "bad\x1b[31m\nwrites"
    assert "bad\\x1b[31m\\nwrites" in text
    assert "retry after 2" in text


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


def test_whoami_of_a_policy_that_hides_grants_says_so(embedded: RealServer) -> None:
    """The holder still sees expiry and limits."""
    leash = Leash(embedded)
    leash.load(one={"grants": [grant("read", keys="t:*")], "token": {"publish_grants": False}})
    token = leash.issue("one").token

    assert Cli(embedded.url).json("whoami", KEYLEASH_TOKEN=token)["grants"] is None
    shown = Cli(embedded.url).ok("whoami", KEYLEASH_TOKEN=token)
    assert "grants    hidden: the policy has `token: {publish_grants: false}`" in shown
    assert "may " not in shown
    assert "t:*" not in shown


def test_token_with_an_idle_time_shows_its_end(loaded: Cli) -> None:
    """The idle time ends before the life does."""
    token = loaded.token("human-admin")

    output = loaded.json("whoami", KEYLEASH_TOKEN=token)

    assert output["now"] < output["idle_ends_at"] < output["expires_at"]
    text = loaded.ok("whoami", KEYLEASH_TOKEN=token)
    assert re.search(r"expires +in .*Z\n +in 1[45]m if it is not used before\n", text)
    machine = loaded.token("agent-reader")
    assert loaded.json("whoami", KEYLEASH_TOKEN=machine)["idle_ends_at"] is None
