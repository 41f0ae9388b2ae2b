"""Bytes are work: names, arguments and replies are bounded before a call runs."""

from __future__ import annotations

from typing import Any

import pytest

import keyleash
from keyleash.commands import keys_of
from keyleash.evaluate.evaluate import decide
from keyleash.policy import parse_policy
from proofs.oracle.data import model_state
from support.leash import Leash, grant, policy
from support.servers import RealServer

KEYS: dict[str, Any] = {
    "grants": [
        grant("read", "write", "delete", "scan", keys="doc:*"),
        {"allow": ["publish", "subscribe"], "channels": ["doc:*"]},
    ]
}
NAME = "doc:{d}" + "n" * 1017
"""The longest name by default."""

NAMED: tuple[tuple[str, ...], ...] = (
    ("GET", NAME), ("SET", NAME, "1"), ("DEL", "doc:{d}a", NAME), ("EXISTS", NAME, NAME),
    ("MSET", "doc:{d}a", "1", NAME, "1"), ("PUBLISH", NAME, "hello"),
)  # fmt: skip


@pytest.mark.parametrize("argv", NAMED, ids=lambda argv: argv[0])
def test_name_longer_than_key_bytes_is_denied(server: RealServer, argv: tuple[str, ...]) -> None:
    """Alone and in a batch; the entry of the denial has the beginning, and there is no event."""
    leash = Leash(server)
    leash.load(one=KEYS)
    agent: Any = leash.agent("one")
    longer = tuple(word + "n" if word == NAME else word for word in argv)

    agent.execute_command(*argv)
    events = len(leash.events("one"))
    for call in (agent.execute_command, lambda *words: alone(agent, words)):
        with pytest.raises(keyleash.KeyTooLongError) as denied:
            call(*longer)
        assert (denied.value.bytes, denied.value.limit) == (1025, 1024)
        assert denied.value.key == NAME[:128]

    assert len(leash.events("one")) == events
    (denial, *_) = leash.denials("one")
    assert len(denial["key"]) <= 256


def alone(agent: Any, words: tuple[str, ...]) -> Any:
    """Call a command as a batch of one."""
    pipeline = agent.pipeline(transaction=True)
    pipeline.execute_command(*words)
    return pipeline.execute()


def test_longer_names_are_allowed_by_the_policy(server: RealServer) -> None:
    """An identity may have another bound."""
    leash = Leash(server)
    leash.load(one={**KEYS, "limits": {"key_bytes": "2kb"}})

    assert leash.agent("one").set(NAME + "n", 1)


BOUNDED: dict[str, Any] = {**KEYS, "limits": {"work": 20_000}}
"""A call of this identity may have 1.4 MB."""
KB = 1000
TEXT = b"x" * (1600 * KB)

LONG: tuple[tuple[Any, ...], ...] = (
    ("SADD", "doc:{d}s", *[b"%d" % n + TEXT[: 100 * KB] for n in range(16)]),
    ("SISMEMBER", "doc:{d}s", TEXT), ("EXPIRE", "doc:{d}s", TEXT), ("PUBLISH", "doc:{d}c", TEXT),
    ("MSET", "doc:{d}a", TEXT[: 800 * KB], "doc:{d}b", TEXT[: 800 * KB]),
    ("ECHO", TEXT[: 100 * KB]), ("SETRANGE", "doc:{d}a", 1600 * KB, "x"),
)  # fmt: skip


def decided(leash: Leash, identity: dict[str, Any], argv: tuple[Any, ...]) -> str:
    """Return the code of the reference evaluator for a call with keys below `doc:`."""
    parsed = parse_policy(policy(one=identity), file="p", commands=leash.server.table)
    words = [word if isinstance(word, bytes) else str(word).encode() for word in argv]
    keys = keys_of(leash.server.table.find(words), words)
    state = model_state(leash.store)
    named = [use.key for use in keys]
    return str(decide(parsed.identities[0], leash.server.table, words, named, state, 0).code)


@pytest.mark.parametrize("argv", LONG, ids=lambda argv: argv[0])
def test_call_with_too_many_bytes_is_too_much_work(
    server: RealServer, argv: tuple[Any, ...]
) -> None:
    """Each byte of an argument is work, and each by which the server fills a string."""
    leash = Leash(server)
    leash.load(one=BOUNDED, other=KEYS)
    agent: Any = leash.agent("one")

    for call in (agent.execute_command, lambda *words: alone(agent, words)):
        with pytest.raises(keyleash.WorkTooLargeError):
            call(*argv)
    assert decided(leash, BOUNDED, argv) == "WORK_TOO_LARGE"
    assert leash.events("one") == []
    other: Any = leash.agent("other")
    if argv[0] != "EXPIRE":
        other.execute_command(*argv)


def test_bytes_of_all_commands_of_a_batch_count(server: RealServer) -> None:
    """Also those of a run of equal commands."""
    leash = Leash(server)
    leash.load(one=BOUNDED)
    token = leash.issue("one").token
    calls = [("SET", f"doc:{{d}}{number}", TEXT[: 50 * KB].decode()) for number in range(40)]
    replies = leash.batch("one", token, "each", *calls)

    assert 20 < sum(reply in ("OK", b"OK") for reply in replies) < 30
    assert replies[-1].startswith("LEASH WORK_TOO_LARGE")


ELEMENT = b"x" * (200 * 1024)
ELEMENTS: tuple[tuple[Any, ...], ...] = (
    ("SADD", "doc:a", "1", ELEMENT), ("RPUSH", "doc:a", ELEMENT), ("HSET", "doc:a", "f", ELEMENT),
    ("ZADD", "doc:a", "1", ELEMENT), ("XADD", "doc:a", "*", "f", ELEMENT[4:], "g", ""),
)  # fmt: skip


@pytest.mark.parametrize("argv", ELEMENTS, ids=lambda argv: argv[0])
def test_element_longer_than_the_default_is_denied(
    server: RealServer, argv: tuple[Any, ...]
) -> None:
    """The longest is allowed, and longer ones where a grant bounds values."""
    wide = {"grants": [{**KEYS["grants"][0], "values": {"max_bytes": "1mb"}}]}
    leash = Leash(server)
    leash.load(one=KEYS, other=wide)
    agent: Any = leash.agent("one")
    longer = tuple(word + b"xxx" if word in (ELEMENT, ELEMENT[4:]) else word for word in argv)

    agent.execute_command(*argv)
    for call in (agent.execute_command, lambda *words: alone(agent, words)):
        with pytest.raises(keyleash.ValueTooLargeError) as denied:
            call(*longer)
        assert denied.value.limit == 200 * 1024
    assert (decided(leash, KEYS, argv), decided(leash, KEYS, longer)) == ("None", "VALUE_TOO_LARGE")
    leash.agent("other").execute_command(*longer)


CONSUMER = b"n" * 1024
OF_GROUPS: tuple[tuple[Any, ...], ...] = (
    ("XGROUP", "CREATE", "doc:{d}a", CONSUMER, "$", "MKSTREAM"),
    ("XGROUP", "CREATECONSUMER", "doc:{d}a", "g", CONSUMER),
    ("XREADGROUP", "COUNT", "1", "GROUP", "g", CONSUMER, "STREAMS", "doc:{d}a", ">"),
    ("XCLAIM", "doc:{d}a", "g", CONSUMER, "0", "1-1"),
    ("XAUTOCLAIM", "doc:{d}a", "g", CONSUMER, "0", "0"),
)


@pytest.mark.parametrize("argv", OF_GROUPS, ids=lambda argv: " ".join(argv[:2]))
def test_name_of_a_group_or_consumer_longer_than_those_of_keys_is_denied(
    server: RealServer, argv: tuple[Any, ...]
) -> None:
    """Also where a grant bounds values: what lists them has them whole."""
    wide = {"grants": [{**KEYS["grants"][0], "values": {"max_bytes": "1mb"}}]}
    leash = Leash(server)
    leash.load(one=KEYS, other=wide)
    leash.admin.xgroup_create("doc:{d}a", "g", mkstream=True)
    longer = tuple(word + b"x" if word is CONSUMER else word for word in argv)

    for identity, held in (("one", KEYS), ("other", wide)):
        agent: Any = leash.agent(identity)
        for call in (agent.execute_command, lambda *words: alone(agent, words)):  # noqa: B023
            with pytest.raises(keyleash.ValueTooLargeError) as denied:
                call(*longer)
            assert denied.value.limit == 1024
        assert decided(leash, held, longer) == "VALUE_TOO_LARGE"
        assert decided(leash, held, argv) == "None"
    agent.execute_command(*argv)


READS: tuple[tuple[Any, ...], ...] = (
    ("SMEMBERS", "doc:{{d}}{n}s"), ("SUNIONSTORE", "doc:{{d}}{n}to", "doc:{{d}}{n}s"),
    ("SORT", "doc:{{d}}{n}s", "ALPHA"),
    ("HVALS", "doc:{{d}}{n}h"), ("LRANGE", "doc:{{d}}{n}l", "0", "-1"),
    ("HMGET", "doc:{{d}}{n}h", *[f"f{number}" for number in range(120)]),
)  # fmt: skip


@pytest.mark.parametrize("argv", READS, ids=lambda argv: argv[0])
def test_bytes_of_many_elements_are_work(server: RealServer, argv: tuple[Any, ...]) -> None:
    """From a hundred strings on: fewer are as long as elements may be, and ask for nothing."""
    leash = Leash(server)
    leash.load(one=KEYS)
    agent: Any = leash.agent("one")
    for few, count in (("few", 40), ("many", 150)):
        for number in range(count):
            element = b"%d" % number + ELEMENT[10:]
            leash.admin.sadd(f"doc:{{d}}{few}s", element)
            leash.admin.rpush(f"doc:{{d}}{few}l", element)
            leash.admin.hset(f"doc:{{d}}{few}h", f"f{number}", element)

    agent.execute_command(*[word.format(n="few") for word in argv])
    with pytest.raises(keyleash.WorkTooLargeError):
        agent.execute_command(*[word.format(n="many") for word in argv])


def test_entries_that_a_group_has_pending_are_work_of_its_end(server: RealServer) -> None:
    """The server frees them one by one, for the consumer or the whole group."""
    leash = Leash(server)
    leash.load(one={**KEYS, "limits": {"work": 1000}})
    agent: Any = leash.agent("one")
    for key, count in (("doc:{d}few", 50), ("doc:{d}many", 800)):
        for number in range(count):
            leash.admin.xadd(key, {"f": number})
        leash.admin.xgroup_create(key, "g", "0")
        leash.admin.xreadgroup("g", "c", {key: ">"})

    for call in (("DELCONSUMER", "doc:{d}many", "g", "c"), ("DESTROY", "doc:{d}many", "g")):
        with pytest.raises(keyleash.WorkTooLargeError):
            agent.execute_command("XGROUP", *call)
    assert agent.xgroup_delconsumer("doc:{d}few", "g", "c") == 50
    assert agent.xgroup_destroy("doc:{d}few", "g")


def test_bits_of_a_long_string_are_no_work(server: RealServer) -> None:
    """Only what makes it longer is."""
    leash = Leash(server)
    leash.load(one=BOUNDED)
    leash.admin.set("doc:{d}bits", TEXT)
    pipeline: Any = leash.agent("one").pipeline(transaction=True)
    for number in range(50):
        pipeline.setbit("doc:{d}bits", 8 * len(TEXT) - 1 - number, 1)

    assert len(pipeline.execute()) == 50
