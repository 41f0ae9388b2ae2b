"""`keys_of` against what real servers say about the same calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from keyleash.commands import CommandSpec, KeyUse, OperationClass, keys_of, load_table
from keyleash.commands.keys import UnplacedKeysError, is_option
from keyleash.commands.placement import CLASS_OF_FLAG, KEYLESS_PASSES
from keyleash.errors import CompileError
from support.servers import RealServer

READ, WRITE, DELETE = OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE
Call = tuple[bytes, ...]

STRICTER_THAN_THE_SERVER = {
    "BITFIELD": "a call that only reads still needs write",
    "XCLAIM": "replies with entries, which no server flags as access",
    "XAUTOCLAIM": "replies with entries and changes their owner, flagged as delete alone",
}

MORE_CALLS: dict[str, list[Call]] = {
    "SET": [
        (b"k", b"v", *options)
        for options in [
            (b"GET",),
            (b"get",),
            (b"GeT",),
            (b"GET\0x",),
            (b"get\0",),
            (b"GETS",),
            (b"GE",),
            (b"\0GET",),
            (b"GE\0T",),
            (b"NX",),
            (b"EX", b"10"),
            (b"EX", b"10", b"GET"),
            (b"GET", b"KEEPTTL"),
            (b"NX", b"GET"),
            (b"EX", b"GET"),
        ]
    ]
    + [(b"GET", b"GET"), (b"GET", b"v"), (b"k", b"GET")],
    "BITFIELD": [
        (b"k", b"GET", b"u8", b"0"),
        (b"k", b"SET", b"u8", b"0", b"1"),
        (b"k", b"GET", b"u8", b"0", b"INCRBY", b"u8", b"0", b"1"),
    ],
    "COPY": [(b"a", b"b", b"DB", b"1"), (b"a", b"b", b"REPLACE")],
    "ZRANGESTORE": [(b"a", b"b", b"0", b"-1", b"REV", b"LIMIT", b"0", b"1")],
    "GEOSEARCHSTORE": [
        (b"a", b"b", b"FROMMEMBER", b"m", b"BYRADIUS", b"1", b"m", b"ASC", b"STOREDIST")
    ],
}


def scopable(label: str) -> list[CommandSpec]:
    return [spec for spec in load_table() if spec.refused is None and label in spec.servers]


def calls_of(spec: CommandSpec) -> Iterator[Call]:
    """Calls of every length from the shortest to four arguments more, then special ones."""
    name = spec.name.encode()
    fewest = abs(spec.arity)
    for argc in range(fewest, fewest + 1 if spec.arity > 0 else fewest + 5):
        yield (name, *(b"arg%d" % index for index in range(1, argc)))
        yield (name, *(b"same" for _ in range(1, argc)))
        yield (name, *(b"get" for _ in range(1, argc)))
    for arguments in MORE_CALLS.get(spec.name, []):
        yield (name, *arguments)


def ask_keys(client: redis.Redis, call: Call) -> list[KeyUse] | None:
    """What the server says of a call's keys, or None if it takes the call for invalid."""
    execute: Any = client.execute_command
    try:
        reply = execute("COMMAND GETKEYSANDFLAGS", *call)
    except redis.ResponseError:
        return None
    return [KeyUse(key, classes_of(flags)) for key, flags in reply]


def classes_of(flags: Sequence[bytes]) -> tuple[OperationClass, ...]:
    classes = {CLASS_OF_FLAG[flag] for flag in map(bytes.decode, flags) if flag in CLASS_OF_FLAG}
    return tuple(cls for cls in OperationClass if cls in classes)


def test_every_scopable_command_has_the_keys_and_classes_that_servers_say(
    server: RealServer, label: str
) -> None:
    """The server's own answer is the truth about a call; a difference is a hole or a nuisance."""
    client = server.client()
    wrong, compared = [], set()
    for spec in scopable(label):
        for call in calls_of(spec):
            said = ask_keys(client, call)
            if said is None:
                continue
            compared.add(spec.name)
            ours = list(keys_of(spec, call))
            if spec.name in STRICTER_THAN_THE_SERVER:
                said = [
                    KeyUse(it.key, use.needs) if set(use.needs) >= set(it.needs) else it
                    for use, it in zip(ours, said, strict=True)
                ]
            if ours != said:
                wrong.append((call, ours, said))

    assert wrong == []
    assert {spec.name for spec in scopable(label)} - compared == KEYLESS_PASSES


def test_every_scopable_command_runs_inside_a_script(server: RealServer, label: str) -> None:
    """A guard is a script: what a script may not call must be refused beforehand, with a reason."""
    client = server.client()
    forbidden = []
    for spec in scopable(label):
        for call in calls_of(spec):
            try:
                client.eval("return redis.pcall(unpack(ARGV))", 0, *call)
            except redis.ResponseError as error:
                if "script" in str(error).lower():
                    forbidden.append((spec.name, str(error)))

    assert forbidden == []


def test_slices_cut_the_keys_out_of_a_call() -> None:
    """A client's hot path takes keys by one slice and must declare what the guard recomputes."""
    table = load_table()
    for spec in table:
        if spec.refused is not None:
            assert spec.name not in table.key_slices
            continue
        for argc in range(1, abs(spec.arity) + 6):
            call = (spec.name.encode(), *(b"%d" % index for index in range(1, argc)))
            keys = tuple(use.key for use in keys_of(spec, call))
            assert call[table.key_slices[spec.name]] == keys, (spec.name, argc)


@pytest.mark.parametrize("option", [b"GET", b"get", b"gEt", b"GET\0junk", b"get\0"])
def test_set_with_get_needs_read(option: bytes) -> None:
    """Redis compares options as C strings, so GET before a NUL is GET as well."""
    spec = load_table().commands["SET"]

    assert keys_of(spec, [b"SET", b"k", b"v", option]) == (KeyUse(b"k", (READ, WRITE)),)
    assert keys_of(spec, [b"SET", b"k", b"v", b"NX", option]) == (KeyUse(b"k", (READ, WRITE)),)


@pytest.mark.parametrize("option", [b"GETS", b"GE", b"", b"\0GET", b"GE\0T", b" GET", b"KEEPTTL"])
def test_set_without_get_needs_write_only(option: bytes) -> None:
    """A word that only looks like GET must not cost a write-only identity its SET."""
    spec = load_table().commands["SET"]

    assert keys_of(spec, [b"SET", b"k", b"v", option]) == (KeyUse(b"k", (WRITE,)),)


def test_key_and_value_of_set_are_no_options() -> None:
    """GET counts from the fourth argument on, since a value may well be the word `GET`."""
    spec = load_table().commands["SET"]

    assert keys_of(spec, [b"SET", b"GET", b"GET"]) == (KeyUse(b"GET", (WRITE,)),)


def test_option_is_compared_in_ascii_only() -> None:
    """No other byte folds to a letter of GET, whatever the locale."""
    assert [bytes([b]) for b in range(256) if is_option(bytes([b]) + b"ET", "GET")] == [b"G", b"g"]


def test_copy_needs_read_on_the_source_and_write_on_the_target() -> None:
    """Each key is judged by what happens to it, not by the command as a whole."""
    spec = load_table().commands["COPY"]

    assert keys_of(spec, [b"COPY", b"from", b"to", b"DB", b"1"]) == (
        KeyUse(b"from", (READ,)),
        KeyUse(b"to", (WRITE,)),
    )


def test_pop_needs_read_and_delete() -> None:
    """LPOP hands out what it removes."""
    spec = load_table().commands["LPOP"]

    assert keys_of(spec, [b"LPOP", b"q"]) == (KeyUse(b"q", (READ, DELETE)),)


def test_exists_needs_any_grant() -> None:
    """A key spec without access, insert, update or delete asks for no class."""
    spec = load_table().commands["EXISTS"]

    assert keys_of(spec, [b"EXISTS", b"a", b"a"]) == (KeyUse(b"a", ()), KeyUse(b"a", ()))


@pytest.mark.parametrize("name", ["XCLAIM", "XAUTOCLAIM"])
def test_claim_needs_read_because_it_replies_with_entries(server: RealServer, name: str) -> None:
    """Servers do not flag access, yet a write-only identity could read the stream with it."""
    client = server.client()
    client.xadd("s", {"field": "secret"}, id="1-1")
    client.xgroup_create("s", "g", "0")
    client.xreadgroup("g", "first", {"s": ">"})
    call = (name, "s", "g", "second", "0", "1-1")
    execute: Any = client.execute_command
    reply = execute(*call)

    (use,) = keys_of(load_table().commands[name], [part.encode() for part in call])

    assert "secret" in str(reply)
    assert READ in use.needs
    assert WRITE in use.needs


@pytest.mark.parametrize(
    ("call", "keys"),
    [
        (["GET"], []),
        (["BLPOP", "a"], []),
        (["RENAME", "a"], ["a"]),
        (["BITOP", "AND", "d"], ["d"]),
        (["MSET", "a", "1", "b"], ["a", "b"]),
        (["PFMERGE", "d"], ["d"]),
    ],
)
def test_call_that_is_too_short_has_the_keys_that_are_there(
    call: list[str], keys: list[str]
) -> None:
    """The server tells a wrong number of arguments; placing keys must not fail before it."""
    argv = [part.encode() for part in call]

    uses = keys_of(load_table().commands[call[0]], argv)

    assert [use.key.decode() for use in uses] == keys


def test_keys_of_a_refused_command_raise() -> None:
    """An empty answer would read as a command without keys."""
    with pytest.raises(UnplacedKeysError, match="`SORT`: its keys cannot be placed") as caught:
        keys_of(load_table().commands["SORT"], [b"SORT", b"k"])

    assert isinstance(caught.value, CompileError)
    assert caught.value.code == "unplaced-keys"


@pytest.mark.parametrize("name", sorted(KEYLESS_PASSES))
def test_keyless_command_that_passes_has_no_keys(name: str) -> None:
    """PING, ECHO and TIME touch no data."""
    assert keys_of(load_table().commands[name], [name.encode(), b"x"]) == ()
