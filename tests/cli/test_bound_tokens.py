"""Bound tokens on the command line: `token issue --bind`, `token show`, `whoami`, `explain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import keyleash
from keyleash import Policy
from keyleash.store.token import token_digest
from support.command_line import Cli
from support.leash import NAMES, grant, policy
from support.servers import RealServer

DOCUMENT = policy(
    runner={"token": {"bound": True}, "grants": [grant("read", "write", keys="jobs:{job_id}:*")]},
    other={"grants": [grant("read", keys="docs:{doc}")]},
)
OPTIONS = (
    *("--bind", "job_id=42", "--allow", "read,write", "--keys", "jobs:42:*"),
    *("--budget", "requests=200", "--budget", "writes=50/hour", "--meta", "run=r-17"),
)


@pytest.fixture
def cli(embedded: RealServer, tmp_path: Path) -> Cli:
    file = tmp_path / "policy.json"
    file.write_text(DOCUMENT)
    cli = Cli(embedded.url)
    cli.ok("load", file, "--yes")
    return cli


def test_restrictions_are_shown_wherever_a_token_is(cli: Cli, embedded: RealServer) -> None:
    """By its id to operators, and by the token to its holder."""
    issued = cli.json("token", "issue", "runner", *OPTIONS)
    client = keyleash.Redis.from_url(embedded.url, token=issued["token"])
    client.set("jobs:42:a", "x")

    shown = cli.ok("token", "show", issued["id"])
    for text in ("bound to", "job_id=42", "jobs:42:*", "200 for the life of the token", "run=r-17"):
        assert text in shown
    (listed,) = cli.json("token", "list", "--meta", "run=r-17")["tokens"]
    assert listed["meta"] == {"run": "r-17"}
    assert listed["restrictions"]["bind"] == {"job_id": "42"}
    held = cli.ok("whoami", KEYLEASH_TOKEN=issued["token"])
    assert "job_id=42" in held
    assert "token.requests" in held
    limits = {limit.name: limit.left for limit in client.whoami().limits}
    assert limits == {"token.requests": 199, "token.writes": 49}
    assert "r-17" in cli.ok("audit", "log", "--control")
    event = cli.lines("audit", "log", "--control", "--json", "--token", issued["id"])[-1]
    assert json.loads(event["details"]["restricted"]) == {
        "bind": {"job_id": "42"},
        "allow": ["read", "write"],
        "keys": ["jobs:42:*"],
        "budget": ["requests 200", "writes 50/hour"],
    }


def test_restricting_keys_of_an_identity_with_masks_are_recorded_as_digests(
    cli: Cli, tmp_path: Path
) -> None:
    """The control stream is exported with the others."""
    policy = json.loads(DOCUMENT)
    policy["identities"]["runner"]["audit"] = {"mask_keys": ["jobs:{job_id}:secret"]}
    file = tmp_path / "masked.json"
    file.write_text(json.dumps(policy))
    cli.ok("load", file, "--yes")

    cli.ok("token", "issue", "runner", "--keys", "jobs:42:secret")

    digest = token_digest("jobs:42:secret")
    event = cli.lines("audit", "log", "--control", "--json")[-1]
    assert json.loads(event["details"]["restricted"]) == {"keys": [f"#{digest}"]}


def test_tokens_of_a_run_are_revoked_by_their_label(cli: Cli) -> None:
    """Other tokens stay valid; without a live one there is nothing to do."""
    run = [
        cli.json("token", "issue", name, "--meta", "run=r-1")["id"] for name in ("runner", "other")
    ]
    other = cli.json("token", "issue", "runner", "--meta", "run=r-2")["id"]

    done = cli.json("token", "revoke", "--meta", "run=r-1", "--identity", "runner")
    assert [item["id"] for item in done["revoked"]] == run[:1]
    done = cli.json("token", "revoke", "--meta", "run=r-1")
    assert [item["id"] for item in done["revoked"]] == run[1:]
    assert "no live token to revoke" in cli.ok("token", "revoke", "--meta", "run=r-1")
    assert [item["id"] for item in cli.json("token", "list", "--live")["tokens"]] == [other]
    assert cli.run("token", "revoke", other, "--meta", "run=r-2").exit_code == 2


def test_explain_says_that_the_token_denies_the_call(cli: Cli) -> None:
    """The identity alone may make it."""
    issued = cli.json("token", "issue", "runner", *OPTIONS)
    call = ("--token-id", issued["id"], "--", "GET", "jobs:43:a")

    denied = cli.run("explain", "runner", *call)
    assert denied.exit_code == 1
    assert "job_id=42" in denied.stdout
    assert "token     DENIED\n" in denied.stdout
    assert "issue a token with other restrictions" in denied.stdout
    assert cli.run("explain", "runner", "--", "GET", "jobs:43:a").exit_code == 0


def test_audit_log_selects_the_events_and_denials_of_tokens_by_label(
    cli: Cli, embedded: RealServer
) -> None:
    """Also operator actions, and tokens that are listed no more."""
    ids = {}
    for run in ("r-17", "r-18"):
        issued = cli.json("token", "issue", "runner", *OPTIONS[:-1], f"run={run}")
        client = keyleash.Redis.from_url(embedded.url, token=issued["token"])
        client.set(f"jobs:42:{run}", "x")
        with pytest.raises(keyleash.KeyNotGrantedError):
            client.get(f"jobs:43:{run}")
        ids[run] = issued["id"]
    only = ("audit", "log", "--meta", "run=r-17")

    assert [entry["keys"] for entry in cli.lines(*only)] == [["jobs:42:r-17"]]
    assert [entry["keys"] for entry in cli.lines(*only, "--denied")] == [["jobs:43:r-17"]]
    assert [entry["event"] for entry in cli.lines(*only, "--control")] == ["issue"]
    embedded.client().hdel(NAMES.tokens("runner"), ids["r-17"])
    assert [entry["token"] for entry in cli.lines(*only)] == [ids["r-17"]]
    assert cli.run("audit", "log", "--meta", "run=r-19").exit_code == 1
    with keyleash.Operator.from_url(embedded.url) as op:
        events = op.audit.events(meta={"run": "r-18"})
        assert [event.token for event in events] == [ids["r-18"]]


def test_rotation_of_an_identity_says_how_many_bound_tokens_it_leaves(cli: Cli) -> None:
    """And where to find them; expired and revoked ones do not count."""
    cli.ok("token", "issue", "runner")
    bound = [cli.json("token", "issue", "runner", *OPTIONS)["id"] for _ in range(3)]
    cli.ok("token", "revoke", bound[0])

    done = cli.run("token", "rotate", "runner")
    assert "note: 2 bound tokens of `runner` stay valid" in done.stderr
    assert "keyleash token list runner" in done.stderr
    assert cli.json("token", "rotate", "runner")["bound"] == 2
    rotated = cli.run("token", "rotate", bound[1])
    assert "stay valid" not in rotated.stderr


def test_rotation_of_an_identity_with_bound_tokens_alone_issues_nothing(cli: Cli) -> None:
    """The new token would have no restrictions."""
    bound = cli.json("token", "issue", "runner", *OPTIONS)["id"]

    error = cli.json("token", "rotate", "runner", exit_code=1)["error"]
    assert error["code"] == "token-not-live"
    assert "all live tokens of `runner` are bound; nothing was issued" in error["message"]
    assert [item["id"] for item in cli.json("token", "list")["tokens"]] == [bound]
    cli.ok("token", "revoke", bound)
    assert cli.json("token", "rotate", "runner")["replaced"] == []


def test_policy_without_bound_tokens_says_that_it_denies_them(cli: Cli, tmp_path: Path) -> None:
    """In the plan, and in the denial of a token that is still listed as live."""
    issued = cli.json("token", "issue", "runner", *OPTIONS)
    document = json.loads(DOCUMENT)
    document["identities"]["runner"]["token"]["bound"] = False
    file = tmp_path / "unbound.json"
    file.write_text(json.dumps(document))

    assert "[narrows]" in cli.run("plan", file).stdout
    cli.ok("load", file, "--yes")
    text = "the active policy does not allow bound tokens"
    call = ("GET", "jobs:42:a")
    help = "help: use a token without restrictions"
    assert help in cli.run("exec", *call, KEYLEASH_TOKEN=issued["token"]).stderr
    assert help in cli.run("whoami", KEYLEASH_TOKEN=issued["token"]).stderr
    assert text in cli.run("explain", "runner", "--token-id", issued["id"], "--", *call).stdout
    assert "2 by a policy that does not" in cli.ok("token", "show", issued["id"])


def test_change_of_bound_is_part_of_the_difference_and_widens_nothing() -> None:
    """It gives no token more rights."""
    document = json.loads(DOCUMENT)
    document["identities"]["runner"]["token"]["bound"] = False
    diff = Policy(json.dumps(document)).diff(Policy(DOCUMENT))

    assert "bound" in str(diff)
    assert not diff.widens
