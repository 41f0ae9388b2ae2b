"""keyleash.asyncio.Redis in the place of redis.asyncio.Redis: what only an async client does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import NoScriptError

import keyleash
from keyleash import PolicyStaleError, correlation
from support.leash import Leash
from support.streams import command_of


def client(leash: Leash, **options: Any) -> Any:
    return keyleash.asyncio.Redis(port=leash.server.port, token=leash.issue("one").token, **options)


def running(work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await work()

    return asyncio.run(run())


def test_from_url_makes_a_guarded_client(leash: Leash) -> None:
    """The database number, options in the query and the pool's ownership are the URL's."""

    async def work() -> None:
        token = leash.issue("one").token
        url = leash.server.url + "/0?protocol=2"
        async with keyleash.asyncio.Redis.from_url(url, token=token) as agent:
            assert await agent.set("t:a", 1) is True
            assert int(agent.connection_pool.connection_kwargs["protocol"]) == 2
            assert type(agent) is keyleash.asyncio.Redis
        assert all(
            not connection.is_connected
            for connection in agent.connection_pool._available_connections
        )

    running(work)
    assert leash.admin.get("t:a") == b"1"


def test_given_pool_is_copied_and_left_alone(one_leash: Leash) -> None:
    """Its connections are not guarded; the client closes its copy."""

    async def work() -> None:
        token = one_leash.issue("one").token
        for owned in (True, False):
            pool = redis.asyncio.ConnectionPool.from_url(one_leash.server.url)
            make: Any = (
                keyleash.asyncio.Redis.from_pool
                if owned
                else lambda pool, token: keyleash.asyncio.Redis(connection_pool=pool, token=token)
            )
            agent = make(pool, token=token)
            await agent.set("t:a", "x")
            await agent.aclose()
            own = agent.connection_pool._available_connections
            assert [connection.is_connected for connection in own] == [False]
            assert pool._available_connections == []
            await pool.aclose()

    running(work)


def test_single_connection_client_keeps_one_connection(leash: Leash) -> None:
    """It is taken with the first call and given back at the end; tasks take turns on it."""

    async def work() -> None:
        agent = client(leash, single_connection_client=True, decode_responses=True)
        await agent.ping()
        connection = agent.connection
        await asyncio.gather(*(agent.set(f"t:{n}", n) for n in range(20)))

        assert await asyncio.gather(*(agent.get(f"t:{n}") for n in range(20))) == [
            str(n) for n in range(20)
        ]
        assert agent.connection is connection is not None
        await agent.aclose()
        assert agent.connection is None

    running(work)


def test_client_method_and_subclass_stay_guarded(one_leash: Leash) -> None:
    """redis-py's client() would have lost the token, or the guard."""

    class Mine(keyleash.asyncio.Redis):
        pass

    async def work() -> None:
        token = one_leash.issue("one").token
        agent = Mine.from_url(one_leash.server.url, token=token, wait=2)
        async with agent, agent.client() as own:
            assert type(own) is type(agent) is Mine
            assert own.connection is not None
            assert own.connection.wait_s == 2  # type: ignore[attr-defined]
            await own.set("t:a", "x")
            with pytest.raises(keyleash.KeyNotGrantedError):
                await own.get("u:a")

    running(work)


def test_refusal_gives_the_connection_back(leash: Leash) -> None:
    """A refusal is a reply: the connection is good, and the next call uses it."""

    async def work() -> None:
        async with client(leash, max_connections=1) as agent:
            for _ in range(3):
                with pytest.raises(keyleash.KeyNotGrantedError):
                    await agent.get("u:a")
                assert await agent.get("t:a") is None

    running(work)


def test_async_response_callback_is_awaited(one_leash: Leash) -> None:
    """redis-py takes both kinds, for commands and in pipelines."""

    async def work() -> None:
        async def mine(response: Any, **_: Any) -> Any:
            await asyncio.sleep(0)
            return "mine", response

        async with client(one_leash) as agent:
            agent.set_response_callback("GET", mine)
            await agent.set("t:a", "x")

            assert await agent.get("t:a") == ("mine", b"x")
            assert await agent.pipeline().get("t:a").execute() == [("mine", b"x")]

    running(work)


def test_task_that_is_cancelled_leaves_no_reply_for_the_next(leash: Leash) -> None:
    """Cancelled at any await, the connection is closed rather than given on with a reply."""

    async def work() -> None:
        async with client(leash, max_connections=1) as agent:
            await agent.set("t:a", "a")
            await agent.set("t:b", "b")
            for steps in range(1, 12):
                task = asyncio.ensure_future(agent.get("t:a"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert await agent.get("t:b") == b"b"

    running(work)


def test_waiting_call_ends_whenever_it_is_cancelled(one_leash: Leash) -> None:
    """Also in the step after it was sent, where `asyncio.wait_for` of Python 3.11 goes on."""

    async def work() -> list[int]:
        going_on = []
        async with client(one_leash) as agent:
            for steps in range(1, 13):
                await agent.get("t:list")
                task = asyncio.ensure_future(agent.blpop("t:list", 0))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                if not (await asyncio.wait([task], timeout=30))[0]:
                    going_on.append(steps)
                while not task.done():
                    task.cancel()
                    await asyncio.sleep(0.01)
        return going_on

    assert running(work) == []


def test_fifty_tasks_each_get_their_own_reply(leash: Leash) -> None:
    """Refusals and errors between their calls, and the correlation of each task's own."""

    async def work() -> None:
        async with client(leash, decode_responses=True) as agent:

            async def task(number: int) -> None:
                key = f"t:{number}"
                with correlation(key):
                    for step in range(10):
                        await agent.set(key, f"{number}-{step}")
                        assert await agent.get(key) == f"{number}-{step}"
                        with pytest.raises(keyleash.KeyNotGrantedError):
                            await agent.get(f"u:{number}")
                        with pytest.raises(redis.ResponseError, match="not an integer"):
                            await agent.incr(key)

            await asyncio.gather(*map(task, range(50)))

    running(work)
    assert leash.refusals("one") == 50 * 10
    sets = [event for event in leash.events("one") if "correlation" in event]
    assert all(event["correlation"] == command_of(event)[1] for event in sets)


def test_tasks_heal_together_while_policies_and_scripts_come_and_go(leash: Leash) -> None:
    """Each call succeeds or says a word of the leash's, and what succeeded ran once."""
    rules = [
        {"grants": [{"allow": ["read", "write"], "keys": ["t:*"]}], "deny": [{"keys": [deny]}]}
        for deny in ("t:x", "t:y")
    ]
    leash.load(one=rules[0])

    async def work() -> list[int]:
        async with client(leash) as agent:

            async def count(number: int) -> int:
                counted = 0
                for _ in range(20):
                    try:
                        await agent.pipeline().incr(f"t:{number}").execute()
                        await agent.incr(f"t:{number}")
                    except (PolicyStaleError, NoScriptError):
                        continue
                    counted += 2
                return counted

            async def disturb() -> None:
                for number in range(10):
                    await asyncio.to_thread(leash.load, one=rules[number % 2])
                    await asyncio.to_thread(leash.admin.script_flush)

            *counted, _ = await asyncio.gather(*map(count, range(16)), disturb())
            return [int(item or 0) for item in counted]

    counted = running(work)
    assert sum(counted) > 0
    for number, at_least in enumerate(counted):
        assert int(leash.admin.get(f"t:{number}") or 0) >= at_least


@pytest.mark.parametrize("coalesce", [False, True])
def test_guard_is_found_whatever_the_encoding(one_leash: Leash, coalesce: bool) -> None:
    """The encoding is that of the user's words, not of the name of the guard's record."""

    async def work() -> None:
        async with client(one_leash, encoding="utf-16-le", coalesce=coalesce) as agent:
            keys = [b"t:a", b"t:b"]
            assert await asyncio.gather(*(agent.set(key, "é") for key in keys)) == [True, True]

    running(work)
    assert one_leash.admin.mget("t:a", "t:b") == ["é".encode("utf-16-le")] * 2
