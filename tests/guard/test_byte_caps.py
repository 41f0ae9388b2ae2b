"""Caps of tokens that count bytes: of the arguments of writes, and of the replies of reads."""

from __future__ import annotations

import json
import struct
import threading
from contextlib import suppress
from typing import Any

import pytest
import redis

import keyleash
from guard.test_bound_tokens import RUNNER, agent, denied, record_of
from guard.test_delegation import AGENT, delegated, refused
from keyleash.operator.decisions import explain
from keyleash.operator.tokens.list import list_tokens
from keyleash.store.token import CAP_USED_OFFSET, RECORD_BYTES, TAIL_HEADER_BYTES
from support.clustered import NODES
from support.errors import raises_code
from support.leash import Leash, policy, with_files

KEY, VALUE = "shared:a", "x" * 92
"""A SET of these writes 100 bytes."""


def left(client: Any, name: str = "token.bytes_written") -> Any:
    return next(item.left for item in client.whoami().limits if item.name == name)


def test_cap_of_bytes_written_counts_the_arguments_of_writes(leash: Leash) -> None:
    """As the budget of an identity does; a call that does not fit takes nothing."""
    leash.load(runner=RUNNER)
    bound = agent(leash, budget={"bytes_written": "1kb"})

    for _ in range(10):
        bound.set(KEY, VALUE)
    assert bound.get(KEY)
    found = denied(bound.set, KEY, VALUE)
    assert (found["code"], found["limit"]) == ("BUDGET_EXHAUSTED", "token.bytes_written")
    assert "resets_at_ms" in found
    bound.set(KEY, "x" * 16)
    assert left(bound) == 0
    assert denied(bound.append, KEY, "")["limit"] == "token.bytes_written"
    assert denied(agent(leash, budget={"bytes_written": "99b/hour"}).set, KEY, VALUE)["code"] == (
        "BUDGET_EXHAUSTED"
    )


def test_cap_of_bytes_read_is_charged_with_the_reply(leash: Leash) -> None:
    """A read is allowed while anything is left, so the last reply may be beyond."""
    leash.load(runner=RUNNER)
    leash.admin.set(KEY, "x" * 400)
    leash.admin.rpush("shared:l", "y" * 20, "z" * 20)
    bound = agent(leash, budget={"bytes_read": "1kb/hour", "requests": 9})

    bound.get(KEY)
    bound.lrange("shared:l", 0, -1)
    bound.set("shared:n", 1)
    assert bound.incr("shared:n") == 2
    assert left(bound, "token.bytes_read") == 1024 - 440
    bound.get(KEY)
    bound.get(KEY)
    assert denied(bound.get, "shared:none")["limit"] == "token.bytes_read"
    bound.set(KEY, 1)
    assert left(bound, "token.requests") == 2


@pytest.mark.parametrize("size", [100, 64])
def test_cap_of_bytes_is_exact_under_threads(leash: Leash, size: int) -> None:
    """50 clients: the total never exceeds the cap, and equals it where the size divides it."""
    leash.load(runner=RUNNER)
    token = leash.issue("runner", budget={"bytes_written": "3000b"}).token
    value, done = "x" * (size - len("shared:l")), []

    def work() -> None:
        client = leash.client(token)
        for _ in range(2):
            with suppress(keyleash.BudgetExhaustedError):
                client.rpush("shared:l", value)
                done.append(size)

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 3000 // size * size
    assert leash.admin.llen("shared:l") == len(done)


def test_batch_counts_bytes_command_by_command(leash: Leash) -> None:
    """Also a run of equal commands, and with caps of calls beside those of bytes."""
    leash.load(runner=RUNNER)
    budget = {"writes": 90, "bytes_written": "1000b", "requests": 90}
    token = leash.issue("runner", budget=budget).token
    client = leash.client(token)
    run = [("SET", f"shared:{{t}}{n:03}", "x" * 37) for n in range(22)]

    replies = leash.batch("runner", token, "each", *run[:5])
    assert replies == [b"OK"] * 5
    assert NODES or left(client) == 750
    mixed = [run[0], ("INCR", "shared:{t}"), ("GET", "shared:{t}"), *run[1:]]
    replies = leash.batch("runner", token, "each", *mixed)
    assert replies[:3] == [b"OK", 1, b"1"]
    # 50 bytes each, and 10 of the INCR.
    assert replies[3:16] == [b"OK"] * 13
    assert all("limit=token.bytes_written" in reply for reply in replies[16:])
    # On a cluster, units that nodes have count as used.
    assert NODES or left(client) == 40
    assert NODES or left(client, "token.writes") == 90 - 5 - 15
    assert NODES or left(client, "token.requests") == 90 - 5 - 16
    all_or_none = leash.batch("runner", token, "all", ("SET", "shared:{t}", "1"), run[0])
    assert "limit=token.bytes_written" in str(all_or_none)
    assert NODES or left(client) == 40


def test_batch_charges_each_reply_and_stops_reading_when_the_cap_is_used_up(leash: Leash) -> None:
    """A run of reads is carried out one by one; a write behind it runs."""
    leash.load(runner=RUNNER)
    leash.admin.set("shared:{t}a", "x" * 100)
    token = leash.issue("runner", budget={"bytes_read": "250b"}).token

    commands = [("GET", "shared:{t}a")] * 6 + [("SET", "shared:{t}b", "1")]
    replies = leash.batch("runner", token, "each", *commands)
    assert replies[:3] == [b"x" * 100] * 3
    assert all(reply.startswith("LEASH BUDGET_EXHAUSTED limit=token.bytes_read resets_at_ms=")
               for reply in replies[3:6])  # fmt: skip
    assert replies[6] == b"OK"
    assert left(leash.client(token), "token.bytes_read") == 0


def test_bytes_of_a_child_count_for_all_ancestors(leash: Leash) -> None:
    """Exactly, also in a batch; the denial says whose cap it is."""
    leash.load(runner=AGENT)
    root = agent(leash, budget={"bytes_written": "600b", "bytes_read": "150b"})
    child = delegated(leash, root, budget={"bytes_written": "1kb/hour", "reads": 9})
    leaf = delegated(leash, child, budget={"bytes_written": "250b"})

    leaf.set(KEY, VALUE)
    leaf.set(KEY, VALUE)
    assert "by" not in denied(leaf.set, KEY, VALUE)
    child.set(KEY, VALUE)
    root.set(KEY, VALUE)
    pipe = child.pipeline(transaction=False)
    for _ in range(3):
        pipe.set(KEY, VALUE)
    *ran, over = pipe.execute(raise_on_error=False)
    assert ran == [True, True]
    assert over.details["by"] == "ancestor"
    for client in (leaf, child, root):
        assert denied(client.set, KEY, VALUE)["limit"] == "token.bytes_written"
    assert [left(client) for client in (leaf, child, root)] == [50, 524, 0]
    leaf.get(KEY)
    child.get(KEY)
    assert denied(leaf.get, KEY)["by"] == "ancestor"
    assert denied(root.get, KEY)["limit"] == "token.bytes_read"
    assert "by" not in denied(root.get, KEY)


def test_explanation_of_a_call_counts_its_bytes(leash: Leash) -> None:
    """`explain --token-id` decides as the guard does, also for a child."""
    leash.load(runner=AGENT)
    issued = leash.issue("runner", budget={"bytes_written": "150b"})
    child = leash.client(issued.token).delegate(budget={"bytes_written": "130b"})
    client = leash.client(child.token)

    def decided(value: str) -> tuple[Any, ...]:
        details = explain(
            leash.store, "runner", "SET", KEY, value, token_id=child.id
        ).decision.details
        return details.get("limit"), details.get("by")

    assert decided(VALUE) == (None, None)
    assert decided("x" * 130) == ("token.bytes_written", None)
    client.set(KEY, VALUE[:-10])
    leash.client(issued.token).set(KEY, VALUE[:22])
    assert decided("x" * 22) == (None, None)
    assert decided("x" * 23) == ("token.bytes_written", "ancestor")
    assert denied(client.set, KEY, "x" * 23)["by"] == "ancestor"
    client.set(KEY, "x" * 22)


def test_script_counts_the_bytes_of_its_commands_towards_caps(leash: Leash) -> None:
    """Each command of an approved script is checked before it runs."""
    text = (
        "for i = 1, 3 do redis.call('SET', KEYS[1], ARGV[1]) end return redis.call('GET', KEYS[1])"
    )
    runner = {**RUNNER, "grants": [{**RUNNER["grants"][0], "scripts": ["put"]}]}
    document = json.loads(policy(runner=runner)) | {"scripts": {"put": {"file": "put.lua"}}}
    leash.load(with_files(json.dumps(document), {"put.lua": text}))
    bound = agent(leash, budget={"bytes_written": "500b", "bytes_read": "150b", "writes": 9})

    assert bound.eval(text, 1, KEY, VALUE)
    assert (left(bound), left(bound, "token.bytes_read")) == (200, 150 - 92)
    with pytest.raises(redis.ResponseError, match=r"limit='token\.bytes_written'"):
        bound.eval(text, 1, KEY, VALUE)
    assert (left(bound), left(bound, "token.writes")) == (0, 7)


@pytest.mark.parametrize("name", ["bytes_written", "bytes_read"])
def test_corrupt_cap_of_bytes_denies_the_calls_that_it_counts(leash: Leash, name: str) -> None:
    """A damaged record may hold anything."""
    leash.load(runner=RUNNER)
    issued = leash.issue("runner", budget={name: "1kb"})
    bound, record = leash.client(issued.token), record_of(leash, issued.token)
    used_at = RECORD_BYTES + TAIL_HEADER_BYTES + CAP_USED_OFFSET
    call = bound.set if name == "bytes_written" else bound.getrange

    for used in (float("nan"), float("inf"), -1.0):
        leash.admin.setrange(record, used_at, struct.pack("<d", used))
        leash.forget_leases("runner")
        assert denied(call, KEY, 1, 1)["code"] == "COUNTER_CORRUPT"
    # The home of a cluster looks at all caps when it grants a lease.
    assert NODES or bound.ping()


def test_amount_without_a_unit_is_refused_in_tokens_and_children(leash: Leash) -> None:
    """And one with a unit for a counter of calls."""
    leash.load(runner=AGENT)
    root = agent(leash, budget={"bytes_written": "2gb/day"})

    for bad in ("100", "10xb", "0b", "1mb/year", "mb", "2000000000tb"):
        with raises_code("bad-restriction"):
            agent(leash, budget={"bytes_written": bad})
        assert refused(root, budget={"bytes_written": bad})["reason"] == "budget"
    assert refused(root, budget={"writes": "10kb"})["reason"] == "budget"
    delegated(leash, root, budget={"bytes_written": "3mb", "writes": "7/hour"})
    restrictions = [item.restrictions for item in list_tokens(leash.store)]
    shorts = {cap.short for item in restrictions if item for cap in item.caps}
    assert shorts == {"bytes_written 2gb/day", "bytes_written 3mb", "writes 7/hour"}
