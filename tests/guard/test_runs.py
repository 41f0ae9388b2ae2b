"""Runs of equal commands in a batch: their form on the wire, and what a wrong one gets."""

from __future__ import annotations

import re
from typing import Any

import pytest

from keyleash.audit.read import read_events
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.records import guard_record
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS
from support.leash import NAMES, Leash, grant

ALL: dict[str, Any] = {"grants": [grant("read", "write", "delete", keys="doc:*")]}


@pytest.fixture
def token(leash: Leash) -> str:
    leash.load(one=ALL)
    return leash.issue("one").token


def send(leash: Leash, token: str, keys: list[str], mode: str, *items: Any) -> Any:
    """Send a batch with these words; errors as text."""
    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None
    return leash.raw("one", keys, token, "id", mode, *items, digest=record.batch_digest)


def test_equal_replies_of_a_run_are_one_reply(leash: Leash, token: str) -> None:
    """Of SETs, of numbers and of nulls; others are an array."""
    keys = ["doc:{d}a", "doc:{d}b", "doc:{d}c"]

    assert send(leash, token, keys, "all", "3*3", "SET", 1, "x", "y", "z") == [b"OK"]
    assert send(leash, token, keys, "all", "2*3", "GET", 1) == [[b"x", b"y", b"z"]]
    assert send(leash, token, keys[:2], "all", "2*2", "EXISTS", 1) == [1]
    assert send(leash, token, ["doc:{d}n", "doc:{d}n"], "all", "2*2", "INCR", 1) == [[1, 2]]
    assert send(leash, token, ["doc:{d}d", "doc:{d}e"], "each", "2*2", "GET", 1) == [[None, None]]


def test_error_within_a_run_takes_the_place_of_its_reply(leash: Leash, token: str) -> None:
    """The commands behind it run, and the event is corrected."""
    leash.admin.rpush("doc:{d}list", "x")
    keys = ["doc:{d}a", "doc:{d}list", "doc:{d}b"]

    (replies,) = send(leash, token, keys, "all", "2*3", "INCR", 1)

    assert (replies[0], replies[2]) == (1, 1)
    assert str(replies[1]).startswith("WRONGTYPE ")
    events = [*read_events(leash.store, ["one"])]
    assert [(event.op, event.keys, event.item) for event in events] == [
        ("INCR", (key.encode(),), item) for item, key in enumerate(keys, start=1)
    ]
    assert [event.error is None for event in events] == [True, False, True]


def test_run_of_sets_without_mset_is_run_command_by_command(leash: Leash) -> None:
    """An identity that may not call MSET has the same replies."""
    leash.load(one={"grants": [grant("write", keys="doc:*", only=["SET"])]})
    token = leash.issue("one").token
    before = leash.admin.info("commandstats").get("cmdstat_mset", {"calls": 0})["calls"]

    assert send(leash, token, ["doc:{d}a", "doc:{d}b"], "all", "3*2", "SET", 1, "1", "2") == [b"OK"]

    assert leash.admin.mget("doc:{d}a", "doc:{d}b") == [b"1", b"2"]
    after = leash.admin.info("commandstats").get("cmdstat_mset", {"calls": 0})["calls"]
    assert after == before


def test_set_without_a_value_ends(leash: Leash, token: str) -> None:
    """Its values are looked at in steps of no word."""
    for command in ("SET", "SETEX", "HSET", "GET"):
        for size in (2, 3):
            keys = ["doc:a", "doc:b"]
            send(leash, token, keys, "each", f"{size}*2", command, 1, *["x"] * (size - 2) * 2)
            send(leash, token, keys[:1], "each", size, command, "doc:a", *["x"] * (size - 2))

    assert leash.admin.ping()


@pytest.mark.parametrize(
    "items",
    [
        ("3*2", "SET", 1, "x"),
        ("5*2", "SET", 1, "x", "y"),
        ("3*2", "SET"),
        ("3*2",),
        ("3*2", "SET", 0, "x", "y"),
        ("3*2", "SET", 2, "x", "y"),
        ("3*2", "SET", -1, "x", "y"),
        ("3*2", "SET", 1.5, "x", "y"),
        ("3*2", "SET", "nan", "x", "y"),
        ("3*2", "SET", "inf", "x", "y"),
        ("3*2", "SET", "doc:{d}a", "x", "y"),
        ("3*1", "SET", 1, "x"),
        ("3*0", "SET", 1),
        ("1*2", "PING", 1),
        ("0*2", "PING", 1),
        ("3*3", "SET", 1, "x", "y", "z"),
        ("3*99999999999999999999", "SET", 1, "x", "y"),
        ("99999999999999999999*2", "SET", 1, "x", "y"),
        ("3*2*2", "SET", 1, "x", "y"),
        ("3 * 2", "SET", 1, "x", "y"),
        ("-3*2", "SET", 1, "x", "y"),
        ("3*2\n", "SET", 1, "x", "y"),
        ("*", "SET", 1, "x", "y"),
    ],
    ids=str,
)
@pytest.mark.parametrize("behind", [(), (1, "PING")])
@pytest.mark.parametrize("mode", ["each", "all"])
def test_malformed_run_denies_the_batch(
    leash: Leash, token: str, items: tuple[Any, ...], behind: tuple[Any, ...], mode: str
) -> None:
    """Nothing runs, also of what comes before it; it never breaks the script."""
    reply = send(leash, token, ["doc:{d}a", "doc:{d}b"], mode, 1, "PING", *items, *behind)

    assert re.fullmatch(r"LEASH COMMAND_REFUSED size=\S* item=[24]", reply), reply
    assert leash.admin.keys("doc:*") == []


@pytest.mark.parametrize(
    ("keys", "first"),
    [(["doc:{d}a", "doc:{d}b", "doc:{d}c"], 2), (["doc:{d}a", "doc:{d}b", "{d}other"], 1)],
)
def test_key_that_no_command_of_a_batch_uses_denies_it(
    leash: Leash, token: str, keys: list[str], first: int
) -> None:
    """As without a run: what is declared is what is touched."""
    reply = send(leash, token, keys, "all", "3*2", "SET", first, "x", "y")

    assert reply.startswith("LEASH KEYS_MISMATCH")
    assert leash.admin.keys("*doc:*") == []


def test_malformed_command_far_before_the_end_is_denied_with_its_number(
    leash: Leash, token: str
) -> None:
    """Where runs are written out, the words behind it are not copied."""
    words = ("3*2", "SET", 1, "x", "y", *["z"] * 100_000)

    reply = send(leash, token, ["doc:{d}a", "{d}other"], "each", *words)

    assert reply == "LEASH COMMAND_REFUSED size=z item=3"
    assert leash.admin.keys("doc:*") == []


def test_two_runs_with_the_same_keys_do_not_share_their_declaration(
    leash: Leash, token: str
) -> None:
    """Each command declares its keys."""
    keys = ["doc:{d}a", "doc:{d}b"]
    runs = ("3*2", "SET", 1, "x", "y", "2*2", "GET", 1)

    assert send(leash, token, keys, "all", *runs).startswith("LEASH KEYS_MISMATCH item=3")
    replies = send(leash, token, keys * 2, "all", *runs[:-1], 3)
    assert replies == [b"OK", [b"x", b"y"]]


def test_denied_command_in_a_run_is_named_by_its_number(leash: Leash, token: str) -> None:
    """Commands are counted, not runs."""
    keys = ["doc:{d}a", "doc:{d}b", "doc:{d}a", "{d}other"]
    runs = ("3*2", "SET", 1, "x", "y", "2*2", "GET", 3)

    assert send(leash, token, keys, "all", *runs) == "LEASH KEY_NOT_GRANTED key=%7Bd%7Dother item=4"
    set_, (got, denied) = send(leash, token, keys, "each", *runs)
    assert (set_, got, str(denied)) == (b"OK", b"x", "LEASH KEY_NOT_GRANTED key=%7Bd%7Dother")


@pytest.mark.parametrize("count", [MAX_BATCH_COMMANDS, MAX_BATCH_COMMANDS + 1])
def test_run_has_the_bound_of_a_batch(leash: Leash, token: str, count: int) -> None:
    """Its commands count, not its words."""
    keys = ["doc:a"] * count

    reply = send(leash, token, keys, "each", f"2*{count}", "INCR", 1)

    if count > MAX_BATCH_COMMANDS:
        assert reply == f"LEASH ARGS_TOO_MANY commands={count}"
    else:
        assert reply == [[*range(1, count + 1)]]


def test_runs_together_have_the_bound_of_a_batch(leash: Leash, token: str) -> None:
    """Also if they are written out: a short request must not become a long one."""
    size = MAX_ARGUMENTS // 999
    keys = ["{d}other", *["doc:{d}a"] * 999, *["doc:{d}a"] * 999]
    words = ["f"] * (size - 2) * 999

    reply = send(
        leash, token, keys, "each",
        2, "GET", "{d}other", f"{size}*999", "SADD", 2, *words, f"{size}*999", "SADD", 1001, *words,
    )  # fmt: skip

    assert reply.startswith("LEASH ARGS_TOO_MANY ")


def test_limit_ends_within_a_run(leash: Leash) -> None:
    """As many commands run as it allows; in mode all none."""
    leash.load(one={**ALL, "budget": {"writes": "5/month"}})
    token = leash.issue("one").token
    keys = ["doc:{d}a"] * 3

    assert send(leash, token, keys, "each", "3*3", "SET", 1, "1", "2", "3") == [b"OK"]
    reply = send(leash, token, keys, "all", "3*3", "SET", 1, "4", "5", "6")
    assert reply.startswith("LEASH BUDGET_EXHAUSTED")
    assert reply.endswith(" item=3")
    ((*ran, denied),) = send(leash, token, keys, "each", "3*3", "SET", 1, "4", "5", "6")
    assert ran == [b"OK", b"OK"]
    assert str(denied).startswith("LEASH BUDGET_EXHAUSTED")
    assert leash.admin.get("doc:{d}a") == b"5"


def test_options_of_one_set_are_not_those_of_the_next(leash: Leash) -> None:
    """SET with GET needs another class than SET."""
    leash.load(one={"grants": [grant("write", keys="doc:*")]})
    token = leash.issue("one").token
    keys = ["doc:{d}a", "doc:{d}b"]

    plain, denied = send(leash, token, keys, "each", "4*2", "SET", 1, "1", "KEEPTTL", "2", "GET")[0]
    assert plain == b"OK"
    assert str(denied).startswith("LEASH CLASS_NOT_GRANTED class=read")
    denied, plain = send(leash, token, keys, "each", "4*2", "SET", 1, "1", "GET", "2", "NX")[0]
    assert str(denied).startswith("LEASH CLASS_NOT_GRANTED class=read")
    assert plain == b"OK"


def test_guard_reads_the_record_of_a_token_at_every_call(leash: Leash, token: str) -> None:
    """A revoked or deleted token is denied on the next call, a suspended identity too."""
    assert leash.call("one", token, "SET", "doc:a", "1") == b"OK"
    other = leash.issue("one")
    assert leash.call("one", other.token, "GET", "doc:a") == b"1"
    revoke(leash.store, token_id=other.id)
    assert leash.call("one", other.token, "GET", "doc:a") == "LEASH TOKEN_REVOKED"
    freeze(leash.store, "one", reason="incident")
    assert leash.call("one", token, "GET", "doc:a").startswith("LEASH SUSPENDED")
