"""Guards of a sealed cluster, on one server: names in the vault keep the slot of their keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from keyleash.store.keyspace import Keyspace
from keyleash.store.wire import BatchMode, to_shard
from support.leash import grant, with_files
from support.sealed import SEALED, assert_hidden
from support.servers import RealServer, RealServers, embedded_label
from support.shards import Sharded

KEYS = SEALED.at_home()
ALL: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", "scan", keys="*")],
    "audit": {"before_images": {"max_bytes": "1kb"}},
}
names = st.text("ab:{}", max_size=12).map(str.encode) | st.binary(max_size=8)


@given(st.tuples(names, names))
def test_names_in_the_vault_keep_the_slot_and_differ(pair: tuple[bytes, bytes]) -> None:
    """The server routes calls by the key, and finds the name in the same slot."""
    for key in pair:
        if KEYS.has_place(key):
            assert key_slot(KEYS.physical(key)) == key_slot(key)
            assert KEYS.logical(KEYS.physical(key)) == key
    if all(map(KEYS.has_place, pair)):
        assert len(set(map(KEYS.physical, pair))) == len(set(pair))


@given(names)
def test_name_that_is_of_no_key_is_not_in_the_vault(name: bytes) -> None:
    """Of a name in the vault there is one key at most, and it has that name."""
    key = KEYS.logical(KEYS.vault.encode() + name)
    assert key is None or KEYS.physical(key) == KEYS.vault.encode() + name


def test_names_on_one_server_are_the_key_behind_the_prefix() -> None:
    """They need no slot."""
    assert SEALED.physical(b"{}") == SEALED.vault.encode() + b"{}"
    assert SEALED.has_place(b"")
    assert Keyspace().physical(b"a") == b"a"


@pytest.fixture
def shards(server: RealServer) -> Sharded:
    return Sharded(server.client(), keyspace=SEALED, **ALL)


@pytest.mark.parametrize("key", ["a", "a{", "{a", "{x}y", "a{x}", "a{x}{y}", "a{b{c}", "{x}}", ":"])
def test_guard_and_operators_name_keys_alike(shards: Sharded, key: str) -> None:
    """Operators find a guard's key under the name that they compute."""
    assert shards.call("a", "SET", key, "1")
    assert shards.client.get(KEYS.physical(key.encode())) == b"1"
    assert shards.leased(shards.batch, "a", BatchMode.ALL, ("INCR", key), ("GET", key)) == [2, b"2"]
    assert shards.call("a", "GET", key) == b"2"


@given(name=st.text("ab:{}", max_size=8))
def test_guard_denies_exactly_keys_without_a_name(embedded_shards: Sharded, name: str) -> None:
    """An empty key, and a brace without a hash tag."""
    outcome = embedded_shards.outcome("a", "SET", name, "1")
    if KEYS.has_place(name.encode()):
        assert outcome == "ran"
        assert embedded_shards.client.exists(KEYS.physical(name.encode()))
    else:
        assert outcome.startswith("LEASH KEY_NOT_GRANTED key=")


@pytest.fixture(scope="module")
def embedded_shards(real_servers: RealServers) -> Iterator[Sharded]:
    with real_servers.lend(embedded_label()) as server:
        yield Sharded(server.client(), keyspace=SEALED, **ALL)


def test_replies_and_errors_have_no_prefix(shards: Sharded) -> None:
    """Names in replies are those of the caller."""
    shards.call("a", "RPUSH", "list", "1", "2")
    shards.call("a", "RPUSH", "li{s}t", "1", "2")
    assert shards.call("a", "BLPOP", "list", "0") == [b"list", b"1"]
    assert shards.call("a", "LMPOP", "1", "li{s}t", "LEFT") == [b"li{s}t", [b"1"]]
    shards.call("a", "XADD", "stream", "1-1", "a", "b")
    streams: Any = shards.call("a", "XREAD", "STREAMS", "stream", "0")
    assert b"stream" in str(streams).encode()
    outcomes = [
        shards.outcome("a", "XGROUP", "CREATE", "missing", "g", "$"),
        shards.outcome("a", "XREADGROUP", "GROUP", "g", "c", "STREAMS", "stream", ">"),
        shards.outcome("a", "XREADGROUP", "GROUP", "g", "c", "STREAMS", "st{r}eam", ">"),
        shards.outcome("a", "INCR", "list"),
    ]
    assert "ran" not in outcomes
    assert any("'stream'" in outcome for outcome in outcomes)
    assert any("'st{r}eam'" in outcome for outcome in outcomes)
    assert_hidden(streams, *outcomes)
    trail = shards.client.execute_command("XRANGE", KEYS.at_shard("a").audit("agent"), "-", "+")
    assert_hidden(trail)


def test_scan_finds_both_forms_of_names(shards: Sharded) -> None:
    """A pattern that does not end with a star cannot find names with a brace behind the key."""
    for key in ("a:1", "a:{x}", "b:1"):
        shards.call("a", "SET", key, "1")
    found = shards.call("a", "SCAN", "0", "MATCH", "a:*", "COUNT", "1000")[1]
    assert sorted(found) == [b"a:1", b"a:{x}"]
    assert sorted(shards.call("a", "SCAN", "0", "COUNT", "1000")[1]) == [b"a:1", b"a:{x}", b"b:1"]
    denied = shards.outcome("a", "SCAN", "0", "MATCH", "a:?")
    assert denied.startswith("LEASH COMMAND_REFUSED")


def test_approved_script_uses_keys_in_the_vault(server: RealServer) -> None:
    """Also such as it has not declared, and none without a name there."""
    text = """
        redis.call('SET', KEYS[1], ARGV[1])
        redis.call('SET', KEYS[1] .. '{t}', ARGV[1])
        return {redis.call('GET', KEYS[1]), redis.pcall('GET', KEYS[1] .. '}').err}
    """
    grants = [{**ALL["grants"][0], "scripts": ["s"]}]
    agent = {"kind": "machine", "grants": grants}
    document = {"version": 1, "scripts": {"s": {"file": "s.lua"}}, "identities": {"agent": agent}}
    shards = Sharded(server.client(), keyspace=SEALED, **ALL)
    shards.activate_document(with_files(json.dumps(document), {"s.lua": text}))
    digest = shards.guard.plan.identity.scripts[0].digest

    def run(tag: str, voucher: str) -> Any:
        call = (shards.guard.approved_digest, 1, "a", shards.token, "c", digest, "1")
        return shards.client.execute_command("EVALSHA", *to_shard(call, tag, voucher))

    found = shards.leased(run, "a")
    assert found[0] == b"1"
    assert found[1].startswith(b"LEASH KEY_NOT_GRANTED")
    for key in (b"a", b"a{t}"):
        assert shards.client.get(KEYS.physical(key)) == b"1"


def test_before_images_are_of_the_key_in_the_vault(shards: Sharded) -> None:
    """Also of several keys, and of keys with a hash tag."""
    shards.call("a", "MSET", "{t}a", "1", "{t}b", "2")
    shards.call("a", "MSET", "{t}a", "3", "{t}b", "4")
    shards.call("a", "SET", "plain", "5")
    shards.call("a", "SET", "plain", "6")
    trail = str(shards.client.xrange(KEYS.at_shard("a").audit("agent")))
    assert "b'1'" in trail
    assert "b'5'" in trail
