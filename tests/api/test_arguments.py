"""Arguments of wrong types and values, and texts with tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

import keyleash
from keyleash.errors import SecretInTextError, UsageError
from support.leash import Leash, grant

Operate = Callable[[Any], Any]
TOKEN = "kl_one_" + "a" * 43


@pytest.fixture
def leash(embedded: Any) -> Leash:
    leash = Leash(embedded)
    leash.load(one={"grants": [grant("read", "write", keys="k:*")]})
    return leash


def issue(op: Any, **options: Any) -> None:
    op.tokens.issue("one", **options)


def rotate(op: Any, **options: Any) -> None:
    op.tokens.rotate(identity="one", **options)


WRONG: dict[str, tuple[str, Operate]] = {
    "identity in bytes": ("identity", lambda op: op.tokens.list(b"one")),
    "identity of freeze": ("identities", lambda op: op.freeze(["one"], reason="x")),
    "identity None": ("identities", lambda op: op.thaw(None)),
    "reason": ("reason", lambda op: op.freeze("one", reason=None)),
    "identity of a reset": ("identity", lambda op: op.limits.reset(None, reason="x")),
    "token id": ("token_id", lambda op: op.tokens.revoke(5)),
    "all": ("all", lambda op: op.tokens.revoke(all="no")),
    "grace": ("grace", lambda op: op.tokens.rotate("abc", grace=None)),
    "command": ("command", lambda op: op.explain("one", 5)),
    "policy": ("policy", lambda op: op.plan("agents.yaml")),
    "plan": ("plan", lambda op: op.apply(None)),
    "expect": ("expect", lambda op: op.load(keyleash.Policy("x"), expect="x")),
    "digest": ("to", lambda op: op.rollback(5)),
    "undo plan": ("plan", lambda op: op.undo.apply(None)),
    "undo key": ("key", lambda op: op.undo.plan(key=5, since="1h")),
    "undo keys": ("key", lambda op: op.undo.plan(key=[], since="1h")),
    "events as text": ("events", lambda op: op.undo.plan(events="1-1")),
    "skipped as text": ("skip", lambda op: op.undo.plan(correlation="x", skip="k:a")),
    "nodes as text": ("nodes", lambda op: op.doctor(nodes="redis://localhost")),
    "node": ("nodes", lambda op: op.doctor(nodes=[5])),
    "accepted as text": ("accept", lambda op: op.doctor(accept="nope")),
    "timeout": ("timeout", lambda op: op.doctor(timeout="x")),
    "key of a timeline": ("key", lambda op: op.audit.timeline(None)),
    "key of events": ("key", lambda op: op.audit.events(key=5)),
    "count": ("count", lambda op: op.tokens.issue_many("one", True)),
    "count of halves": ("count", lambda op: op.tokens.issue_many("one", 1.5)),
    "identity of new tokens": ("identity", lambda op: op.tokens.issue_many(b"one", 1)),
    "note": ("note", lambda op: op.tokens.issue("one", note=b"x")),
    **{f"life {ttl}": ("ttl", partial(issue, ttl=ttl)) for ttl in (float("nan"), 60.0, True)},
    **{f"grace {grace}": ("grace", partial(rotate, grace=grace)) for grace in (0.5, True)},
    "life of a new token": ("ttl", partial(rotate, ttl=1.5)),
}


@pytest.mark.parametrize("name", WRONG)
def test_argument_of_a_wrong_type_is_named(leash: Leash, name: str) -> None:
    """Nothing is changed, and the argument is not shown."""
    parameter, call = WRONG[name]

    with pytest.raises(TypeError, match=f"`{parameter}` must be"):
        call(keyleash.Operator(leash.admin))

    assert keyleash.Operator(leash.admin).tokens.list() == []


def test_argument_of_a_wrong_type_is_named_by_the_async_operator(leash: Leash) -> None:
    """Its calls check the same."""

    async def list_tokens(identity: Any) -> Any:
        async with keyleash.asyncio.Operator(leash.admin) as op:
            return await op.tokens.list(identity)

    with pytest.raises(TypeError, match="`identity` must be str"):
        asyncio.run(list_tokens(b"one"))


@pytest.mark.parametrize(
    "call",
    [
        lambda op: op.tokens.issue(TOKEN),
        lambda op: op.tokens.list(TOKEN),
        lambda op: op.tokens.revoke(identity=TOKEN),
        lambda op: op.freeze(TOKEN, reason="x"),
        lambda op: op.audit.find(TOKEN),
        lambda op: op.undo.plan(events=[TOKEN]),
        lambda op: op.explain("one", "GET", "k:a", token_id=TOKEN),
        lambda op: op.tokens.show(TOKEN),
        lambda _: keyleash.Policy("version: 1").compile(TOKEN),
        lambda _: keyleash.Policy("version: 1").explain(TOKEN, "GET", "k:a"),
    ],
)
def test_token_in_place_of_a_name_is_not_shown(leash: Leash, call: Operate) -> None:
    """It would be in tracebacks and logs."""
    with pytest.raises((SecretInTextError, UsageError)) as caught:
        call(keyleash.Operator(leash.admin))

    assert TOKEN not in f"{caught.value!s} {caught.value!r}"


def test_token_as_a_key_is_not_shown_by_the_denial(leash: Leash) -> None:
    """An agent may pass its arguments in a wrong order."""
    token = leash.issue("one").token
    with pytest.raises(keyleash.KeyNotGrantedError) as caught:
        leash.client(token).set(token, "x")

    shown = f"{caught.value!s} {caught.value!r} {caught.value.details}"
    assert token not in shown
    assert "kl_one_…" in shown


@pytest.mark.parametrize(
    "call",
    [
        lambda op, _: op.freeze("one", reason=" "),
        lambda op, _: op.freeze("one", reason="x", duration=timedelta.max),
        lambda op, _: op.audit.timeline("k:a", limit=-1),
        lambda op, _: op.audit.stats(segments=0),
        lambda op, _: op.doctor(timeout=-1),
    ],
)
def test_wrong_value_is_denied_before_anything_changes(
    leash: Leash, call: Callable[[Any, keyleash.Policy], Any]
) -> None:
    """The server is as it was: its policy can be loaded again."""
    narrower = keyleash.Policy(
        "version: 1\nidentities: {one: {kind: machine, grants: [{allow: [read], keys: ['k:*']}]}}"
    )
    op = keyleash.Operator(leash.admin)
    before = op.policies.active()

    with pytest.raises(ValueError, match="`"):
        call(op, narrower)

    assert op.policies.active() == before
    assert op.load(narrower, allow_widening=True).changed


def test_time_before_all_times_selects_everything(leash: Leash) -> None:
    """The first datetime is no time of a stream."""
    leash.agent("one").set("k:a", "x")
    op = keyleash.Operator(leash.admin)

    assert len(list(op.audit.events(since=datetime.min.replace(tzinfo=UTC)))) == 1


def test_key_in_bytes_is_that_very_key_for_undo(leash: Leash) -> None:
    """It is no pattern, and need not be UTF-8."""
    agent = leash.agent("one")
    for key in (b"k:a*b", b"k:\xff", b"k:axb"):
        agent.set(key, "x")
    op = keyleash.Operator(leash.admin)

    for key in (b"k:a*b", b"k:\xff"):
        assert [item.key for item in op.undo.plan(key=key, since="1h").keys] == [key]


@pytest.mark.parametrize(
    ("bind", "given"),
    [
        ({"job_id": None}, "not dict[str, NoneType]"),
        ({"job_id": 1.5, "day": "monday"}, "not dict[str, float | str]"),
        (["job_id"], "not list[str]"),
        ({1: {}}, "not dict[int, dict]"),
    ],
)
def test_error_of_a_collection_names_the_types_of_its_items(
    leash: Leash, bind: Any, given: str
) -> None:
    """`must be Mapping[…], not dict` would not say what is wrong."""
    with pytest.raises(TypeError) as error:
        keyleash.Operator(leash.admin).tokens.issue("agent-runner", bind=bind)
    assert str(error.value).endswith(given)
