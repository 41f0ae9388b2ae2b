"""redis-py, by `redis.asyncio.Redis.from_url`."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import redis
import redis.asyncio
from steps import URL, denied, key, step

protocol = os.environ.get("PROTOCOL")
options: dict[str, Any] = {"decode_responses": True, "client_name": "redis-py-2"}
if protocol:
    options["protocol"] = int(protocol)
r: Any
runner = asyncio.Runner()
run = runner.run


async def opened() -> Any:
    return redis.asyncio.Redis.from_url(URL, **options)


async def kinds() -> list[Any]:
    return [
        await r.set(key("state"), "running", ex=100),
        await r.get(key("state")),
        await r.hset(key("h"), mapping={"a": 1, "b": 2}),
        await r.hgetall(key("h")),
        await r.smembers(key("none")),
        await r.zadd(key("z"), {"m": 1.5}),
        await r.zscore(key("z"), "m"),
        await r.xadd(key("x"), {"f": "v"}, id="1-1"),
        await r.xrange(key("x")),
    ]


async def pipelined() -> list[Any]:
    pipeline = r.pipeline(transaction=False)
    pipeline.set(key("n"), 1).incr(key("n")).get("other").incr(key("n"))
    return [str(reply)[:21] for reply in await pipeline.execute(raise_on_error=False)]


async def watched(conflict: bool) -> Any:
    async with r.pipeline() as pipeline:
        await pipeline.watch(key("n"))
        if conflict:
            await r.set(key("n"), "theirs")
        pipeline.multi()
        pipeline.set(key("n"), "mine")
        try:
            return await pipeline.execute()
        except redis.WatchError:
            return "WatchError"


async def blocked() -> list[Any]:
    items = [asyncio.create_task(r.blpop(key("q"), timeout=10)) for _ in range(5)]
    await asyncio.sleep(0.1)
    await r.rpush(key("q"), *"abcde")
    return sorted(item for _, item in await asyncio.gather(*items))


async def subscribed() -> list[Any]:
    async with r.pubsub() as subscriber:
        await subscriber.subscribe("agents:news:1")
        first = await subscriber.get_message(timeout=10)
        await r.publish("agents:news:1", "hi")
        message = await subscriber.get_message(timeout=10)
        return [first["data"], message["channel"], message["data"]]


async def locked() -> list[Any]:
    first, other = (r.lock(key("lock"), timeout=10) for _ in range(2))
    seen = [await first.acquire(blocking=False), await other.acquire(blocking=False)]
    await first.release()
    return [*seen, await other.acquire(blocking=False)]


async def many() -> int:
    return sum(await asyncio.gather(*(r.incr(key("many")) for _ in range(100))))


r = run(opened())
step(
    "Strings, hashes, sets, sorted sets, streams",
    lambda: run(kinds()),
    [True, "running", 2, {"a": "1", "b": "2"}, set(), 1, 1.5, "1-1", [("1-1", {"f": "v"})]],
)
denied(
    "Denials, as errors",
    {
        "KEY_NOT_GRANTED": lambda: run(r.get("agents:context:1")),
        "COMMAND_REFUSED": lambda: run(r.flushall()),
        "CHANNEL_NOT_GRANTED": lambda: run(r.publish("news", "hi")),
    },
)
step("Pipelines", lambda: run(pipelined()), ["True", "2", "LEASH KEY_NOT_GRANTED", "3"])
step("Many connections at a time", lambda: run(many()), 5050)
step("Transactions", lambda: run(r.pipeline().set(key("n"), 5).incr(key("n")).execute()), [True, 6])
step(
    "WATCH, with a conflict and without",
    lambda: [run(watched(True)), run(watched(False)), run(r.get(key("n")))],
    ["WatchError", [True], "mine"],
)
step("Blocking commands", lambda: run(blocked()), [*"abcde"])
step("Subscriptions", lambda: run(subscribed()), [1, "agents:news:1", "hi"])
step("Locks", lambda: run(locked()), [True, False, True])
run(r.aclose())
runner.close()
