"""Pipelines, transactions and batches: redis-py's own, sent as batches of the guard."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import Script

import keyleash
from client.alike import EITHER, ONE_EITHER, agent
from keyleash import (
    ArgsTooManyError,
    BudgetExhaustedError,
    CommandRefusedError,
    KeyNotGrantedError,
    RateLimitedError,
    TokenRevokedError,
)
from keyleash.client import resp3
from keyleash.client.batches import MAX_CHUNK_BYTES
from keyleash.client.caller import is_final
from keyleash.errors import UnknownDenialError
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS
from support.leash import NAMES, Leash, grant
from support.redis_py import needs_redis_py_8

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}


def calls(packets: list[bytes]) -> list[bytes]:
    """The guard calls among what was sent."""
    return [packet for packet in packets if b"\r\nEVALSHA\r\n" in packet]


def kinds(results: list[Any]) -> list[Any]:
    """The results, and for an exception its class."""
    return [type(result) if isinstance(result, Exception) else result for result in results]


# Without a transaction.


@EITHER
def test_pipeline_goes_in_one_call(leash: Leash, packets: list[bytes]) -> None:
    """Its results are in order, and the pipeline is empty and usable again."""
    client = agent(leash)
    client.ping()
    packets.clear()
    pipe = client.pipeline(transaction=False)
    pipe.set("t:a", 1).get("t:a")
    pipe.hset("t:h", mapping={"f": 1}).hgetall("t:h")

    assert len(pipe) == 4
    assert packets == []
    assert pipe.execute() == [True, b"1", 1, {b"f": b"1"}]
    assert len(packets) == len(calls(packets)) == 1
    assert len(pipe) == 0
    assert pipe.execute() == []
    assert pipe.get("t:a").execute() == [b"1"]


@EITHER
def test_one_error_does_not_hide_the_other_results(leash: Leash) -> None:
    """Refusals, the command's own errors and results stand each in its place."""
    pipe = agent(leash).pipeline(transaction=False)
    pipe.set("t:a", "x").get("u:a").incr("t:a").flushall().get("t:a").lpush("t:a", 1)

    results = pipe.execute(raise_on_error=False)
    assert kinds(results) == [
        True,
        KeyNotGrantedError,
        redis.ResponseError,
        CommandRefusedError,
        b"x",
        redis.ResponseError,
    ]
    assert results[1].details == {"key": "u:a"}
    assert results[3].details["reason"]
    assert "WRONGTYPE" in str(results[5])


@needs_redis_py_8
@EITHER
def test_first_error_is_raised_and_says_which_command_it_is_of(leash: Leash) -> None:
    """In redis-py's words; everything has run by then, as with redis-py."""
    pipe = agent(leash).pipeline(transaction=False)
    pipe.set("t:a", "x").get("u:a").incr("t:a").set("t:b", "y")

    with pytest.raises(KeyNotGrantedError) as refused:
        pipe.execute()
    assert str(refused.value).startswith("Command # 2 (GET u:a) of pipeline caused error: ")
    assert "KEY_NOT_GRANTED" in str(refused.value)
    assert refused.value.details == {"key": "u:a"}
    assert leash.admin.get("t:b") == b"y"
    assert len(pipe) == 0

    with pytest.raises(redis.ResponseError, match=r"^Command # 1 \(INCRBY t:a 1\) of"):
        pipe.incr("t:a").execute()


@EITHER
def test_long_pipeline_goes_in_calls_of_128_commands(leash: Leash, packets: list[bytes]) -> None:
    """A call blocks the server no longer than that; the results are one list."""
    client = agent(leash, decode_responses=True)
    client.ping()
    pipe = client.pipeline(transaction=False)
    for number in range(300):
        pipe.set(f"t:{number}", number)
        pipe.get(f"t:{number}") if number % 100 else pipe.get("u:a")
    packets.clear()

    results = pipe.execute(raise_on_error=False)
    assert len(packets) == len(calls(packets)) == 5
    assert results[::2] == [True] * 300
    got = kinds(results[1::2])
    assert got == [str(n) if n % 100 else KeyNotGrantedError for n in range(300)]


@ONE_EITHER
def test_pipeline_of_large_commands_is_parted_by_their_values(
    one_leash: Leash, packets: list[bytes]
) -> None:
    """A command that no call can carry goes alone, and the guard says so."""
    client = agent(one_leash)
    client.ping()
    pipe = client.pipeline(transaction=False)
    pipe.rpush("t:a", *range(4000)).rpush("t:b", *range(4000))
    pipe.rpush("t:c", *range(MAX_ARGUMENTS)).llen("t:a").llen("t:b")
    packets.clear()

    results = pipe.execute(raise_on_error=False)
    assert kinds(results) == [4000, 4000, ArgsTooManyError, 4000, 4000]
    assert len(packets) == 4


@needs_redis_py_8
@ONE_EITHER
def test_pipeline_of_large_values_is_parted_by_their_bytes(
    one_leash: Leash, packets: list[bytes]
) -> None:
    """Text, bytes and views of them; one that is larger than a call may be goes alone."""
    client = agent(one_leash)
    client.ping()
    half = b"v" * (MAX_CHUNK_BYTES // 2 - 100)
    values = [half, half.decode(), memoryview(half), bytearray(half), half * 3, 1, 2]
    pipe = client.pipeline(transaction=False)
    for number, value in enumerate(values):
        pipe.set(f"t:{number}", value)
    packets.clear()

    assert pipe.execute() == [True] * len(values)
    assert len(packets) == len(calls(packets)) == 4
    assert client.strlen("t:4") == len(half) * 3


@ONE_EITHER
def test_word_that_cannot_be_sent_keeps_the_whole_pipeline_from_being_sent(
    one_leash: Leash, packets: list[bytes]
) -> None:
    """Also when it stands in a later call than the first, and the pipeline is empty then."""
    client = agent(one_leash)
    client.ping()
    for count, transaction in itertools.product((1, 300), (False, True)):
        pipe = client.pipeline(transaction=transaction)
        for number in range(count):
            pipe.set(f"t:{number}", number)
        pipe.set("t:bad", object())
        packets.clear()
        with pytest.raises(redis.DataError):
            pipe.execute()
        assert calls(packets) == []
        assert len(pipe) == 0
    assert one_leash.admin.exists("t:0") == 0


@EITHER
@pytest.mark.parametrize("protocol", [2, 3])
def test_options_of_a_command_are_kept_in_a_pipeline(leash: Leash, protocol: int) -> None:
    """NEVER_DECODE, EMPTY_RESPONSE and callbacks, beside commands that have none of them."""
    client = agent(leash, decode_responses=True, protocol=protocol)
    pipe = client.pipeline(transaction=False)
    pipe.set("t:a", "é").execute_command("GET", "t:a", **{NEVER_DECODE: True})
    pipe.get("t:a").mget([]).hset("t:h", mapping={"ä": "ö"}).hgetall("t:h").dump("t:a")
    pipe.execute_command("LPUSH", "t:a", 1, **{EMPTY_RESPONSE: "empty"})

    *results, dumped, empty = pipe.execute()
    assert results == [True, "é".encode(), "é", [], 1, {"ä": "ö"}]
    assert dumped == leash.admin.dump("t:a")
    assert empty == "empty"


@EITHER
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("decode", [False, True])
def test_integer_beyond_a_double_is_one_in_a_pipeline(
    leash: Leash, transaction: bool, decode: bool
) -> None:
    """A Lua number would round it."""
    pipe = agent(leash, decode_responses=decode).pipeline(transaction=transaction)
    pipe.set("t:n", 2**53).incr("t:n").execute_command("incrby t:n", 2).get("t:n")

    results = pipe.execute()
    assert results[1:3] == [2**53 + 1, 2**53 + 3]
    assert results[3] in (str(2**53 + 3), str(2**53 + 3).encode())


@EITHER
def test_refusal_of_a_whole_call_is_that_of_each_of_its_commands(leash: Leash) -> None:
    """As if they had been sent one by one."""
    client = agent(leash)
    client.ping()
    freeze(leash.store, "one", reason="x")
    pipe = client.pipeline(transaction=False)

    results = pipe.get("t:a").set("t:a", 1).execute(raise_on_error=False)
    assert kinds(results) == [keyleash.SuspendedError] * 2
    with pytest.raises(keyleash.SuspendedError, match=r"Command # 1 \(GET t:a\)"):
        pipe.get("t:a").set("t:a", 1).execute()


@EITHER
def test_refusal_of_an_unknown_code_does_not_hide_the_other_results(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard may be newer than its clients; what it refuses stays refused."""
    pipe = agent(leash).pipeline(transaction=False)
    monkeypatch.delitem(keyleash.errors.DENIALS, "KEY_NOT_GRANTED")

    results = pipe.set("t:a", 1).get("u:a").get("t:a").execute(raise_on_error=False)
    assert kinds(results) == [True, UnknownDenialError, b"1"]
    with pytest.raises(UnknownDenialError, match=r"\(GET u:a\)"):
        pipe.set("t:a", 1).get("u:a").execute()


@ONE_EITHER
@pytest.mark.parametrize("transaction", [True, False])
def test_reply_of_another_shape_does_not_hide_the_other_results(
    one_leash: Leash, monkeypatch: pytest.MonkeyPatch, transaction: bool
) -> None:
    """Its command has run, so its error is no `ValueError`, and nothing is sent again."""
    monkeypatch.setitem(resp3._SHAPES, "STRLEN", lambda reply, _: resp3._map([reply]))
    one_leash.load(one=ALL)
    client = one_leash.client(one_leash.issue("one").token, protocol=3)
    for cached in (resp3.shape_of, is_final):
        cached.cache_clear()
    pipe: Any = client.pipeline(transaction=transaction)
    for words in (("SET", "t:a", 1), ("STRLEN", "t:a"), ("INCR", "t:n")):
        pipe.execute_command(*words)

    results = pipe.execute(raise_on_error=False)
    assert kinds(results) == [True, redis.ResponseError, 1]
    with pytest.raises(redis.ResponseError, match="STRLEN"):
        pipe.execute_command("STRLEN", "t:a").execute_command("INCR", "t:n").execute()
    with pytest.raises(redis.ResponseError, match="the command has run"):
        client.strlen("t:a")
    assert client.get("t:n") == b"2"
    for cached in (resp3.shape_of, is_final):
        cached.cache_clear()


# As a transaction.


@EITHER
def test_transaction_runs_all_or_nothing(leash: Leash, packets: list[bytes]) -> None:
    """One refusal refuses the whole, whatever raise_on_error says, and names its command."""
    client = agent(leash)
    pipe = client.pipeline()
    assert pipe.set("t:a", 1).incr("t:a").get("t:a").execute() == [True, 2, b"2"]
    packets.clear()

    for raise_on_error in (True, False):
        pipe.set("t:a", "lost").get("t:a").get("u:a")
        with pytest.raises(KeyNotGrantedError) as refused:
            pipe.execute(raise_on_error=raise_on_error)
        assert refused.value.details == {"key": "u:a", "item": "3"}
        assert str(refused.value).startswith("Command # 3 (GET u:a) of pipeline caused error: ")
        assert len(pipe) == 0
    assert len(packets) == 2
    assert leash.admin.get("t:a") == b"2"


@EITHER
def test_error_at_run_time_stays_in_its_place(leash: Leash) -> None:
    """Like EXEC: the commands around it have run."""
    pipe = agent(leash).pipeline()
    pipe.set("t:a", "x").incr("t:a").set("t:b", "y")

    assert kinds(pipe.execute(raise_on_error=False)) == [True, redis.ResponseError, True]
    with pytest.raises(redis.ResponseError, match=r"Command # 1 \(INCRBY t:a 1\) of pipeline"):
        pipe.incr("t:a").set("t:b", "z").execute()
    assert leash.admin.get("t:b") == b"z"


@ONE_EITHER
@pytest.mark.parametrize(
    ("what", "commands"),
    [
        ("commands", [("PING",)] * (MAX_BATCH_COMMANDS + 1)),
        ("arguments", [("RPUSH", "t:a", *range(3500))] * 2),
    ],
    ids=["commands", "arguments"],
)
def test_transaction_that_is_too_long_is_refused_before_it_is_sent(
    one_leash: Leash, packets: list[bytes], what: str, commands: list[tuple[Any, ...]]
) -> None:
    """It cannot be parted, and says how long it may be."""
    client = agent(one_leash)
    client.ping()
    pipe = client.pipeline()
    for command in commands:
        pipe.execute_command(*command)
    packets.clear()

    with pytest.raises(ArgsTooManyError) as refused:
        pipe.execute()
    assert set(refused.value.details) == {what, "limit"}
    assert "help: use several calls" in str(refused.value)
    assert packets == []


@ONE_EITHER
def test_longest_transaction_goes_through(one_leash: Leash) -> None:
    """The limits are those of the guard."""
    client = agent(one_leash)
    pipe = client.pipeline()
    for number in range(MAX_BATCH_COMMANDS):
        pipe.set("t:a", number)
    assert pipe.execute() == [True] * MAX_BATCH_COMMANDS
    assert client.pipeline().rpush("t:l", *range(MAX_ARGUMENTS - 2)).execute() == [
        MAX_ARGUMENTS - 2
    ]


@EITHER
def test_transaction_of_a_function_is_a_batch(leash: Leash) -> None:
    """Its value is the results, or what the function returned."""
    client = agent(leash)

    assert client.transaction(lambda pipe: pipe.set("t:a", 1) and None) == [True]
    assert client.transaction(lambda pipe: "mine", value_from_callable=True) == "mine"
    with pytest.raises(KeyNotGrantedError):
        client.transaction(lambda pipe: pipe.set("u:a", 1) and None)


@EITHER
def test_multi_is_allowed_where_redis_py_allows_it(leash: Leash) -> None:
    """Before any command, and once; it makes a transaction of any pipeline."""
    pipe = agent(leash).pipeline(transaction=False)
    pipe.multi()
    with pytest.raises(redis.RedisError, match="nested"):
        pipe.multi()
    pipe.set("t:a", 1).get("u:a")
    with pytest.raises(KeyNotGrantedError):
        pipe.execute()
    assert leash.admin.get("t:a") is None

    pipe.set("t:a", 1)
    with pytest.raises(redis.RedisError, match="without an initial WATCH"):
        pipe.multi()


@EITHER
def test_script_in_a_pipeline_is_refused_by_the_guard(leash: Leash) -> None:
    """redis-py would look for it, and load it, before it sends the pipeline."""
    client = agent(leash)
    script = Script(redis.Redis(), "return 1")
    pipe = client.pipeline(transaction=False)
    pipe.set("t:a", 1).evalsha(script.sha, 0)

    assert kinds(pipe.execute(raise_on_error=False)) == [True, CommandRefusedError]


# What pipelines are beside their commands.


@EITHER
@pytest.mark.parametrize("transaction", [False, True])
def test_pipeline_is_dropped_when_its_block_ends(leash: Leash, transaction: bool) -> None:
    """Like redis-py's: only execute() sends."""
    client = agent(leash)
    with client.pipeline(transaction=transaction) as pipe:
        pipe.set("t:a", 1)
    assert len(pipe) == 0
    pipe.set("t:a", 1)
    pipe.reset()
    assert len(pipe) == 0
    assert pipe.execute() == []
    assert bool(pipe) is True
    assert leash.admin.get("t:a") is None


@EITHER
def test_discard_in_a_pipeline_is_an_error_of_execute(leash: Leash) -> None:
    """Like redis-py's, which queues it: a transaction fails whole, a pipeline does not."""
    client = agent(leash)
    for kind in (client.pipeline, client.batch):
        pipe = kind()
        pipe.set("t:a", 1)
        pipe.discard()
        with pytest.raises(redis.ResponseError, match="EXEC without MULTI"):
            pipe.execute()
        assert leash.admin.get("t:a") is None
    pipe = client.pipeline(transaction=False)
    pipe.set("t:a", 1)
    pipe.discard()
    assert kinds(pipe.execute(raise_on_error=False)) == [True, redis.ResponseError]


@EITHER
def test_helpers_of_a_pipeline_queue_as_it_does(leash: Leash) -> None:
    """A module's helper, and another pipeline, made from a pipeline."""
    client = agent(leash)
    pipe = getattr(client.pipeline(transaction=False), "_inner", None) or client.pipeline(
        transaction=False
    )
    pipe.json().set("t:j", "$", {})
    assert len(pipe) == 1
    other = client.pipeline().pipeline(transaction=False)
    assert kinds(other.get("t:a").get("u:a").execute(raise_on_error=False)) == [
        None,
        KeyNotGrantedError,
    ]


@EITHER
def test_blocking_command_in_a_pipeline_does_not_block(leash: Leash) -> None:
    """As in redis-py's transactions; a pipeline that waits would hold up what follows."""
    client = agent(leash)
    for transaction in (False, True):
        pipe = client.pipeline(transaction=transaction)
        assert pipe.blpop("t:none", 0).set("t:a", 1).execute() == [None, True]


@EITHER
def test_batch_leaves_one_event_and_one_correlation(leash: Leash) -> None:
    """The trail says what belonged together."""
    client = agent(leash)
    with keyleash.correlation("job-7"):
        client.pipeline().set("t:a", 1).get("t:a").set("t:b", 2).execute()

    (event,) = leash.events("one")
    assert event["correlation"] == "job-7"


# The explicit batch.


@EITHER
def test_batch_runs_when_its_block_ends(leash: Leash, packets: list[bytes]) -> None:
    """It is one call, and the results are stored."""
    client = agent(leash)
    client.ping()
    packets.clear()
    with client.batch() as batch:
        batch.set("t:a", 1).incr("t:a")
        assert packets == []
    assert batch.results == [True, 2]
    assert len(packets) == 1

    with client.batch() as batch:
        pass
    assert batch.results == []


@EITHER
def test_batch_may_be_executed_in_its_block(leash: Leash) -> None:
    """Commands that are queued afterwards run when the block ends."""
    client = agent(leash)
    with client.batch() as batch:
        assert batch.incr("t:a").execute() == [1]
    assert batch.results == [1]
    with client.batch() as batch:
        batch.incr("t:a").execute()
        batch.get("t:a")
    assert batch.results == [b"2"]


@EITHER
def test_batch_is_discarded_by_an_exception_in_its_block(leash: Leash) -> None:
    """And the exception goes on."""
    client = agent(leash)

    def interrupted() -> None:
        with client.batch() as batch:
            batch.set("t:a", 1)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        interrupted()
    assert leash.admin.get("t:a") is None


@EITHER
def test_refused_batch_is_raised_and_ran_nothing(leash: Leash) -> None:
    """The details name the command."""
    client = agent(leash)

    def refused() -> None:
        with client.batch() as batch:
            batch.set("t:a", 1).set("u:a", 1).set("t:b", 1)

    with pytest.raises(KeyNotGrantedError) as caught:
        refused()
    assert caught.value.details == {"key": "u:a", "item": "2"}
    assert leash.admin.exists("t:a", "t:b") == 0


@EITHER
def test_batch_that_is_used_again_keeps_no_results_of_before(leash: Leash) -> None:
    """A refusal or an empty block must not look like what the last one did."""
    batch = agent(leash).batch()
    for again in (lambda: batch.set("u:a", 1), lambda: None):
        with batch:
            batch.set("t:a", 1)
        assert batch.results == [True]

        with contextlib.suppress(KeyNotGrantedError), batch:
            again()
        assert batch.results == []


@EITHER
def test_batch_whose_command_failed_keeps_the_other_results(leash: Leash) -> None:
    """The error is raised at the end of the block, and stands in the results."""
    client = agent(leash)
    batch = client.batch()

    def failed() -> None:
        with batch:
            batch.set("t:a", "x").incr("t:a").get("t:a")

    with pytest.raises(redis.ResponseError, match=r"Command # 2 \(INCRBY t:a 1\)"):
        failed()
    assert kinds(batch.results) == [True, redis.ResponseError, b"x"]


# Healing.


@EITHER
@pytest.mark.parametrize("transaction", [False, True])
def test_pipeline_heals_a_lost_script_and_a_changed_policy(
    leash: Leash, packets: list[bytes], transaction: bool
) -> None:
    """Nothing has run then, so the call is made again, and what ran, ran once."""
    leash.load(one=ALL)
    client = agent(leash)
    pipe = client.pipeline(transaction=transaction)
    pipe.incr("t:n").execute()
    leash.admin.script_flush()
    packets.clear()
    assert pipe.incr("t:n").incr("t:n").execute() == [2, 3]
    names = [packet.split(b"\r\n")[2] for packet in packets]
    assert names == [b"EVALSHA", b"HGETALL", b"HGET", b"SCRIPT", b"EVALSHA"]

    leash.load(one={**ALL, "deny": [{"keys": ["t:x"]}]})
    assert pipe.incr("t:n").execute() == [4]
    leash.load(one=ALL)
    leash.admin.script_flush()
    assert pipe.incr("t:n").execute() == [5]
    assert leash.admin.get("t:n") == b"5"


@EITHER
def test_batch_script_with_a_tampered_source_is_not_loaded(leash: Leash) -> None:
    """Its text is checked as that of a guard is."""
    client = agent(leash)
    client.ping()
    record = leash.admin.hgetall(NAMES.guard("one"))
    leash.admin.hset(NAMES.source("one"), record[b"batch_digest"], "return 1")
    leash.admin.script_flush()

    with pytest.raises(keyleash.KeyleashError, match="does not have the digest"):
        client.pipeline().set("t:a", 1).execute()
    assert client.set("t:a", 2) is True


@EITHER
def test_results_of_earlier_calls_survive_a_later_one_that_is_refused(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the token expires between two calls of a pipeline, results of the first are returned."""
    issued = leash.issue("one")
    client: Any = leash.client(issued.token)
    pipe = client.pipeline(transaction=False)
    for _ in range(200):
        pipe.incr("t:n")

    session = client._session
    made = type(session).batch_request

    def revoking(self: Any, *args: Any, **options: Any) -> Any:
        if leash.admin.get("t:n") == b"128":
            revoke(leash.store, token_id=issued.id)
        return made(self, *args, **options)

    monkeypatch.setattr(type(session), "batch_request", revoking)
    results = pipe.execute(raise_on_error=False)
    assert kinds(results) == [*range(1, 129), *[TokenRevokedError] * 72]
    assert leash.admin.get("t:n") == b"128"


# Limits.


@EITHER
def test_rate_and_budget_count_the_commands_of_a_pipeline(leash: Leash) -> None:
    """Each one that passed, and none of a transaction that was refused."""
    leash.load(one={**ALL, "rate": {"requests": "5/hour"}, "budget": {"writes": "3/day"}})
    client = agent(leash)
    pipe = client.pipeline()
    for _ in range(4):
        pipe.set("t:a", 1)
    with pytest.raises(BudgetExhaustedError) as refused:
        pipe.execute()
    assert refused.value.details["item"] == "4"

    pipe = client.pipeline(transaction=False)
    for _ in range(4):
        pipe.set("t:a", 1)
    for _ in range(3):
        pipe.get("t:a")
    assert kinds(pipe.execute(raise_on_error=False)) == [
        *[True] * 3,
        BudgetExhaustedError,
        *[b"1"] * 2,
        RateLimitedError,
    ]
