"""redis-py, by `redis.Redis.from_url`."""

from __future__ import annotations

import os
import threading
from typing import Any

import redis
from steps import URL, denied, key, step

protocol = os.environ.get("PROTOCOL")
options: dict[str, Any] = {"decode_responses": True, "client_name": "redis-py-1"}
if protocol:
    options["protocol"] = int(protocol)
r: Any = redis.Redis.from_url(URL, **options)


def kinds() -> list[Any]:
    return [
        r.set(key("state"), "running", ex=100),
        r.get(key("state")),
        r.hset(key("h"), mapping={"a": 1, "b": 2}),
        r.hgetall(key("h")),
        r.sadd(key("s"), "a", "b"),
        r.smembers(key("s")),
        r.zadd(key("z"), {"m": 1.5}),
        [tuple(item) for item in r.zrange(key("z"), 0, -1, withscores=True)],
        r.zscore(key("z"), "m"),
        r.xadd(key("x"), {"f": "v"}, id="1-1"),
        r.xrange(key("x")),
        r.get(key("none")),
        r.type(key("h")),
    ]


def pipelined() -> list[Any]:
    pipeline = r.pipeline(transaction=False)
    pipeline.set(key("n"), 1).incr(key("n")).get("other").incr(key("n"))
    return [str(reply)[:21] for reply in pipeline.execute(raise_on_error=False)]


def watched(conflict: bool) -> Any:
    with r.pipeline() as pipeline:
        pipeline.watch(key("n"))
        if conflict:
            r.set(key("n"), "theirs")
        pipeline.multi()
        pipeline.set(key("n"), "mine")
        try:
            return pipeline.execute()
        except redis.WatchError:
            return "WatchError"


def blocked() -> list[Any]:
    later = threading.Timer(0.2, r.rpush, (key("q"), "x"))
    later.start()
    seen = [list(r.blpop(key("q"), timeout=10)), r.blpop(key("q"), timeout=1)]
    later.join()
    return seen


def subscribed() -> list[Any]:
    with r.pubsub() as subscriber:
        subscriber.psubscribe("agents:news:*")
        first: Any = subscriber.get_message(timeout=10)
        r.publish("agents:news:1", "hi")
        message: Any = subscriber.get_message(timeout=10)
        return [first["data"], message["channel"], message["data"]]


def locked() -> list[Any]:
    lock, other = (r.lock(key("lock"), timeout=10) for _ in range(2))
    seen = [lock.acquire(blocking=False), other.acquire(blocking=False), lock.extend(5)]
    lock.release()
    return [*seen, other.acquire(blocking=False)]


def released_by_script() -> list[Any]:
    release = r.register_script(os.environ["RELEASE_LUA"])
    r.set(key("mine"), "a")
    return [release(keys=[key("mine")], args=[value]) for value in "ba"]


def exact() -> Any:
    r.set(key("big"), "9007199254740992")
    return r.incr(key("big"))


step(
    "Strings, hashes, sets, sorted sets, streams",
    kinds,
    [
        True, "running", 2, {"a": "1", "b": "2"}, 2, {"a", "b"}, 1, [("m", 1.5)], 1.5,
        "1-1", [("1-1", {"f": "v"})], None, "hash",
    ],
)  # fmt: skip
denied(
    "Denials, as errors",
    {
        "KEY_NOT_GRANTED": lambda: r.get("agents:context:1"),
        "COMMAND_REFUSED": r.flushall,
        "CHANNEL_NOT_GRANTED": lambda: r.publish("news", "hi"),
    },
)
step("Pipelines", pipelined, ["True", "2", "LEASH KEY_NOT_GRANTED", "3"])
step(
    "Transactions",
    lambda: r.pipeline().set(key("n"), 5).incr(key("n")).hgetall(key("h")).execute(),
    [True, 6, {"a": "1", "b": "2"}],
)
step(
    "WATCH, with a conflict and without",
    lambda: [watched(True), watched(False), r.get(key("n"))],
    ["WatchError", [True], "mine"],
)
step("Blocking commands", blocked, [[key("q"), "x"], None])
step("Subscriptions", subscribed, [1, "agents:news:1", "hi"])
step("Locks", locked, [True, False, True, True])
step("Approved scripts", released_by_script, [0, 1])
step("SCAN", lambda: [*r.scan_iter(key("h*"))], [key("h")])
step("Integers past 2^53", exact, 9007199254740993)
step("INFO and CLIENT", lambda: [r.info()["role"], r.client_getname()], ["master", "redis-py-1"])
r.close()
