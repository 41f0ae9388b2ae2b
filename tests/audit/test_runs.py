"""Runs of commands of a batch, which events record as one field with packed keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyleash.audit.entries import AuditEvent, audit_events
from keyleash.audit.read import Query, read_events
from keyleash.commands import load_table
from keyleash.policy.patterns import exactly, parse_pattern
from keyleash.store.records import guard_record
from keyleash.store.wire import BatchMode, runs_call
from support.leash import NAMES, Leash, grant
from support.servers import RealServer
from support.streams import packed_keys
from support.thorough import thorough

COUNTS = (1, 2, 15, 16, 1_000)
LENGTHS = (0, 1, 31, 32, 255, 256, 65_535, 65_536)
SHOWN_UNPARSED = {
    "nothing": b"",
    "no array": b"k",
    "map": b"\x81\xa1k\xa1v",
    "number": b"\x07",
    "array without its count": b"\xdd",
    "array with half of its count": b"\xdc\x01",
    "array without texts": b"\x92",
    "array of fewer texts": b"\x92\xa1k",
    "array of more texts": b"\x91\xa1k\xa1l",
    "more texts than a batch has commands": b"\xdc\x03\xe9" + b"\xa0" * 1001,
    "number of texts in 32 bits": b"\xdd\0\0\0\1\xa1k",
    "text without its length": b"\x92\xa1k\xdb",
    "text with half of its length": b"\x91\xda\x01",
    "text of fewer bytes": b"\x92\xa1k\xa2l",
    "text of far fewer bytes": b"\x91\xdb\xff\xff\xff\xffk",
    "array in the array": b"\x92\xa1k\x91\xa1l",
    "number in the array": b"\x92\xa1k\x07",
    "binary in the array": b"\x91\xc4\x01k",
    "nothing in the array": b"\x91\xc0",
}
PIECES = (
    *(b"\x91", b"\x92", b"\xdc\0\1", b"\xdd\0\0\0\2", b"\xa0", b"\xa1", b"\xa2k", b"k"),
    *(b"\xd9\1", b"\xd9\2k", b"\xda\0\1", b"\xdb\0\0\0\1"),
)
"""Heads of arrays and texts, and bytes of texts."""


def keys_of_run(value: bytes) -> list[tuple[bytes, ...]]:
    """Return the keys of each command of a run that has *value* for its keys."""
    events = audit_events("one", b"1-0", [(b"SET*2", value)])
    assert {event.op for event in events} == {"SET"}
    return [event.keys for event in events]


@pytest.mark.parametrize("count", COUNTS)
def test_run_has_an_event_for_each_key(count: int) -> None:
    """The number of keys has 4 or 16 bits; more than those of a batch no guard writes."""
    keys = [b"k:%d" % number for number in range(count)]

    assert keys_of_run(packed_keys(keys)) == [(key,) for key in keys]


@pytest.mark.parametrize("length", LENGTHS)
def test_keys_of_a_run_may_have_any_length(length: int) -> None:
    """The length of a key has 5, 8, 16 or 32 bits."""
    keys = [b"a", b"k" * length, b"b"]

    assert keys_of_run(packed_keys(keys)) == [(key,) for key in keys]


def test_run_without_keys_is_not_hidden() -> None:
    """No guard writes it, but an agent that may write its stream can."""
    assert keys_of_run(packed_keys([])) == [()]


@pytest.mark.parametrize("value", SHOWN_UNPARSED.values(), ids=SHOWN_UNPARSED)
def test_corrupt_keys_of_a_run_are_shown_unparsed(value: bytes) -> None:
    """A list of keys that is read in part would hide a key."""
    assert keys_of_run(value) == [(value,)]


@thorough(200)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.data())
def test_keys_that_are_cut_or_continued_are_shown_unparsed(
    keys: list[bytes], data: st.DataObject
) -> None:
    """Each part of the bytes is checked, and so is their end."""
    packed = packed_keys(keys)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    continued = packed + data.draw(st.binary(min_size=1))

    assert keys_of_run(cut) == [(cut,)]
    assert keys_of_run(continued) == [(continued,)]


@thorough(500)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=2), max_size=8).map(b"".join))
def test_any_bytes_are_read_as_keys_or_shown_unparsed(value: bytes) -> None:
    """No bytes are an error, and the keys that are read leave none out."""
    found = keys_of_run(value)

    if found != [(value,)]:
        keys = [key for keys in found for key in keys]
        heads = len(value) - sum(map(len, keys))
        # A number may have more bits than it needs.
        assert 1 + len(keys) <= heads <= 5 + 5 * len(keys)


def test_keys_that_a_server_packs_are_read(server: RealServer) -> None:
    """Guards call `cmsgpack.pack`, which writes each number with the fewest bits."""
    client: Any = server.client()

    @thorough(100)
    @given(st.lists(st.binary(max_size=300), min_size=1, max_size=40))
    @example([b"k"] * 15)
    @example([b"k"] * 16)
    @example([b"%d" % number for number in range(1_000)])
    @example([b"k" * length for length in LENGTHS])
    def compare(keys: list[bytes]) -> None:
        packed = client.eval("return cmsgpack.pack(KEYS)", len(keys), *keys)

        assert packed == packed_keys(keys)
        assert keys_of_run(packed) == [(key,) for key in keys]

    compare()


def test_event_of_a_guard_lists_each_command_of_its_runs(server: RealServer) -> None:
    """Places, keys and errors are those of the commands, and queries select single ones."""
    leash = Leash(server)
    leash.load(one={"grants": [grant("read", "write", "delete", keys="k:*")]})
    leash.admin.rpush("k:7", "no string")
    record = guard_record(leash.admin.hgetall(NAMES.guard("one")))
    assert record is not None
    commands = [
        *(("INCR", f"k:{number}") for number in range(16)),
        *(("GET", f"k:{number}") for number in range(3)),
        ("MSET", "k:a", "1", "k:b", "2"),
        *(("HSET", f"k:h:{number}", "f", b"\xff") for number in range(2)),
    ]
    caller = (record.batch_digest, leash.issue("one").token, "c", BatchMode.EACH)
    call, _ = runs_call(load_table(), *caller, commands)
    leash.admin.execute_command(*call)

    events = list(read_events(leash.store, ["one"]))

    expected: list[tuple[int, str, tuple[bytes, ...]]] = [
        *((number + 1, "INCR", (b"k:%d" % number,)) for number in range(16)),
        (17, "MSET", (b"k:a", b"k:b")),
        (18, "HSET", (b"k:h:0",)),
        (19, "HSET", (b"k:h:1",)),
    ]
    assert [(event.item, event.op, event.keys) for event in events] == expected
    assert [event.item for event in events if event.error is not None] == [8]

    def items(query: Query) -> list[int]:
        found: list[AuditEvent] = list(read_events(leash.store, ["one"], query))
        return [event.item for event in found]

    assert items(Query(pattern=exactly(b"k:7"))) == [8]
    assert items(Query(op="HSET")) == [18, 19]
    assert items(Query(pattern=parse_pattern("k:h:*"), op="INCR")) == []
    assert "INCR*16" in leash.events("one")[0]
