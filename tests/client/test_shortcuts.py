"""Common commands without options: the words that are sent, and calls that are interrupted."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
import keyleash.asyncio
from client.alike import EITHER
from keyleash.client.shortcuts import SHORTCUTS
from support.leash import Leash
from support.redis_py import MAJOR

CALLS: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "set": [
        (("k", "v"), {}),
        ((b"k", memoryview(b"v")), {}),
        (("k", None), {}),
        (("k", "v", 5), {}),
        (("k", "v"), {"get": True}),
        (("k",), {"value": 1.5}),
    ],
    "hset": [
        (("k", "f", 1), {}),
        (("k", b"f", None), {}),
        (("k", None, "v"), {}),
        (("k",), {"mapping": {"f": 1}}),
        (("k", "f", "v", {"g": 2}), {}),
        (("k", "f"), {}),
    ],
    "expire": [
        (("k", 5), {}),
        (("k", "5"), {}),
        (("k", True), {}),
        (("k", timedelta(minutes=1)), {}),
        (("k", 5), {"nx": True}),
        (("k", 5, False, True), {}),
    ],
    "pexpire": [(("k", 5), {}), (("k", timedelta(minutes=1)), {}), (("k", 5), {"gt": True})],
    "zadd": [
        (("k", {"m": 1, b"n": 2.5}), {}),
        (("k", {}), {}),
        (("k", None), {}),
        (("k", {"m": 1}), {"incr": True}),
        (("k", {"m": 1}, True, True), {}),
    ],
    "xadd": [
        (("k", {"f": 1, b"g": b"v"}), {}),
        (("k", {}), {}),
        (("k", [("f", 1)]), {}),
        (("k", {"f": 1}, "1-1"), {}),
        (("k", {"f": 1}), {"maxlen": 5}),
    ],
}
"""Calls of each method that has a shortcut: with the arguments of the shortcut, and others."""


def words_of(method: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return what a method passes to `execute_command`, or the error that it raises."""

    class Recorder:
        def execute_command(self, *words: Any, **options: Any) -> Any:
            return words, options

    try:
        return method(Recorder(), *args, **options)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", SHORTCUTS)
def test_shortcut_sends_the_words_of_redis_py(name: str) -> None:
    """In redis-py's own words, types included, or with its own error."""
    for own, plain in (
        (keyleash.Redis, redis.Redis),
        (keyleash.asyncio.Redis, redis.asyncio.Redis),
    ):
        assert inspect.signature(getattr(own, name)) == inspect.signature(getattr(plain, name))
        for args, options in CALLS[name]:
            found = words_of(getattr(own, name), args, options)
            expected = words_of(getattr(plain, name), args, options)
            assert found == expected, (args, options)
            if isinstance(found[0], tuple):
                assert [*map(type, found[0])] == [*map(type, expected[0])]


@EITHER
def test_subclass_that_overrides_execute_command_sees_every_call(leash: Leash) -> None:
    """Libraries count and trace calls there."""
    client = leash.agent("one")
    inner: Any = getattr(client, "_inner", client)
    base = type(inner)
    seen: list[Any] = []

    class Traced(base):  # type: ignore[misc, valid-type]
        def execute_command(self, *words: Any, **options: Any) -> Any:
            seen.append(words)
            return super().execute_command(*words, **options)

    inner.__class__ = Traced
    assert client.set("t:a", "a") is True
    assert client.hset("t:h", "f", "v") == 1
    assert client.get("t:a") == b"a"
    assert seen == [("SET", "t:a", "a"), ("HSET", "t:h", "f", "v"), ("GET", "t:a")]


def test_library_that_replaces_the_method_of_redis_py_sees_every_call(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing libraries do that to redis-py's own classes."""
    seen: list[Any] = []

    def replace(owner: Any) -> None:
        own = owner.execute_command

        def traced(self: Any, *words: Any, **options: Any) -> Any:
            seen.append(words)
            return own(self, *words, **options)

        monkeypatch.setattr(owner, "execute_command", traced)

    replace(redis.Redis)
    replace(redis.asyncio.Redis)
    client = leash.agent("one")
    seen.clear()

    assert client.set("t:a", "a") is True
    assert client.get("t:a") == b"a"
    assert seen == [("SET", "t:a", "a"), ("GET", "t:a")]


# Interrupts in redis-py 7 may leave one of its locks acquired.
CLIENTS = (keyleash,) if MAJOR < 8 else (keyleash, redis)
CLIENT_CODE = tuple(folder for client in CLIENTS for folder in client.__path__)


class InterruptedError(BaseException):
    """A signal, such as Ctrl-C."""


def interrupted(call: Callable[[], Any], at: int) -> bool:
    """Interrupt *call* at the line number *at* that clients run; return False if it ends before."""
    left = at

    def trace(frame: Any, event: str, _arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(CLIENT_CODE):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise InterruptedError
        return trace

    sys.settrace(trace)
    try:
        with suppress(InterruptedError):
            call()
    finally:
        sys.settrace(None)
    return left <= 0


def get_in_pipeline(client: Any, key: str, **options: Any) -> Any:
    with client.pipeline(**options) as pipe:
        pipe.get(key)
        pipe.get(key)
        return pipe.execute()


def get_in_batch(client: Any, key: str) -> Any:
    with client.batch() as batch:
        batch.get(key)
        batch.get(key)
    return batch.results


WAYS: dict[str, Callable[[Any, str], Any]] = {
    "get": lambda client, key: client.get(key),
    "pipeline": lambda client, key: get_in_pipeline(client, key, transaction=False),
    "transaction": get_in_pipeline,
    "batch": get_in_batch,
    "whoami": lambda client, key: client.get(key) if key == "t:b" else client.whoami(),
}


# The interrupt may reach a destructor.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", WAYS)
def test_call_interrupted_at_any_line_leaves_no_reply_for_the_next(
    one_leash: Leash, way: str
) -> None:
    """Between the request and the end of its reply the connection must not be used again."""
    client = one_leash.agent("one")
    get = WAYS[way]
    client.set("t:a", "a")
    client.set("t:b", "b")
    at, missed = 0, get(client, "t:b")

    while True:
        at += 1
        was_interrupted = interrupted(lambda: get(client, "t:a"), at)
        assert get(client, "t:b") == missed, f"at line {at}"
        if not was_interrupted:
            break
    assert at > 50


@pytest.mark.parametrize("way", ["get", "pipeline", "transaction"])
def test_task_cancelled_at_any_step_leaves_no_reply_for_the_next(
    one_leash: Leash, way: str
) -> None:
    """The same for tasks."""

    async def get(client: keyleash.asyncio.Redis, key: str) -> Any:
        if way == "get":
            return await client.get(key)
        async with client.pipeline(transaction=way == "transaction") as pipe:
            pipe.get(key)
            pipe.get(key)
            return await pipe.execute()

    async def run() -> None:
        url, token = one_leash.server.url, one_leash.issue("one").token
        async with keyleash.asyncio.Redis.from_url(url, token=token) as client:
            await client.set("t:a", "a")
            await client.set("t:b", "b")
            expected = await get(client, "t:b")
            for steps in range(60):
                task = asyncio.create_task(get(client, "t:a"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert await get(client, "t:b") == expected, f"after {steps} steps"

    asyncio.run(run())
