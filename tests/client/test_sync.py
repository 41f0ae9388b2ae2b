"""keyleash.Redis in the place of redis.Redis."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE

import keyleash
from client.alike import EITHER, ONE_EITHER
from keyleash import correlation
from support.leash import Leash, grant
from support.redis_py import needs_redis_py_8
from support.replication import PATIENCE_S


def test_from_url_makes_a_guarded_client(leash: Leash) -> None:
    """The database number, options in the query and the pool's ownership are the URL's."""
    token = leash.issue("one").token
    with keyleash.Redis.from_url(leash.server.url + "/0?protocol=2", token=token) as client:
        assert client.set("t:a", 1) is True
        assert int(client.get_connection_kwargs()["protocol"]) == 2
    assert type(client) is keyleash.Redis
    assert leash.admin.get("t:a") == b"1"


@needs_redis_py_8
def test_from_pool_takes_the_pool_over(leash: Leash) -> None:
    """Closing the client closes its pool, as with redis-py."""
    pool = redis.ConnectionPool.from_url(leash.server.url, decode_responses=True)
    client = keyleash.Redis.from_pool(pool, token=leash.issue("one").token)
    client.set("t:a", "x")
    assert client.get("t:a") == "x"

    client.close()
    assert all(not connection.is_connected for connection in pool._available_connections)


@needs_redis_py_8
def test_given_pool_is_shared_and_left_open(leash: Leash) -> None:
    """A pool that was passed in belongs to the caller; raw and guarded clients may share it."""
    with redis.ConnectionPool.from_url(leash.server.url) as pool:
        client = keyleash.Redis(connection_pool=pool, token=leash.issue("one").token)
        raw = redis.Redis(connection_pool=pool)
        client.set("t:a", "x")
        assert raw.get("t:a") == b"x"
        client.close()
        assert any(connection.is_connected for connection in pool._available_connections)
        assert raw.get("t:a") == b"x"


def test_arguments_besides_the_token_are_redis_pys(one_leash: Leash) -> None:
    """In its order: host, port, database."""
    client = keyleash.Redis(
        "127.0.0.1", one_leash.server.port, 0, token=one_leash.issue("one").token
    )

    assert client.ping() is True


def test_single_connection_client_keeps_one_connection(leash: Leash) -> None:
    """It is held from the start and given back at the end."""
    client = leash.agent("one", single_connection_client=True)
    connection = client.connection
    client.set("t:a", "x")

    assert client.connection is connection is not None
    assert client.get("t:a") == b"x"
    client.close()
    assert client.connection is None


def test_client_method_gives_a_guarded_client_of_its_own(leash: Leash) -> None:
    """redis-py's client() would have lost the token, or the guard."""
    client = leash.agent("one", decode_responses=True)
    with client.client() as own:
        assert type(own) is keyleash.Redis
        assert own.connection is not None
        own.set("t:a", "x")
        assert own.get("t:a") == "x"
        with pytest.raises(keyleash.KeyNotGrantedError):
            own.get("u:a")


def test_subclass_stays_a_subclass(one_leash: Leash) -> None:
    """The named constructors and client() make what they are called on."""

    class Mine(keyleash.Redis):
        pass

    token = one_leash.issue("one").token
    client = Mine.from_url(one_leash.server.url, token=token)

    assert type(client) is Mine
    assert type(client.client()) is Mine


@needs_redis_py_8
def test_with_block_closes_the_client(leash: Leash) -> None:
    """Also when the block ends in a refusal."""
    with pytest.raises(keyleash.KeyNotGrantedError), leash.agent("one") as client:
        client.get("u:a")

    assert client.connection_pool._in_use_connections == set()
    assert all(not c.is_connected for c in client.connection_pool._available_connections)


def test_refusal_gives_the_connection_back(leash: Leash) -> None:
    """A refusal is a reply: the connection is good, and the next call uses it."""
    client = leash.agent("one", max_connections=1)
    for _ in range(3):
        with pytest.raises(keyleash.KeyNotGrantedError):
            client.get("u:a")
        assert client.get("t:a") is None
    assert client.connection_pool._created_connections == 1


@EITHER
@pytest.mark.parametrize("protocol", [2, 3])
def test_encoding_is_the_clients(leash: Leash, protocol: int) -> None:
    """Replies are decoded by the client's options, and NEVER_DECODE applies per call."""
    client = leash.agent("one", protocol=protocol, decode_responses=True, encoding="latin-1")
    client.set("t:a", b"\xe9")

    assert client.get("t:a") == "é"
    assert client.execute_command("GET", "t:a", **{NEVER_DECODE: True}) == b"\xe9"


@EITHER
def test_own_response_callback_is_called(leash: Leash) -> None:
    """Callbacks belong to the command, not to EVALSHA."""
    client = leash.agent("one")
    client.set_response_callback("GET", lambda response, **_: ("mine", response))
    client.set("t:a", "x")

    got: Any = client.get("t:a")
    assert got == ("mine", b"x")


@EITHER
def test_text_that_a_callback_makes_of_an_integer_is_kept(leash: Leash) -> None:
    """Integers too long for Lua come as text, and not every text is one."""
    client: Any = leash.agent("one")
    client.set_response_callback("INCRBY", lambda response, **_: f"now {response}")

    assert client.incr("t:n") == "now 1"
    assert client.pipeline().incr("t:n").execute() == ["now 2"]


@EITHER
@pytest.mark.parametrize(
    "words",
    [
        ("get", "t:a"),
        ("GeT", b"t:a"),
        (b"get", "t:a"),
        ("GET t:a",),
        (b"GET t:a",),
        ("GET", memoryview(b"t:a")),
        pytest.param(("GET", bytearray(b"t:a")), marks=needs_redis_py_8),
    ],
)
def test_command_may_be_written_as_redis_py_allows(leash: Leash, words: tuple[Any, ...]) -> None:
    """Name in any case, as text or bytes, with arguments in the same string."""
    client = leash.agent("one")
    client.set("t:a", "x")

    assert client.execute_command(*words) == b"x"


@EITHER
@pytest.mark.parametrize(
    "words", [("INCR", "t:n"), ("incr t:n",), (b"INCR", "t:n"), (b"incr t:n",)]
)
def test_integer_beyond_a_double_is_an_integer_however_the_command_is_written(
    leash: Leash, words: tuple[Any, ...]
) -> None:
    """The guard sends it as text, since a Lua number would round it."""
    client = leash.agent("one", decode_responses=True)
    client.set("t:n", 2**53 + 2)

    assert client.execute_command(*words) == 2**53 + 3


@ONE_EITHER
@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (1, b"1"),
        (-(2**63), b"-9223372036854775808"),
        (1.5, b"1.5"),
        (0.1, b"0.1"),
        (memoryview(b"\x00\xff"), b"\x00\xff"),
        pytest.param(bytearray(b"x"), b"x", marks=needs_redis_py_8),
        ("é", "é".encode()),
        ("", b""),
        ("a b\r\n$3\r\nfoo", b"a b\r\n$3\r\nfoo"),
    ],
)
def test_value_is_encoded_as_by_redis_py(one_leash: Leash, value: Any, stored: bytes) -> None:
    """Nothing is stringified on the way."""
    one_leash.agent("one").set("t:a", value)

    assert one_leash.admin.get("t:a") == stored


@ONE_EITHER
@pytest.mark.parametrize("key", [7, 1.5, "é", b"\x00\xff", "a b", "%41", "*", "{tag}"])
def test_key_is_the_same_bytes_as_declared_and_as_argument(one_leash: Leash, key: Any) -> None:
    """A key of any type that redis-py accepts is encoded once, or the guard would deny it."""
    one_leash.load(one={"grants": [grant("read", "write", keys="*")]})
    client = one_leash.agent("one")
    client.set(key, "x")

    assert client.get(key) == b"x"
    assert one_leash.admin.get(key) == b"x"


class CachedPool(redis.ConnectionPool):
    """A pool with a cache, of which no connection is made."""

    def __init__(self) -> None:
        super().__init__(protocol=3, cache_config=redis.cache.CacheConfig())


CONFIG = redis.cache.CacheConfig()
TOKEN = "kl_one_" + "0" * 43


@pytest.mark.parametrize(
    "make",
    [
        lambda kind: kind(token=TOKEN, cache_config=CONFIG),
        lambda kind: kind(token=TOKEN, protocol=3, cache=CachedPool().cache),
        lambda kind: kind(token=TOKEN, connection_pool=CachedPool()),
        lambda kind: kind.from_pool(CachedPool(), token=TOKEN),
        lambda kind: kind.from_url("redis://localhost", token=TOKEN, cache_config=CONFIG),
    ],
)
@pytest.mark.parametrize("kind", [keyleash.Redis, keyleash.asyncio.Redis])
def test_client_side_cache_is_denied_when_the_client_is_made(
    kind: Any, make: Callable[[Any], Any]
) -> None:
    """It would never hold anything: a reply out of it is one that no guard judged."""
    with pytest.raises(keyleash.CommandRefusedError, match="cached reply") as refused:
        make(kind)
    assert "cache_config" in str(refused.value.help)


# Errors that redis-py swallows.


@EITHER
def test_mget_of_nothing_is_an_empty_list(leash: Leash) -> None:
    """redis-py takes the server's arity error for an empty reply, and so does this client."""
    assert leash.agent("one").mget([]) == []


@EITHER
def test_empty_response_stands_for_the_commands_own_error(leash: Leash) -> None:
    """As with redis-py; and for no reply that is none."""
    client = leash.agent("one")
    client.lpush("t:list", 1)

    assert client.execute_command("GET", "t:list", **{EMPTY_RESPONSE: "none"}) == "none"
    assert client.execute_command("LLEN", "t:list", **{EMPTY_RESPONSE: "none"}) == 1


@EITHER
def test_empty_response_does_not_hide_a_lost_script(leash: Leash) -> None:
    """NOSCRIPT is healed before anybody may take it for an empty reply."""
    client = leash.agent("one")
    client.mget([])
    leash.admin.script_flush()

    assert client.mget([]) == []
    assert leash.admin.script_exists(leash.digest("one")) == [True]


# Correlation.


def correlations(leash: Leash) -> list[str]:
    return [event["correlation"] for event in leash.events("one")]


def write_and_be_refused(client: keyleash.Redis) -> None:
    client.set("t:a", 2)
    client.set("u:a", 2)


@EITHER
def test_calls_in_a_correlation_block_carry_its_id(leash: Leash) -> None:
    """Blocks nest, and each ends with itself, also by an exception."""
    client = leash.agent("one")
    with correlation("outer") as given:
        client.set("t:a", 1)
        with pytest.raises(keyleash.KeyNotGrantedError), correlation("inner"):
            write_and_be_refused(client)
        client.set("t:a", 3)
    client.set("t:a", 4)

    assert given == "outer"
    assert correlations(leash)[:3] == ["outer", "inner", "outer"]
    assert correlations(leash)[3] not in {"outer", "inner", ""}


@EITHER
def test_calls_outside_a_block_have_ids_of_their_own(leash: Leash) -> None:
    """Across clients too."""
    clients = [leash.agent("one"), leash.agent("one")]
    for _ in range(3):
        for client in clients:
            client.set("t:a", 1)

    ids = correlations(leash)
    assert len(set(ids)) == 6
    assert all(0 < len(item) < 64 for item in ids)


def test_calls_of_forked_processes_have_ids_of_their_own(one_leash: Leash) -> None:
    """A server that forks its workers makes the client once, before."""
    # In a process of its own: this one has threads, with which a fork may hang.
    port, token = str(one_leash.server.port), one_leash.issue("one").token
    subprocess.run([sys.executable, "-c", FORKING, port, token], check=True, timeout=PATIENCE_S)

    assert len(set(correlations(one_leash))) == len(correlations(one_leash)) == 3


FORKING = """
import os, sys
import keyleash

client = keyleash.Redis(port=int(sys.argv[1]), token=sys.argv[2])
client.set("t:a", 1)
if worker := os.fork():
    os.waitpid(worker, 0)
client.set("t:a", 1)
"""


@EITHER
def test_correlation_id_is_data(leash: Leash) -> None:
    """Spaces, newlines and long ids change nothing else; 256 bytes of it are stored."""
    client = leash.agent("one")
    for given in ("a b\r\n*1", "é" * 300, ""):
        with correlation(given):
            client.set("t:a", 1)

    kept = correlations(leash)
    assert kept[0] == "a b\r\n*1"
    assert kept[1] == "é" * 128
    assert kept[2] == ""


def test_correlation_follows_tasks_and_not_threads(leash: Leash) -> None:
    """A task inherits the block it was made in; a bare thread does not, its own context does."""
    client = leash.agent("one", decode_responses=True)

    async def work(name: str) -> None:
        with correlation(name):
            await asyncio.sleep(0)
            await asyncio.to_thread(client.set, "t:a", name)

    async def both() -> None:
        await asyncio.gather(work("task-1"), work("task-2"))
        client.set("t:a", "outer")

    with correlation("outer"):
        asyncio.run(both())
        thread = threading.Thread(target=client.set, args=("t:a", "thread"))
        thread.start()
        thread.join()
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(client.set, "t:a", "context"))
        thread.start()
        thread.join()

    assert sorted(correlations(leash)[:2]) == ["task-1", "task-2"]
    assert correlations(leash)[2] == "outer"
    assert correlations(leash)[3] not in {"outer", "task-1", "task-2"}
    assert correlations(leash)[4] == "outer"


# Threads.


@pytest.mark.parametrize("shared", [True, False], ids=["pool", "single connection"])
def test_client_shared_by_threads_gives_each_its_own_reply(leash: Leash, shared: bool) -> None:
    """Sixteen threads at once, refusals and errors between their calls."""
    client = leash.agent("one", decode_responses=True, single_connection_client=not shared)

    def work(number: int) -> int:
        key = f"t:{number}"
        for step in range(40):
            assert client.set(key, f"{number}-{step}") is True
            assert client.get(key) == f"{number}-{step}"
            with pytest.raises(keyleash.KeyNotGrantedError) as refused:
                client.get(f"u:{number}")
            assert refused.value.details["key"] == f"u:{number}"
            with pytest.raises(redis.ResponseError, match="not an integer"):
                client.incr(key)
        return client.append(key, "")

    with ThreadPoolExecutor(16) as pool:
        lengths = list(pool.map(work, range(16)))
    assert lengths == [len(f"{number}-39") for number in range(16)]
    assert leash.refusals("one") == 16 * 40


# Iterators.


@EITHER
@pytest.mark.parametrize("decode", [False, True])
def test_scan_iterators_give_everything_of_what_is_granted(leash: Leash, decode: bool) -> None:
    """Each step is a call of its own, and judged."""
    leash.load(one={"grants": [grant("read", "write", "scan", keys="t:*")]})
    client: Any = leash.agent("one", decode_responses=decode)
    names = [f"t:{number}" if decode else b"t:%d" % number for number in range(300)]
    pipe = client.pipeline(transaction=False)
    for number, name in enumerate(names):
        pipe.set(name, number)
        pipe.hset("t:hash", name, number).sadd("t:set", name).zadd("t:sorted", {name: number})
    pipe.execute()
    leash.admin.set("u:secret", "x")

    assert {*client.scan_iter("t:*", count=10)} >= {*names}
    assert "secret" not in str([*client.scan_iter("t:*")])
    assert {name for name, _ in client.hscan_iter("t:hash")} == {*names}
    assert {*client.sscan_iter("t:set")} == {*names}
    assert {*client.zscan_iter("t:sorted")} == {(n, float(i)) for i, n in enumerate(names)}
    for refused in ("*", "u:*", None):
        with pytest.raises(keyleash.LeashError):
            list(client.scan_iter(refused))
