"""Approved scripts as items of a transaction, beside plain commands."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import redis

import keyleash
from guard.test_scripts import FEATURES
from keyleash.audit.read import Query, read_denials, read_events
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import plan_undo
from support.clustered import NODES
from support.leash import Leash, grant
from support.scripted import COUNT, MOVE, PEEK, SORTED, WRITE_AND_FAIL, ScriptLeash, scripted
from support.servers import RealServer

Item = tuple[Any, ...]
SPIN = "if ARGV[1] == 'spin' then while true do end end return redis.call('INCR', KEYS[1])"


@pytest.fixture
def leash(server: RealServer) -> ScriptLeash:
    leash = ScriptLeash(server)
    leash.approve()
    return leash


def run(client: Any, *items: Item) -> list[Any]:
    """Return the replies of a transaction; errors as texts, in their places."""
    with client.pipeline(transaction=True) as pipe:
        for words in items:
            pipe.execute_command(*words)
        replies = pipe.execute(raise_on_error=False)
    # A raw connection adds the place in the script to errors of commands.
    return [
        str(reply).partition(" script: ")[0] if isinstance(reply, Exception) else reply
        for reply in replies
    ]


def test_scripts_and_commands_run_in_order(leash: ScriptLeash) -> None:
    """Each sees what those before it did; each script has its event; errors have their places."""
    client = leash.redis()
    replies = run(
        client,
        ("SET", "app:{d}n", 5),
        ("EVAL", COUNT, 1, "app:{d}n"),
        ("GET", "app:{d}n"),
        ("RPUSH", "app:{d}from", "a", "b"),
        ("EVAL", MOVE, 2, "app:{d}from", "app:{d}to", 1, "!"),
        ("EVAL_RO", PEEK, 1, "app:{d}none"),
        ("EVAL", WRITE_AND_FAIL, 1, "app:{d}a", "left"),
        ("EVAL", SORTED, 1, "app:{d}x", "other:{d}x"),
        ("EVAL_RO", COUNT, 1, "app:{d}n"),
        ("INCR", "app:{d}from"),
        ("EVAL", COUNT, 1, "app:{d}n"),
    )

    assert replies[:6] == [True, 6, b"6", 2, [b"a"], None]
    assert replies[6].startswith("WRONGTYPE")
    assert replies[7] == b"LEASH KEY_NOT_GRANTED key=other:%7Bd%7Dx"
    assert replies[8].startswith("Write commands are not allowed from read-only scripts.")
    assert replies[9].startswith("WRONGTYPE")
    assert replies[10] == 7
    assert leash.admin.get("app:{d}a") == b"left"
    events = [*read_events(leash.store, ["one"])]
    assert len({event.id for event in events}) == 7
    assert [(event.script, event.op, event.keys[0][7:].decode()) for event in events] == [
        *(("", "SET", "n"), ("s1", "INCR", "n"), ("", "RPUSH", "from"), ("s0", "LPOP", "from")),
        *(("s0", "RPUSH", "to"), ("s3", "SET", "a"), ("s3", "LPUSH", "a")),
        *(("", "INCR", "from"), ("s1", "INCR", "n")),
    ]
    failed = [(event.op, (event.error or "")[:9]) for event in events if event.error]
    assert failed == [("LPUSH", "WRONGTYPE"), ("INCR", "WRONGTYPE")]


DENIED: dict[str, tuple[Item, str]] = {
    "command": (("SET", "other:{d}x", 1), "KEY_NOT_GRANTED"),
    "key of a script": (("EVAL", COUNT, 1, "other:{d}x"), "KEY_NOT_GRANTED"),
    "script": (("EVAL", "return 1", 0), "COMMAND_REFUSED"),
    "digest": (("EVALSHA", "0" * 40, 0), "COMMAND_REFUSED"),
    "malformed script": (("EVAL", COUNT, 7, "app:{d}n"), "COMMAND_REFUSED"),
    "name": (("NOSUCH", "app:{d}n"), "COMMAND_REFUSED"),
    "budget": (("EVAL", COUNT, 1, "app:{d}n"), "BUDGET_EXHAUSTED"),
}


@pytest.mark.parametrize(("item", "code"), DENIED.values(), ids=DENIED)
def test_denied_item_means_that_nothing_runs(embedded: RealServer, item: Item, code: str) -> None:
    """Nothing is charged or recorded but the denial, which names the item."""
    leash = ScriptLeash(embedded)
    writes = 2 if code == "BUDGET_EXHAUSTED" else 100
    leash.approve(budget={"requests": "100/day", "writes": f"{writes}/day"})
    client = leash.redis()
    client.get("app:{d}n")
    before = leash.spent("one")

    with pytest.raises(keyleash.LeashError) as denied:
        run(client, ("SET", "app:{d}n", 5), ("EVAL", COUNT, 1, "app:{d}n"), item)
    # The home of a cluster does not know the items.
    assert (denied.value.code, denied.value.details.get("item", "3")) == (code, "3")
    assert leash.admin.exists("app:{d}n") == 0
    assert leash.spent("one") == before
    assert leash.recorded() == []
    (denial,) = read_denials(leash.store, ["one"])
    assert denial.code == code
    if item[0].startswith("EVAL") and code == "COMMAND_REFUSED" and item[2] == 0:
        assert denied.value.details["script"] == denial.script
    assert run(client, ("EVAL", COUNT, 1, "app:{d}n"), ("GET", "app:{d}n")) == [1, b"1"]


def test_budgets_count_each_item_once(embedded: RealServer) -> None:
    """Scripts by the classes that their commands may have; all of a transaction, or none."""
    leash = ScriptLeash(embedded)
    budget = {"requests": "9/day", "reads": "8/day", "writes": "8/day", "deletes": "4/day"}
    leash.approve(budget=budget)
    client = leash.redis()
    items: list[Item] = [
        ("SET", "app:{d}n", 1),
        ("EVAL", MOVE, 2, "app:{d}n2", "app:{d}to", 1, "!"),
        ("EVAL", PEEK, 1, "app:{d}n"),
        ("DEL", "app:{d}n"),
    ]
    run(client, *items)
    assert leash.used("one") == {
        "budget.requests": 4, "budget.reads": 2, "budget.writes": 2, "budget.deletes": 2,
    }  # fmt: skip
    run(client, *items)
    with pytest.raises(keyleash.BudgetExhaustedError, match="requests"):
        run(client, ("SET", "app:{d}n", 1), ("EVAL", COUNT, 1, "app:{d}n"))
    assert run(client, ("EVAL", COUNT, 1, "app:{d}n")) == [1]


@pytest.mark.skipif(bool(NODES), reason="a cluster does not count bytes of scripts")
def test_bytes_of_scripts_and_commands_count_together(embedded: RealServer) -> None:
    """Those of a plain command before anything runs, those of a script's when these run."""
    leash = ScriptLeash(embedded)
    leash.approve(budget={"bytes_written": "1kb/day", "bytes_read": "1kb/day"})
    client = leash.redis()
    key, value = "app:{d}n", "x" * 492
    with pytest.raises(keyleash.BudgetExhaustedError, match="bytes_written"):
        run(client, ("SET", key, value), ("SET", key, value), ("EVAL", SORTED, 0, "app:{d}s"),
            ("SET", key, value))  # fmt: skip
    assert leash.admin.exists(key, "app:{d}s") == 0
    replies = run(client, ("SET", key, value), ("EVAL", SORTED, 0, "app:{d}s"), ("GET", key))
    assert replies == [True, b"allowed", value.encode()]
    written = len(key) + len(value) + len("app:{d}s1")
    assert leash.used("one") == {"budget.bytes_written": written, "budget.bytes_read": 492}
    reads: list[Item] = [("EVAL", PEEK, 1, key)] * 2 + [("GET", key)] * 2
    *read, third, fourth = run(client, *reads)
    assert read == [value.encode()] * 2
    assert "BUDGET_EXHAUSTED" in third
    assert "BUDGET_EXHAUSTED" in fourth


def test_watched_key_that_changes_ends_a_transaction_with_scripts(leash: ScriptLeash) -> None:
    client = leash.redis()
    with client.pipeline(transaction=True) as pipe:
        for is_changed in (True, False):
            pipe.watch("app:{d}n")
            if is_changed:
                leash.admin.set("app:{d}n", 10)
            pipe.multi()
            pipe.eval(COUNT, 1, "app:{d}n")
            pipe.append("app:{d}n", "0")
            if is_changed:
                with pytest.raises(redis.WatchError):
                    pipe.execute()
            else:
                assert pipe.execute() == [11, 3]
    assert leash.admin.get("app:{d}n") == b"110"
    assert len(leash.recorded()) == 2


def test_undo_reverts_a_transaction_with_scripts(embedded: RealServer) -> None:
    """To what each key held before the first item."""
    leash = ScriptLeash(embedded)
    leash.approve(audit={"before_images": {"max_bytes": "64kb"}})
    client = leash.redis()
    leash.admin.rpush("app:{d}from", "a", "b")
    run(
        client, ("RPUSH", "app:{d}from", "c"), ("SET", "app:{d}from", "lost"),
        ("EVAL", MOVE, 2, "app:{d}from2", "app:{d}to", 2, "!"), ("DEL", "app:{d}from"),
        ("RPUSH", "app:{d}from", "new"), ("EVAL", MOVE, 2, "app:{d}from", "app:{d}to", 2, "!"),
    )  # fmt: skip
    apply_undo(leash.store, plan_undo(leash.store, Query(since_ms=0), identity="one"))
    assert leash.admin.lrange("app:{d}from", 0, -1) == [b"a", b"b"]
    assert leash.admin.exists("app:{d}to") == 0


def test_transaction_with_scripts_takes_no_id(embedded: RealServer) -> None:
    """As a script alone; the guard denies one."""
    leash = ScriptLeash(embedded)
    leash.approve(idempotency={"keep": "1h"})
    client, token = leash.redis(), leash.issue("one").token
    with keyleash.once("id-1"):
        assert run(client, ("SET", "app:{d}n", 1), ("EVAL", COUNT, 1, "app:{d}n")) == [True, 2]
        assert client.incr("app:{d}m") == 1
    call = token, "", "once", "id-1", "all", "2", "INCR", "app:{d}n"
    digest = leash.record("one").approved_digest
    reply = leash.raw("one", ["app:{d}n"], *call, digest=digest)
    assert reply == "LEASH COMMAND_REFUSED script=once"
    assert leash.admin.get("app:{d}n") == b"2"


def test_work_is_that_of_all_items(embedded: RealServer) -> None:
    """A script that uses it up is denied, and so is what reads after it; writes were checked."""
    leash = ScriptLeash(embedded)
    client = scripted(leash, SPIN)
    leash.admin.rpush("app:{d}list", *range(1000))
    many: list[Item] = [("LRANGE", "app:{d}list", 0, -1)] * 40
    with pytest.raises(keyleash.WorkTooLargeError):
        run(client, ("EVAL", SPIN, 1, "app:{d}n"), *many)
    assert leash.admin.exists("app:{d}n") == 0

    first, spun, read, later, written = run(
        client, ("EVAL", SPIN, 1, "app:{d}n"), ("EVAL", SPIN, 1, "app:{d}n", "spin"),
        ("GET", "app:{d}n"), ("EVAL", SPIN, 1, "app:{d}n"), ("SET", "app:{d}m", 1),
    )  # fmt: skip
    assert (first, written, leash.admin.get("app:{d}n")) == (1, True, b"1")
    assert all("WORK_TOO_LARGE" in reply for reply in (spun, read, later))
    assert {item.code for item in read_denials(leash.store, ["one"])} == {"WORK_TOO_LARGE"}


@pytest.mark.parametrize("rules", FEATURES.values(), ids=FEATURES)
def test_transactions_run_beside_every_feature_of_a_policy(
    embedded: RealServer, rules: dict[str, Any]
) -> None:
    """Each brings text and local variables of its own into the guard; large integers are exact."""
    leash = ScriptLeash(embedded)
    leash.approve(**rules)
    client = leash.redis()
    assert run(
        client, ("SET", "app:{d}n", 2**62), ("INCR", "app:{d}n"), ("GET", "app:secret:{d}n"),
        ("EVAL", PEEK, 1, "app:{d}n"), ("DEL", "app:{d}n"),
    ) == [True, 2**62 + 1, None, str(2**62 + 1).encode(), 1]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("x", "GET", "app:n"), (0,), (1.5, "GET"), (3, "GET", "app:n"), ("nan", "GET"), ("inf",),
        (3, "EVALSHA", "0" * 40, 1), (3, "EVALSHA", "0" * 40, -1), (3, "EVALSHA", "0" * 40, 0.5),
        (2, "EVALSHA", "0" * 40), (1, "EVALSHA"),
    ],
)  # fmt: skip
def test_malformed_item_is_denied(embedded: RealServer, words: Sequence[Any]) -> None:
    leash = ScriptLeash(embedded)
    leash.approve()
    token = leash.issue("one").token
    digest = leash.record("one").approved_digest
    calls = [("all", 3, "SET", "app:{d}n", 1, *words), ("all", *words)]
    for call in calls:
        reply = leash.raw("one", ["app:{d}n"], token, "", *map(str, call), digest=digest)
        assert reply.startswith("LEASH COMMAND_REFUSED")
    assert leash.admin.exists("app:{d}n") == 0


def test_random_transactions_have_the_replies_of_a_raw_connection(leash: ScriptLeash) -> None:
    """Values, errors and what is left in the keys."""
    client, choice = leash.redis(), random.Random(7)
    keys = [f"app:{{d}}{name}" for name in "abc"]

    def item() -> Item:
        key, other = choice.sample(keys, 2)
        makers: list[Item] = [
            ("SET", key, choice.randrange(9)), ("GET", key), ("RPUSH", key, "x", "y"), ("DEL", key),
            ("LRANGE", key, 0, -1), ("HSET", key, "f", "v"), ("HGETALL", key), ("TYPE", key),
            ("EVAL", COUNT, 1, key), ("EVAL", PEEK, 1, key), ("EVAL", MOVE, 2, key, other, 2, "!"),
            ("EVAL", WRITE_AND_FAIL, 1, key, "v"),
        ]  # fmt: skip
        return choice.choice(makers)

    for _ in range(40):
        items = [item() for _ in range(choice.randrange(1, 9))]
        held = [leash.admin.dump(key) for key in keys]
        guarded = run(client, *items)
        left = [leash.admin.dump(key) for key in keys]
        for key, payload in zip(keys, held, strict=True):
            leash.admin.delete(key)
            if payload is not None:
                leash.admin.restore(key, 0, payload)
        assert guarded == run(leash.at(keys[0]), *items), items
        assert left == [leash.admin.dump(key) for key in keys]


@pytest.mark.skipif(bool(NODES), reason="KEYS is made of the keys of one node there")
def test_keys_in_a_transaction_lists_those_before_it(embedded: RealServer) -> None:
    """Rounds of SCAN that the guard checks before anything runs."""
    leash = Leash(embedded)
    leash.load(one={"grants": [grant("read", "write", "scan", keys="app:*")]})
    client = leash.agent("one")
    leash.admin.mset({f"app:{number}": 1 for number in range(2500)} | {"other:1": 1})

    first, keys, last = run(client, ("GET", "app:1"), ("KEYS", "app:*"), ("SET", "app:x", 1))
    assert (first, len(set(keys)), len(keys), last) == (b"1", 2500, 2500, True)
    assert run(client, ("KEYS", "app:x")) == [[b"app:x"]]
    with client.pipeline() as pipe:
        pipe.watch("app:1")
        leash.admin.set("app:1", 2)
        pipe.multi()
        pipe.keys("app:x")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    with pytest.raises(keyleash.KeyNotGrantedError) as denied:
        run(client, ("SET", "app:x", 2), ("KEYS", "other:*"))
    assert denied.value.details["key"] == "other:*"
    assert leash.admin.get("app:x") == b"1"
