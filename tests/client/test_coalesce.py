"""keyleash.asyncio.Redis(coalesce=True): tasks' commands travel together, and notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, DataError, TimeoutError

import keyleash
from client.alike import awaiting
from client.conftest import BROAD
from client.test_no_retry import FATES, Fate, Proxy, losing_the_reply
from client.twin import AsyncTwin, difference, recorded_calls
from keyleash import (
    BudgetExhaustedError,
    KeyNotGrantedError,
    RateLimitedError,
    TokenRevokedError,
    correlation,
)
from keyleash.client.batches import MAX_CHUNK_BYTES
from keyleash.client.coalesce import SPLIT_FROM
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.wire import MAX_ARGUMENTS
from support.leash import Leash
from support.replication import PATIENCE_S
from support.servers import RealServer

LOOKUP = b"*2\r\n$7\r\nHGETALL\r\n"
EAGER_ASYNC = Retry(NoBackoff(), 3, supported_errors=(ConnectionError, TimeoutError))


def running(leash: Leash, work: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Run *work* with a coalescing client that knows its guard already."""

    async def run() -> Any:
        token = options.pop("token", None) or leash.issue("one").token
        given = {"port": leash.server.port, **options}
        async with keyleash.asyncio.Redis(token=token, coalesce=True, **given) as agent:
            await agent.ping()
            # Or a command that is never answered would keep the test for ever.
            async with asyncio.timeout(60):
                return await work(agent)

    return asyncio.run(run())


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def kinds(found: list[Any]) -> Counter[str]:
    return Counter(type(item).__name__ for item in found)


def test_commands_of_one_turn_travel_in_one_batch(leash: Leash, packets: list[bytes]) -> None:
    """One packet, one event, and each task its own reply."""

    async def work(agent: Any) -> None:
        del packets[:]
        few = SPLIT_FROM - 1
        assert await asyncio.gather(*(agent.set(f"t:{n}", n) for n in range(few))) == [True] * few
        assert await asyncio.gather(*(agent.incr(f"t:{n}") for n in range(few))) == [
            *range(1, SPLIT_FROM)
        ]

    running(leash, work)
    assert len(packets) == 2, packets
    assert len(leash.events("one")) == 2


@pytest.mark.parametrize("ids", [1, 5])
def test_many_commands_of_one_turn_travel_in_two_packets(
    leash: Leash, packets: list[bytes], ids: int
) -> None:
    """The server has one of them while the tasks have the answers of the other."""

    async def work(agent: Any) -> None:
        async def task(number: int) -> Any:
            with correlation(f"req-{number % ids}"):
                return await agent.incr(f"t:{number}")

        del packets[:]
        assert await asyncio.gather(*map(task, range(SPLIT_FROM))) == [1] * SPLIT_FROM

    running(leash, work)
    assert sum(b"EVALSHA" in packet for packet in packets) == 2
    assert len(leash.events("one")) == max(2, ids)


@pytest.mark.parametrize("options", [{"max_connections": 2}, {"single_connection_client": True}])
def test_client_with_few_connections_sends_one_packet_at_a_time(
    one_leash: Leash, packets: list[bytes], options: dict[str, Any]
) -> None:
    """A second one would have to wait for its connection, or be refused it."""

    async def work(agent: Any) -> None:
        del packets[:]
        assert await asyncio.gather(*(agent.incr(f"t:{n}") for n in range(60))) == [1] * 60

    running(one_leash, work, **options)
    assert sum(b"EVALSHA" in packet for packet in packets) == 1


def test_command_alone_in_its_turn_is_a_plain_guard_call(
    leash: Leash, packets: list[bytes]
) -> None:
    """Its event is what it would have been, and nothing of a batch is paid."""

    async def work(agent: Any) -> None:
        del packets[:]
        assert await agent.set("t:a", 1) is True
        assert await agent.get("t:a") == b"1"

    running(leash, work)
    sent = packets[:]
    digest = leash.digest("one").encode()
    assert [digest in packet for packet in sent] == [True, True]


def test_each_task_gets_its_own_reply_refusal_or_error(leash: Leash) -> None:
    """One batch with all three, and options of redis-py's for the parser."""

    async def work(agent: Any) -> None:
        await agent.set("t:text", "x")
        await agent.set("t:big", 2**53)
        dump = await agent.dump("t:text")
        found = await outcomes(
            agent.get("t:text"),
            agent.get("u:x"),
            agent.incr("t:text"),
            agent.incr("t:big"),
            agent.dump("t:text"),
            agent.hgetall("t:none"),
            agent.execute_command("GET", "t:text", **{redis.client.EMPTY_RESPONSE: "empty"}),
            agent.execute_command("INCR", "t:text", **{redis.client.EMPTY_RESPONSE: "empty"}),
            agent.execute_command("xgroup create", "t:s", "g", "$", "MKSTREAM"),
        )
        assert found[0] == "x"
        assert isinstance(found[1], KeyNotGrantedError)
        assert isinstance(found[2], redis.ResponseError)
        assert "not an integer" in str(found[2])
        assert found[3:8] == [2**53 + 1, dump, {}, "x", "empty"]
        assert found[8] in ("OK", True)

    running(leash, work, decode_responses=True)


def test_reply_that_cannot_be_decoded_is_its_own_tasks_fault(one_leash: Leash) -> None:
    """With decode_responses, the bytes of one must not fail the others."""
    one_leash.admin.set("t:bytes", b"\xff")

    async def work(agent: Any) -> None:
        found = await outcomes(agent.get("t:bytes"), agent.set("t:a", "é"), agent.get("t:a"))
        assert isinstance(found[0], UnicodeDecodeError)
        assert found[1:] == [True, "é"]

    running(one_leash, work, decode_responses=True)


@pytest.mark.parametrize("value", [None, ["x"], "\udc80"], ids=["None", "list", "surrogate"])
def test_word_that_cannot_be_sent_is_its_own_tasks_fault(one_leash: Leash, value: Any) -> None:
    """The batch is not sent, and the others are."""

    async def work(agent: Any) -> None:
        found = await outcomes(agent.incr("t:n"), agent.set("t:a", value), agent.incr("t:n"))
        assert isinstance(found[1], DataError | UnicodeEncodeError)
        assert sorted([found[0], found[2]]) == [1, 2]

    running(one_leash, work)
    assert one_leash.admin.get("t:a") is None


def test_others_than_the_word_that_cannot_be_sent_still_travel_together(
    one_leash: Leash, packets: list[bytes]
) -> None:
    """In order, and on no more connections than they would without it."""

    async def work(agent: Any) -> list[Any]:
        packets.clear()
        calls = [agent.rpush("t:l", None if number == 7 else number) for number in range(60)]
        return await outcomes(*calls)

    found = running(one_leash, work, max_connections=2)
    assert isinstance(found.pop(7), DataError)
    assert found == list(range(1, 60))
    assert sum(b"EVALSHA" in packet for packet in packets) == 1


@pytest.mark.parametrize("held", [2, 3])
def test_second_packet_that_finds_no_connection_follows_the_first(
    one_leash: Leash, held: int
) -> None:
    """No command that could wait fails because other users hold the pool's connections."""

    async def work(agent: Any) -> None:
        pool = agent.connection_pool
        others = [await pool.get_connection() for _ in range(held)]
        for _ in range(3):
            assert await outcomes(*(agent.set(f"t:{n}", n) for n in range(60))) == [True] * 60
        for other in others:
            await pool.release(other)
        found = await outcomes(*(agent.incr("t:n") for _ in range(60)))
        assert sorted(found) == [*range(1, 61)]

    running(one_leash, work, max_connections=held + 1)


def test_server_that_takes_no_more_clients_is_used_through_the_one_connection(leash: Leash) -> None:
    """The one that could not be made is not in the way of the one there is."""
    admin = leash.admin
    before = admin.config_get("maxclients")["maxclients"]

    async def work(agent: Any) -> None:
        admin.config_set("maxclients", int(admin.info("clients")["connected_clients"]))
        try:
            for _ in range(3):
                found = await outcomes(*(agent.set(f"t:{n}", n) for n in range(60)))
                assert found == [True] * 60
        finally:
            admin.config_set("maxclients", before)

    running(leash, work)


def test_client_without_any_connection_says_so(one_leash: Leash) -> None:
    """Nothing is under way that could be waited for."""

    async def work(agent: Any) -> None:
        pool = agent.connection_pool
        others = [await pool.get_connection() for _ in range(3)]
        found = await outcomes(*(agent.set(f"t:{n}", n) for n in range(60)))
        assert all(isinstance(item, ConnectionError) for item in found)
        for other in others:
            await pool.release(other)
        assert await outcomes(*(agent.set(f"t:{n}", n) for n in range(60))) == [True] * 60

    running(one_leash, work, max_connections=3)


@pytest.mark.parametrize("identifier", ["\udc80"])
def test_correlation_id_that_cannot_be_sent_is_the_fault_of_its_commands(
    one_leash: Leash, identifier: str
) -> None:
    """Those of other ids travel."""

    async def work(agent: Any) -> None:
        async def under(name: str) -> Any:
            with correlation(name):
                return await agent.incr("t:n")

        found = await outcomes(under(identifier), under("b"), under(identifier), under("b"))
        assert [isinstance(item, Exception) for item in found] == [True, False, True, False]
        assert [found[1], found[3]] == [1, 2]

    running(one_leash, work)


def test_commands_of_each_task_run_in_the_order_of_their_issue(leash: Leash) -> None:
    """Those of one packet too; in two, tasks have no order, as on connections of their own."""

    async def work(agent: Any) -> None:
        await asyncio.gather(*(agent.rpush("t:list", n) for n in range(SPLIT_FROM - 1)))

        async def task(name: str) -> None:
            for step in range(20):
                await agent.rpush(name, step)

        await asyncio.gather(*(task(f"t:{n}") for n in range(50)))

    running(leash, work)
    assert leash.admin.lrange("t:list", 0, -1) == [str(n).encode() for n in range(SPLIT_FROM - 1)]
    steps = [str(step).encode() for step in range(20)]
    assert all(leash.admin.lrange(f"t:{n}", 0, -1) == steps for n in range(50))


def test_correlation_ids_never_share_an_event(leash: Leash, packets: list[bytes]) -> None:
    """They travel in one packet all the same: a batch for each id, and one for those without."""

    async def work(agent: Any) -> None:
        del packets[:]

        async def task(number: int) -> None:
            with correlation(f"req-{number % 3}"):
                await agent.set(f"t:{number % 3}:{number}", number)

        await asyncio.gather(*map(task, range(9)), agent.set("t:x", 1), agent.set("t:y", 1))
        with correlation("alone"):
            own = asyncio.ensure_future(agent.set("t:alone:1", 1))
        await asyncio.gather(own, agent.set("t:x", 2), agent.set("t:y", 2))

    running(leash, work)
    assert len(packets) == 2
    events = leash.events("one")
    by_id = {event["correlation"]: str(event) for event in events}
    # Three ids and none; then one and none again, which is a new one.
    assert len(events) == len(by_id) == 6
    assert all(f"t:{number}:" in by_id[f"req-{number}"] for number in range(3))
    assert "t:alone:1" in by_id["alone"]
    assert sum("t:x" in event or "t:y" in event for event in by_id.values()) == 2


def test_budget_lets_exactly_as_many_pass_as_it_has(leash: Leash) -> None:
    """200 tasks, 77 to have."""
    leash.load(one={**BROAD, "budget": {"writes": "77/day"}})

    async def work(agent: Any) -> list[Any]:
        return await outcomes(*(agent.incr("t:n") for _ in range(200)))

    found = running(leash, work)
    assert kinds(found) == {"int": 77, BudgetExhaustedError.__name__: 123}
    assert leash.admin.get("t:n") == b"77"


def test_rate_is_waited_for_by_each_task_on_its_own(one_leash: Leash) -> None:
    """With `wait` all of them pass in the end; one with a shorter wait is denied."""
    one_leash.load(one={**BROAD, "rate": {"writes": {"limit": "100/second", "burst": 5}}})

    async def work(agent: Any) -> list[Any]:
        return await outcomes(*(agent.incr("t:n") for _ in range(20)))

    assert sorted(running(one_leash, work, wait=True)) == [*range(1, 21)]
    one_leash.load(one={**BROAD, "rate": {"requests": {"limit": "2/hour", "burst": 2}}})
    assert kinds(running(one_leash, work, wait=1)) == {"int": 1, RateLimitedError.__name__: 19}


def test_refusal_of_the_whole_is_told_to_each(leash: Leash) -> None:
    """Every task raises an exception of its own, which it may change and chain."""
    issued = leash.issue("one")

    async def work(agent: Any) -> list[Any]:
        revoke(leash.store, token_id=issued.id)
        return await outcomes(*(agent.get("t:a") for _ in range(10)))

    found = running(leash, work, token=issued.token)
    assert kinds(found) == {TokenRevokedError.__name__: 10}
    assert len({id(error) for error in found}) == 10


class NoCredentialsError(Exception):
    """As others write them: its arguments are not those that it is made of."""

    def __init__(self, source: str, code: int = 0) -> None:
        super().__init__(f"no credentials from {source}", code)


class TwoWordedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)


@pytest.mark.parametrize("error", [NoCredentialsError("vault", 3), TwoWordedError(3, "gone")])
def test_error_that_cannot_be_copied_is_told_to_each(one_leash: Leash, error: Exception) -> None:
    """An error of the user's own credentials, for example: each task gets it, with its text."""

    class Credentials(redis.CredentialProvider):
        async def get_credentials_async(self) -> Any:
            raise error

    async def work(agent: Any) -> None:
        agent.connection_pool.connection_kwargs["credential_provider"] = Credentials()
        await agent.connection_pool.disconnect()
        agent.connection_pool._available_connections.clear()
        found = await asyncio.wait_for(outcomes(*(agent.incr("t:n") for _ in range(3))), 60)
        assert [str(item) for item in found] == [str(error)] * 3
        assert kinds(found) == {type(error).__name__: 3}

    running(one_leash, work)


def test_task_cancelled_before_the_turn_ends_sends_nothing(leash: Leash) -> None:
    """And the others go without it."""

    async def work(agent: Any) -> None:
        tasks = [asyncio.ensure_future(agent.incr(f"t:{n}")) for n in range(10)]
        asyncio.get_running_loop().call_soon(tasks[3].cancel)
        found = await outcomes(*tasks)
        assert isinstance(found.pop(3), asyncio.CancelledError)
        assert found == [1] * 9

    running(leash, work)
    assert leash.admin.get("t:3") is None


@pytest.mark.parametrize("cancelled", [2, 3])
def test_task_cancelled_before_there_is_a_connection_sends_nothing(
    one_leash: Leash, cancelled: int
) -> None:
    """Or its command might run long after those that the task sent since."""

    async def work(agent: Any) -> None:
        there, connect = asyncio.Event(), agent.connection_pool.get_connection

        async def slow(*args: Any) -> Any:
            await there.wait()
            return await connect(*args)

        agent.connection_pool.get_connection = slow
        tasks = [asyncio.ensure_future(agent.incr(f"t:{n}")) for n in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        for task in tasks[:cancelled]:
            task.cancel()
        there.set()
        assert kinds(await outcomes(*tasks[:cancelled])) == {"CancelledError": cancelled}
        assert await asyncio.wait_for(outcomes(*tasks[cancelled:]), 60) == [1] * (3 - cancelled)
        assert await asyncio.wait_for(outcomes(agent.incr("t:0"), agent.incr("t:2")), 60) == [
            1,
            1 + (cancelled == 2),
        ]

    running(one_leash, work)


def test_task_cancelled_at_any_time_harms_no_other(leash: Leash) -> None:
    """No other task's reply is lost or exchanged, whatever the cancelled task awaited."""

    async def work(agent: Any) -> None:
        for steps in range(25):
            tasks = [asyncio.ensure_future(agent.set(f"t:{n}", n)) for n in range(5)]
            tasks += [asyncio.ensure_future(agent.echo(str(n))) for n in range(2)]
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks[2].cancel()
            found = await outcomes(*tasks)
            assert found[:2] + found[3:] == [True] * 4 + [b"0", b"1"]
            assert await outcomes(agent.get("t:0"), agent.get("t:4")) == [b"0", b"4"]

    running(leash, work, max_connections=6)


def test_lone_command_that_is_cancelled_makes_room_for_the_next(one_leash: Leash) -> None:
    """Commands that waited for its reply are sent."""

    async def work(agent: Any) -> None:
        for steps in range(12):
            task = asyncio.ensure_future(agent.get("t:a"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await outcomes(task)
        assert await asyncio.wait_for(asyncio.gather(*(agent.incr("t:n") for _ in range(9))), 60)

    running(one_leash, work)


def test_more_than_one_call_may_carry_is_parted(leash: Leash) -> None:
    """By the number of commands, and by that of their words."""

    async def work(agent: Any) -> None:
        assert await asyncio.gather(*(agent.set(f"t:{n}", n) for n in range(1500))) == [True] * 1500
        many = [f"m{n}" for n in range(MAX_ARGUMENTS // 3)]
        added = await asyncio.gather(*(agent.sadd(f"t:set:{n}", *many) for n in range(8)))
        assert added == [len(many)] * 8
        over = await outcomes(agent.sadd("t:over", *range(MAX_ARGUMENTS)), agent.get("t:7"))
        assert isinstance(over[0], keyleash.ArgsTooManyError)
        assert over[1] == b"7"

    running(leash, work)


def test_large_values_of_one_turn_are_parted_by_their_bytes(
    one_leash: Leash, packets: list[bytes]
) -> None:
    """In one packet still, but not in one call, in which the server would do nothing else."""

    async def work(agent: Any) -> None:
        packets.clear()
        value = "v" * (MAX_CHUNK_BYTES // 2 - 100)
        assert await asyncio.gather(*(agent.set(f"t:{n}", value) for n in range(9))) == [True] * 9

    running(one_leash, work)
    (packet,) = packets
    assert packet.count(b"EVALSHA") == 5


def test_commands_that_may_not_be_batched_go_their_own_way(
    leash: Leash, packets: list[bytes]
) -> None:
    """Blocking ones are polled, and those without a key are no part of an event."""
    leash.admin.rpush("t:list", "x")

    async def work(agent: Any) -> None:
        del packets[:]
        found = await outcomes(
            agent.ping(),
            agent.echo("e"),
            agent.execute_command("ping"),
            agent.blpop("t:list", 1),
            agent.blpop("t:none", 0.1),
        )
        assert found == [True, b"e", True, (b"t:list", b"x"), None]

    running(leash, work)
    calls = [packet for packet in packets if b"EVALSHA" in packet]
    digest = leash.digest("one").encode()
    assert len(calls) > 5
    assert all(digest in call for call in calls)


def test_lost_scripts_and_a_new_policy_are_healed_once_for_all(
    leash: Leash, packets: list[bytes]
) -> None:
    """No task notices; the record is asked for, and the script sent, by one of them."""

    async def work(agent: Any) -> None:
        await asyncio.to_thread(leash.admin.script_flush)
        del packets[:]
        assert await asyncio.gather(*(agent.incr("t:a") for _ in range(SPLIT_FROM - 1))) == [
            *range(1, SPLIT_FROM)
        ]
        assert sum(packet.startswith(LOOKUP) for packet in packets) == 1
        assert sum(b"LOAD" in packet for packet in packets) == 1
        await asyncio.to_thread(leash.load, one={**BROAD, "deny": [{"keys": ["t:x"]}]})
        del packets[:]
        found = await outcomes(
            *(agent.incr("t:a") for _ in range(SPLIT_FROM - 2)), agent.get("t:x")
        )
        *counts, denial = found
        assert counts == [*range(SPLIT_FROM, 2 * SPLIT_FROM - 2)]
        assert isinstance(denial, keyleash.KeyDeniedError)
        assert sum(packet.startswith(LOOKUP) for packet in packets) == 1

    running(leash, work)


def test_two_packets_that_find_the_script_lost_or_the_policy_new_are_both_healed(
    leash: Leash,
) -> None:
    """Each on its own connection; every command runs once."""

    async def work(agent: Any) -> None:
        await asyncio.to_thread(leash.admin.script_flush)
        found = await outcomes(*(agent.incr("t:a") for _ in range(50)))
        assert sorted(found) == [*range(1, 51)]
        await asyncio.to_thread(leash.load, one={**BROAD, "deny": [{"keys": ["t:x"]}]})
        found = await outcomes(*(agent.incr("t:a") for _ in range(50)))
        assert sorted(found) == [*range(51, 101)]

    running(leash, work)


def test_packet_of_several_ids_is_healed_call_by_call(leash: Leash) -> None:
    """Only calls that did not run are repeated, both batches and single commands."""

    async def work(agent: Any) -> None:
        for disturb in (leash.admin.script_flush, lambda: leash.load(one={**BROAD, "deny": []})):
            await asyncio.to_thread(disturb)

            async def task(number: int) -> Any:
                with correlation(f"req-{number % 4}"):
                    return await agent.incr(f"t:{number % 4}")

            await asyncio.gather(*map(task, range(10)), agent.incr("t:alone"))

    running(leash, work)
    assert [leash.admin.get(f"t:{n}") for n in range(4)] == [b"6", b"6", b"4", b"4"]
    assert leash.admin.get("t:alone") == b"2"


@pytest.mark.parametrize(("fate", "error"), FATES, ids=[fate.name for fate, _ in FATES])
def test_lost_reply_is_told_to_all_and_nothing_is_sent_again(
    leash: Leash, fate: Fate, error: type[Exception]
) -> None:
    """They ran, no client got a reply, and they do not run again."""
    with contextlib.closing(Proxy(leash.server.port)) as proxy:

        async def work(agent: Any) -> None:
            with losing_the_reply(agent, proxy, fate):
                found = await outcomes(*(agent.incr("t:marked") for _ in range(10)))
            assert kinds(found) == {error.__name__: 10}
            assert proxy.forwarded == 1
            again = [agent.incr("t:marked"), agent.incr("t:marked")]
            assert await outcomes(*again) == [11, 12]

        running(leash, work, port=proxy.port, retry=EAGER_ASYNC, socket_timeout=PATIENCE_S)


def test_connection_that_the_server_closed_is_replaced(leash: Leash) -> None:
    """Where redis-py's pool notices, which it does not under RESP3; nothing had been sent on it."""

    async def work(agent: Any) -> None:
        await asyncio.gather(agent.set("t:n", 0), agent.get("t:n"))
        await asyncio.to_thread(leash.admin.client_kill_filter, _type="normal", skipme=True)
        await asyncio.sleep(0.05)
        assert await outcomes(agent.incr("t:n"), agent.incr("t:n")) == [1, 2]

    running(leash, work, protocol=2)


def test_closing_the_client_fails_what_waits(leash: Leash) -> None:
    """Commands that were not sent fail: no task waits for ever."""

    async def work(agent: Any) -> None:
        tasks = [asyncio.ensure_future(agent.incr("t:n")) for _ in range(5)]
        # They have gathered, and the turn is not over.
        await asyncio.sleep(0)
        agent._coalescing.close()
        await agent.aclose()
        found = await asyncio.wait_for(outcomes(*tasks), 60)
        assert kinds(found) == {"ConnectionError": 5}
        assert await outcomes(agent.incr("t:n"), agent.incr("t:n")) == [1, 2]

    running(leash, work)


def test_loops_are_not_mixed(one_leash: Leash) -> None:
    """A loop that ended with commands gathered leaves nothing to the next."""
    token = one_leash.issue("one").token
    agent = keyleash.asyncio.Redis(port=one_leash.server.port, token=token, coalesce=True)

    async def abandon() -> None:
        asyncio.ensure_future(agent.incr("t:lost"))  # noqa: RUF006
        await asyncio.sleep(0)

    async def work() -> None:
        assert await outcomes(agent.incr("t:n"), agent.incr("t:n")) == [1, 2]
        await agent.aclose()

    asyncio.run(abandon())
    asyncio.run(work())
    assert one_leash.admin.get("t:lost") is None


def test_single_connection_client_coalesces_on_its_connection(one_leash: Leash) -> None:
    """Its lock is the batch's to take."""

    async def work(agent: Any) -> None:
        assert await asyncio.gather(*(agent.incr("t:n") for _ in range(20))) == [*range(1, 21)]
        assert agent.connection is not None

    running(one_leash, work, single_connection_client=True)


def test_parser_and_callbacks_of_the_users_own_are_used(one_leash: Leash) -> None:
    """Also an async callback, and a subclass that reads replies its own way."""

    class Mine(keyleash.asyncio.Redis):
        async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
            return "mine", await super().parse_response(connection, command_name, **options)

    async def slow(response: Any, **_: Any) -> Any:
        await asyncio.sleep(0)
        return "slow", response

    async def work(agent: Any) -> None:
        agent.set_response_callback("GET", slow)
        await agent.set("t:a", "x")
        assert await outcomes(agent.get("t:a"), agent.get("t:a")) == [("slow", b"x")] * 2

    running(one_leash, work)

    async def own() -> None:
        token = one_leash.issue("one").token
        async with Mine(port=one_leash.server.port, token=token, coalesce=True) as agent:
            assert await outcomes(agent.get("t:a"), agent.get("t:a")) == [("mine", b"x")] * 2

    asyncio.run(own())


PARSERS: list[dict[str, Any]] = [
    {"protocol": protocol, "decode_responses": decoded}
    for protocol, decoded in itertools.product((2, 3), (False, True))
]


@pytest.mark.slow
@pytest.mark.parametrize("options", PARSERS, ids=str)
def test_recorded_call_reads_the_same_coalesced_as_raw(
    embedded: RealServer, options: dict[str, Any]
) -> None:
    """Each in a turn with other tasks' commands."""
    with awaiting() as runner:
        twin = AsyncTwin(embedded, runner, **options)
        guarded: Any = twin.guarded
        inner = guarded._inner
        inner._coalesce = True

        class Crowded:
            def execute_command(self, *words: Any, **given: Any) -> Any:
                async def crowded() -> Any:
                    before, between, after = await outcomes(
                        inner.exists("t:missing"),
                        inner.execute_command(*words, **given),
                        inner.get("t:missing"),
                    )
                    assert (before, after) == (0, None)
                    if isinstance(between, Exception):
                        raise between
                    return between

                return runner.run(crowded())

        crowd: Any = Crowded()
        found = []
        for call in recorded_calls():
            if call.name in twin.commands:
                raw, coalesced = (
                    twin.outcome(client, call, with_data=False) for client in (twin.raw, crowd)
                )
                text = difference(call.mark, raw, coalesced)
                if text is not None:
                    found.append(f"{call}: {text}")
        twin.close()
    assert found == []
