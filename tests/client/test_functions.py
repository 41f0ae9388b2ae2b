"""Clients of guards that are functions: called by FCALL, found again when they are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import keyleash
from client.alike import AsyncLeash, SyncLeash
from client.conftest import BROAD
from keyleash.client import recovery
from keyleash.errors import (
    GuardLostError,
    KeyleashError,
)
from keyleash.store.wire import Transport, function_name
from support.errors import raises_code
from support.leash import NAMES, Leash, grant
from support.servers import RealServers, embedded_label, find_server_binaries

OTHER: dict[str, Any] = {**BROAD, "deny": [{"keys": ["t:x"]}]}
KINDS: list[tuple[str, type[Leash]]] = [
    *((label, SyncLeash) for label in find_server_binaries()),
    (embedded_label(), AsyncLeash),
]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1].__name__}")
def leash(request: pytest.FixtureRequest, real_servers: RealServers) -> Iterator[Leash]:
    label, kind = request.param
    with real_servers.lend(label) as server:
        leash = kind(server, transport=Transport.FUNCTION)
        leash.load(one=BROAD)
        yield leash
        if isinstance(leash, AsyncLeash):
            leash.close()


def sent(packets: list[bytes]) -> list[str]:
    return [packet.split(b"\r\n")[2].decode() for packet in packets]


def ready(leash: Leash, packets: list[bytes], **options: Any) -> Any:
    """A client that has found its guard; what was sent until then is forgotten."""
    client = leash.agent("one", **options)
    client.ping()
    packets.clear()
    return client


def test_commands_pipelines_and_polls_go_by_fcall(leash: Leash, packets: list[bytes]) -> None:
    """Whatever a client sends is a call of a function."""
    client = ready(leash, packets)

    assert client.set("t:a", 1) is True
    assert client.pipeline(transaction=False).incr("t:a").get("t:a").execute() == [2, b"2"]
    assert client.pipeline().incr("t:a").execute() == [3]
    assert client.blpop(["t:none"], 0.001) is None
    assert client.incr("t:big", 2**53 + 1) == 2**53 + 1
    assert set(sent(packets)) == {"FCALL"}


def test_flushed_function_is_loaded_again_inside_the_call(
    leash: Leash, packets: list[bytes]
) -> None:
    """Nothing ran, so the call is made again: that of a command, and that of a batch."""
    client = ready(leash, packets)
    leash.admin.function_flush()
    packets.clear()

    assert client.incr("t:n") == 1
    assert sent(packets) == ["FCALL", "HGETALL", "HGET", "FUNCTION", "FCALL"]
    assert client.pipeline().incr("t:n").execute() == [2]
    assert client.incr("t:n") == 3
    assert len(leash.events("one")) == 3
    leash.admin.script_flush()
    packets.clear()
    assert client.incr("t:n") == 4
    assert sent(packets) == ["FCALL"]


def test_function_that_was_brought_back_is_that_of_a_load(
    leash: Leash, packets: list[bytes]
) -> None:
    """So the next load of the same policy has nothing to do."""
    client = ready(leash, packets)
    before = leash.admin.function_list(withcode=True)
    leash.admin.function_flush()
    client.get("t:a")
    client.pipeline().get("t:a").execute()

    after = leash.admin.function_list(withcode=True)
    assert sorted(map(str, after)) == sorted(map(str, before))


def test_flushed_function_with_a_tampered_source_is_not_loaded(
    leash: Leash, packets: list[bytes]
) -> None:
    """A client that may write to the record must not be able to run code as every agent."""
    client = ready(leash, packets)
    leash.admin.hset(NAMES.source("one"), leash.digest("one"), "return redis.call(unpack(ARGV, 4))")
    leash.admin.function_flush()

    with raises_code("digest-mismatch"):
        client.set("t:a", 1)
    assert leash.admin.function_list() == []
    assert leash.admin.get("t:a") is None


def test_agent_that_may_not_load_hears_that_nobody_did(
    leash: Leash, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a lost script: it asks again for a while, and then says who can help."""
    monkeypatch.setattr(recovery, "PAUSES_S", (0.01, 0.01))
    client = ready(leash, packets)
    rules = ["on", ">pw", "~*", "+@all", "-function", "-script"]
    leash.admin.execute_command("ACL", "SETUSER", "fenced", *rules)
    fenced: Any = leash.client(client._session._token, username="fenced", password="pw")
    assert fenced.set("t:a", 1) is True
    leash.admin.function_flush()
    packets.clear()

    with pytest.raises(GuardLostError, match="no client loaded it"):
        fenced.set("t:a", 2)
    assert sent(packets).count("FCALL") == 3
    assert leash.admin.get("t:a") == b"1"


@pytest.mark.parametrize("now", list(Transport))
@pytest.mark.parametrize("rules", [BROAD, OTHER], ids=["same policy", "other policy"])
def test_client_follows_a_load_by_either_transport(
    leash: Leash, packets: list[bytes], now: Transport, rules: dict[str, Any]
) -> None:
    """Inside the call: the old function is gone, and the record says what to call instead."""
    client = ready(leash, packets)
    leash.transport = now
    leash.load(one={**rules, "rate": {"requests": "1000/minute"}})
    packets.clear()

    assert client.incr("t:n") == 1
    assert sent(packets) == ["FCALL", "HGETALL", "FCALL" if now == "function" else "EVALSHA"]
    assert client.pipeline().incr("t:n").execute() == [2]


def test_client_of_scripts_follows_a_load_by_functions(leash: Leash, packets: list[bytes]) -> None:
    """By the script while the server has it, since it is the same guard; then by the function."""
    leash.transport = Transport.EVALSHA
    leash.load(one=BROAD)
    client = ready(leash, packets)
    leash.transport = Transport.FUNCTION
    leash.load(one=BROAD)
    packets.clear()

    assert client.incr("t:n") == 1
    assert sent(packets) == ["EVALSHA"]
    leash.admin.script_flush()
    packets.clear()
    assert client.incr("t:n") == 2
    assert sent(packets) == ["EVALSHA", "HGETALL", "FCALL"]


def test_server_that_was_flushed_is_not_active(leash: Leash, packets: list[bytes]) -> None:
    """Functions outlive FLUSHALL; without a state they refuse."""
    client = ready(leash, packets)
    leash.admin.flushall()

    for _ in range(2):
        with pytest.raises(keyleash.NotActiveError):
            client.set("t:a", 1)
    assert leash.admin.get("t:a") is None


def test_record_of_a_transport_to_come_is_an_error(leash: Leash, packets: list[bytes]) -> None:
    """An old client cannot know how to call it, and says so."""
    leash.admin.hset(NAMES.guard("one"), "transport", "telepathy")

    with pytest.raises(KeyleashError, match="`telepathy`") as error:
        leash.agent("one").set("t:a", 1)
    assert error.value.help == "update keyleash on this side"


def test_error_with_these_words_of_one_command_of_a_batch_is_its_own(leash: Leash) -> None:
    """All others have run: the batch must not be sent again."""
    client: Any = leash.agent("one")
    client.ping()
    error = client._session.typed_error(redis.ResponseError("Function not found"))

    assert type(error) is redis.ResponseError


def test_tasks_whose_commands_travel_together_heal_together(leash: Leash) -> None:
    """One packet may hold several calls, and each of them finds no function."""

    async def use() -> list[Any]:
        token = leash.issue("one").token
        async with keyleash.asyncio.Redis(
            port=leash.server.port, token=token, coalesce=True
        ) as client:

            async def work(number: int) -> Any:
                with keyleash.correlation(f"c-{number % 3}"):
                    return await client.incr("t:n")

            await work(0)
            leash.admin.function_flush()
            found = await asyncio.gather(*map(work, range(9)))
            leash.load(one=OTHER)
            return [*found, *await asyncio.gather(*map(work, range(9)))]

    assert sorted(asyncio.run(use())) == list(range(2, 20))


def test_identity_with_hyphens_has_functions_of_its_own(leash: Leash) -> None:
    """Identities may have hyphens, which names of functions may not."""
    leash.load(a_b=BROAD, a__b={"grants": [grant("read", keys="t:*")]})

    assert leash.agent("a-b").set("t:a", 1) is True
    assert leash.agent("a--b").get("t:a") == b"1"
    assert function_name(leash.digest("a-b")) != function_name(leash.digest("a--b"))
