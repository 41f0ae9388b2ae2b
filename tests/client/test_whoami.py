"""`whoami()` of the clients: answered by the guard, for an agent that may read nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import keyleash
from client.alike import ONE_EITHER
from keyleash.operator.tokens.revoke import revoke
from support.command_line import Cli
from support.leash import Leash, grant

LIMITED: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", keys="t:{part}:*")],
    "token": {"idle": "1h"},
    "rate": {
        "requests": {"limit": "9/day", "per": "token"},
        "reads": {"limit": "60/day", "burst": 60},
        "writes": "5/day",
        "deletes": {"limit": "5/day", "per": "{part}"},
    },
    "budget": {"requests": {"limit": "7/month", "timezone": "Europe/Berlin", "per": "token"}},
}
LEFT = {
    "rate.requests": (7, 9),
    "rate.reads": (59, 60),
    "rate.writes": (4, 5),
    "rate.deletes": (None, 5),
    "budget.requests": (5, 7),
}


def left(answer: keyleash.WhoAmI) -> dict[str, tuple[int | None, int]]:
    return {item.name: (item.left, item.of) for item in answer.limits}


@ONE_EITHER
def test_whoami_is_what_the_command_prints(one_leash: Leash) -> None:
    """The agent's guard and the operator's command agree on every field that both have."""
    one_leash.load(one=LIMITED)
    issued = one_leash.issue("one", ttl="2h")
    client: Any = one_leash.client(issued.token, decode_responses=True)
    client.set("t:1:a", 1)
    client.get("t:1:a")

    answer = client.whoami()
    printed = Cli(one_leash.server.url).json("whoami", KEYLEASH_TOKEN=issued.token)

    assert left(answer) == LEFT
    assert (answer.identity, answer.token_id) == ("one", issued.id)
    assert answer.expires_at == datetime.fromtimestamp(issued.expires_ms / 1000, UTC)
    assert answer.expires_at.utcoffset() == timedelta(0)
    assert answer.now < answer.idle_ends_at < answer.expires_at
    mine = answer.to_dict()
    assert json.loads(json.dumps(mine)) == mine
    mine.pop("now")
    assert mine == {name: printed[name] for name in mine}


@ONE_EITHER
def test_whoami_changes_nothing(one_leash: Leash) -> None:
    """It is not charged, not recorded, and not a use of the token."""
    one_leash.load(one=LIMITED)
    client: Any = one_leash.agent("one")
    client.set("t:1:a", 1)
    before = one_leash.admin.dbsize(), one_leash.state("one"), one_leash.events("one")

    client.whoami()

    after = one_leash.admin.dbsize(), one_leash.state("one"), one_leash.events("one")
    assert after == before
    assert one_leash.denials("one") == []


def test_whoami_follows_a_reload(one_leash: Leash) -> None:
    """A counter per token that another policy left is converted as the guard would."""
    one_leash.load(one=LIMITED)
    client = one_leash.agent("one")
    client.set("t:1:a", 1)
    rate = {**LIMITED["rate"], "requests": {"limit": "100/day", "per": "token"}}
    one_leash.load(one={**LIMITED, "rate": rate})

    assert left(client.whoami())["rate.requests"] == (99, 100)


@ONE_EITHER
def test_whoami_of_a_token_that_is_over_is_its_denial(one_leash: Leash) -> None:
    """A guard describes no token that it denies."""
    issued = one_leash.issue("one")
    client: Any = one_leash.client(issued.token)
    client.ping()
    revoke(one_leash.store, token_id=issued.id)

    with pytest.raises(keyleash.TokenRevokedError):
        client.whoami()


def test_whoami_works_for_an_identity_without_limits(one_leash: Leash) -> None:
    """The answer has the expiry alone."""
    answer = one_leash.agent("one").whoami()

    assert answer.limits == ()
    assert answer.idle_ends_at is None
