"""Servers that keyleash does not support, and commands that do not work on clusters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

import keyleash
import keyleash.asyncio
from keyleash.errors import ClusterError, NotActiveError
from keyleash.operator.load.activate import activate_policy
from keyleash.operator.load.compile import prepare_policy
from keyleash.operator.suspension import freeze
from keyleash.operator.tokens.issue import issue_token
from keyleash.operator.tokens.list import list_tokens
from keyleash.store.server_check import release_of, require_supported
from keyleash.store.store import Store
from support.clusters import RealCluster
from support.command_line import Cli
from support.errors import raises_code
from support.every_command import ONLINE, TOKEN, run_online
from support.fake_resp import FakeResp, bulk, fake_resp, info
from support.loading import load_policy
from support.servers import RealServer


def redis_6(words: list[bytes]) -> bytes:
    """Answer as a Redis 6.2 does on which nothing was ever loaded."""
    match words:
        case [b"INFO", *_]:
            return info("6.2.14")
        case [b"HELLO", *_]:
            return b"-NOPROTO unsupported protocol version\r\n"
        case [b"PING" | b"SELECT" | b"CLIENT", *_]:
            return b"+OK\r\n"
        case [b"HGETALL" | b"HKEYS", *_]:
            return b"*0\r\n"
        case [b"TIME"]:
            return b"*2\r\n" + bulk("1700000000") + bulk("0")
        case [b"FUNCTION", *_]:
            return b"-ERR unknown command `FUNCTION`, with args beginning with: `LOAD`\r\n"
    return b"-ERR unknown command `%s`\r\n" % words[0]


@pytest.fixture
def old() -> Iterator[FakeResp]:
    """A server of before functions."""
    with fake_resp(redis_6) as server:
        yield server


@pytest.mark.parametrize(
    "words",
    [words for words in ONLINE if words[0] in {"plan", "load", "rollback", "doctor"}],
    ids=lambda words: words[0],
)
def test_old_server_is_named_with_what_is_supported_and_left_alone(
    old: FakeResp, example: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Before anything else is sent, since what an old server lacks is found too late."""
    result = run_online(Cli(old.url), words, example, tmp_path)

    assert result.exit_code == 69
    assert result.stderr == (
        "error: the server is Redis 6.2.14, which keyleash does not support\n"
        "help: use Redis 8 or later, or Valkey 8 or later\n"
    )
    assert set(old.names) <= {"CLIENT", "INFO", "PING"}


def test_old_server_gets_no_policy_from_the_library(
    old: FakeResp, embedded: RealServer, example: Path
) -> None:
    """Neither in one step nor when the policy was prepared for another server."""
    client = redis.Redis.from_url(old.url, protocol=2)
    document = example.read_text()
    prepared = prepare_policy(Store(embedded.client()), document)

    for load in (load_policy, prepare_policy):
        with raises_code("unsupported-server"):
            load(Store(client), document)
    with raises_code("unsupported-server"):
        activate_policy(Store(client), prepared)

    assert set(old.names) <= {"CLIENT", "INFO"}


def test_old_server_is_named_to_an_agent(old: FakeResp) -> None:
    """No policy can be loaded there, so the help must not advise that."""

    async def call() -> None:
        async with keyleash.asyncio.Redis.from_url(old.url, token=TOKEN, protocol=2) as client:
            await client.get("k")

    with keyleash.Redis.from_url(old.url, token=TOKEN, protocol=2) as client:
        for run in (lambda: client.get("k"), lambda: asyncio.run(call())):
            with pytest.raises(NotActiveError) as caught:
                run()
            assert caught.value.help == (
                "the server is Redis 6.2.14, which keyleash does not support"
            )


@pytest.mark.parametrize(
    ("lines", "is_supported"),
    [
        ({"redis_version": "7.4.2"}, False),
        ({"redis_version": "8.0.0"}, True),
        ({"redis_version": "255.255.255"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1", "server_name": "valkey"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.9"}, False),
    ],
)
def test_versions_from_8_are_supported_whatever_a_valkey_says_of_redis(
    lines: dict[str, str], is_supported: bool
) -> None:
    """A Valkey 8 calls itself a Redis 7.2 as well."""
    text = "".join(f"{name}:{value}\r\n" for name, value in lines.items())
    with fake_resp(lambda words: bulk(text) if words[0] == b"INFO" else b"+OK\r\n") as server:
        client = redis.Redis.from_url(server.url, protocol=2)
        with contextlib.nullcontext() if is_supported else raises_code("unsupported-server"):
            require_supported(client)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ({"redis_version": "8.0.2", "redis_mode": "sentinel"}, "is a Sentinel"),
        ({"valkey_version": "8.1.0", "server_mode": "sentinel"}, "is a Sentinel"),
        ({"uptime_in_seconds": "1"}, "no version of Redis or Valkey"),
        ({"redis_version": "banana"}, "no version of Redis or Valkey"),
    ],
)
@pytest.mark.parametrize("words", [("status",), ("doctor",)], ids=" ".join)
def test_sentinel_and_server_without_a_version_are_denied(
    lines: dict[str, str], reason: str, words: tuple[str, ...]
) -> None:
    """Otherwise the first command that the server does not know is reported."""
    text = "".join(f"{name}:{value}\r\n" for name, value in lines.items())
    with fake_resp(lambda sent: bulk(text) if sent[0] == b"INFO" else b"+OK\r\n") as server:
        result = Cli(server.url).run(*words)

    assert result.exit_code == 69
    assert result.stderr.startswith("error: the server ")
    assert reason in result.stderr
    assert set(server.names) <= {"CLIENT", "INFO", "PING"}


def test_every_server_of_the_tests_is_supported(server: RealServer) -> None:
    """By its own INFO."""
    client = server.client()

    require_supported(client)
    assert release_of(client.info("server"))[0] in server.label


def test_cluster_is_named_by_the_client(embedded_cluster: RealCluster) -> None:
    """Single calls, pipelines and batches fail with the same error; none is redirected."""
    client = keyleash.Redis.from_url(embedded_cluster.url, token=TOKEN)

    pipe = client.pipeline()
    pipe.get("k")
    for call in (lambda: client.get("k"), pipe.execute):
        with pytest.raises(ClusterError) as caught:
            call()
        assert isinstance(caught.value, redis.ResponseError)
        assert "RedisCluster" in (caught.value.help or "")


@pytest.mark.parametrize("decodes", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: freeze(Store(client), reason="x"),
        lambda client: issue_token(Store(client), "agent-runner"),
        lambda client: list_tokens(Store(client)),
    ],
    ids=["freeze", "issue", "list"],
)
def test_cluster_is_named_by_functions_for_operators(
    embedded_cluster: RealCluster, call: Callable[[redis.Redis], object], decodes: bool
) -> None:
    """Whichever node has the slots, and in scripts as well as in commands."""
    client = redis.Redis.from_url(embedded_cluster.url, decode_responses=decodes)
    with client, pytest.raises(ClusterError):
        call(client)


async def _call(url: str) -> None:
    async with keyleash.asyncio.Redis.from_url(url, token=TOKEN) as client:
        await client.get("k")


def test_cluster_is_named_by_the_asyncio_client(embedded_cluster: RealCluster) -> None:
    """As the sync one does."""
    with pytest.raises(ClusterError):
        asyncio.run(_call(embedded_cluster.url))


@pytest.mark.parametrize(
    "reply",
    [
        b"-MOVED 7627 127.0.0.1:7502\r\n",
        b"-ASK 7627 127.0.0.1:7502\r\n",
        b"-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        b"-CLUSTERDOWN Hash slot not served\r\n",
        b"-ERR Script attempted to access a non local key in a cluster node script: 1\r\n",
    ],
)
def test_call_of_a_guard_that_a_cluster_answers_is_a_cluster_error(reply: bytes) -> None:
    """Also where a client found its guard before the slots were assigned elsewhere."""
    fields = ["digest", "1" * 40, "batch_digest", "2" * 40, "policy_digest", "3", "generation", "1"]
    fields += ["commands", "", "wait_replicas", "0", "wait_ms", "0"]
    fields += ["ttl_s", "0", "max_ttl_s", "0", "idle_s", "0", "rotate_after_s", "0", "limits", ""]
    fields += ["takes_runs", "0", "delegates", "0", "takes_ids", "0"]
    fields += ["approved_digest", "", "approved", ""]
    record = b"*%d\r\n" % len(fields) + b"".join(map(bulk, fields))
    with fake_resp(
        lambda words: {b"EVALSHA": reply, b"HGETALL": record}.get(words[0], b"+OK\r\n")
    ) as server:
        client = keyleash.Redis.from_url(server.url, token=TOKEN, protocol=2)
        with pytest.raises(ClusterError):
            client.set("k", "v")
        with pytest.raises(ClusterError), client.batch() as batch:
            batch.set("k", "v")

    assert server.names.count("EVALSHA") == 2
