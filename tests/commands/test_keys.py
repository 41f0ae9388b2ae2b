"""`keys_of` against what real servers say about the same calls."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from keyleash.commands import CommandSpec, KeyUse, OperationClass, keys_of, load_table
from keyleash.commands.facts import KEYLESS_PASSES
from keyleash.commands.keys import is_option, key_places
from keyleash.commands.spec import NumberedKeys, OptionKey, StreamKeys
from keyleash.errors import UnplacedKeysError
from proofs.oracle.arguments import (
    BITFIELD_PHRASES,
    COUNTS,
    NAMED_AS_OPTIONS,
    SET_WORDS,
    Call,
    Draws,
    drawn_call,
)
from proofs.oracle.asking import Asker
from proofs.oracle.placements import DIFFERENCES, ours_of
from support.servers import RealServer
from support.thorough import FACTOR

READ, WRITE, DELETE = OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE

DRAWN_CALLS = 25
"""Per command whose keys are counted places."""
DRAWN_CALLS_OF_OTHERS = 400
KEYS = (b"a", b"b", b"c", b"a", *NAMED_AS_OPTIONS)


def scopable(label: str) -> list[CommandSpec]:
    return [spec for spec in load_table() if spec.refused is None and label in spec.servers]


def plain_calls(spec: CommandSpec) -> Iterator[Call]:
    """Calls of every length from the shortest to four arguments more."""
    names = tuple(spec.name.encode().split(b" "))
    fewest = abs(spec.arity)
    for argc in range(fewest, fewest + 1 if spec.arity > 0 else fewest + 5):
        places = range(len(names), argc)
        yield (*names, *(b"arg%d" % place for place in places))
        yield (*names, *(b"same" for _ in places))
        yield (*names, *(b"get" for _ in places))
        yield (*names, *(b"2" for _ in places))


def special_calls(spec: CommandSpec) -> Iterator[Call]:
    """Every arrangement of what decides where keys stand, and of what looks like it."""
    name = spec.name.encode()
    for search in spec.keys:
        match search:
            case NumberedKeys():
                yield from numbered_calls(name, search)
            case OptionKey():
                yield from storing_calls(name, search)
            case StreamKeys():
                yield from stream_calls(name)
    container, _, subcommand = name.partition(b" ")
    if subcommand:
        words = (b"arg",) * (abs(spec.arity) - 2)
        yield (container, subcommand.lower(), *words)
        yield (container.lower(), subcommand.title(), *words)
    yield from OTHER_CALLS.get(spec.name, ())


def numbered_calls(name: bytes, search: NumberedKeys) -> Iterator[Call]:
    """Any number with any number of keys, and what may follow them."""
    before = (b"d",) * (search.count_at - 1)
    for count, given in itertools.product(COUNTS, range(7)):
        keys = [b"k%d" % (number // search.step) for number in range(given)]
        yield (name, *before, count, *keys)
        yield (name, *before, count, *keys, b"LEFT")
        yield (name, *before, count, *keys, b"LIMIT", b"2")


def storing_calls(name: bytes, search: OptionKey) -> Iterator[Call]:
    """Targets in several places, repeated, and named as options are."""
    fixed = (b"k", b"1", b"2", b"3", b"m")[: 1 if search.start == 2 else search.start - 1]
    words = (b"STORE", b"StoreDist", b"store\0x", b"LIMIT", b"d", b"0", b"ASC")
    for count in range(5):
        for tail in itertools.product(words, repeat=count):
            yield (name, *fixed, *tail)


def stream_calls(name: bytes) -> Iterator[Call]:
    """Options in every order, with groups, consumers and keys that are named as they are."""
    for group, consumer in itertools.product((b"g", b"STREAMS", b"BLOCK"), repeat=2):
        phrases = ((b"COUNT", b"1"), (b"block", b"0"), (b"NOACK",), (b"GROUP", group, consumer))
        for count in range(5):
            for chosen in itertools.permutations(phrases, count):
                options = tuple(itertools.chain(*chosen))
                for keys in ((b"a",), (b"STREAMS",), (b"GROUP", b"a"), (b"a", b"streams", b"b")):
                    for word in (b"STREAMS", b"streams\0x"):
                        yield (name, *options, word, *keys, *(b"0" for _ in keys))
                yield (name, *options, b"STREAMS", b"a", b"b", b"0")
                yield (name, *options, b"STREAMS")


def up_to_three(phrases: Sequence[Call]) -> Iterator[Call]:
    for count in range(4):
        for chosen in itertools.product(phrases, repeat=count):
            yield tuple(itertools.chain(*chosen))


OTHER_CALLS: dict[str, list[Call]] = {
    "SET": [
        *((b"SET", b"k", b"v", *tail) for tail in up_to_three([(word,) for word in SET_WORDS])),
        (b"SET", b"GET", b"GET"),
        (b"SET", b"GET", b"v"),
        (b"SET", b"k", b"GET"),
    ],
    "BITFIELD": [(b"BITFIELD", b"k", *tail) for tail in up_to_three(BITFIELD_PHRASES)],
    "COPY": [(b"COPY", b"a", b"b", b"REPLACE")],
    "GEOSEARCHSTORE": [
        tuple(b"GEOSEARCHSTORE a b FROMMEMBER m BYRADIUS 1 m ASC STOREDIST".split())
    ],
}


def calls_of(spec: CommandSpec) -> Iterator[Call]:
    yield from plain_calls(spec)
    yield from special_calls(spec)
    source = random.Random(spec.name)
    counted = spec.walk is not None and spec.variant is None
    for _ in range(FACTOR * (DRAWN_CALLS if counted else DRAWN_CALLS_OF_OTHERS)):
        yield drawn_call(Draws(source.randbytes(48)), spec, KEYS)


def test_every_scopable_command_has_the_keys_and_classes_that_servers_say(
    server: RealServer, label: str
) -> None:
    """
    The server's own answer is the truth about a call; a difference is a hole or a nuisance.

    It makes none where the server itself refuses the call for its arguments, which is tried.
    """
    asker = Asker(server)
    calls = {
        call: (spec, ours)
        for spec in scopable(label)
        for call in calls_of(spec)
        if (ours := ours_of(spec, call)) is not None
    }
    compared, differing = set(), []
    for (call, (spec, ours)), uses in zip(calls.items(), asker.keys([*calls]), strict=True):
        if uses is not None:
            compared.add(spec.name)
        if Counter(ours) != Counter(uses or []):
            differing.append((call, ours, uses or []))
    errors = asker.argument_errors([call for call, _, _ in differing])
    run = [it for it, error in zip(differing, errors, strict=True) if error is None]
    reasons = [
        [name for name, item in DIFFERENCES.items() if item.applies(*difference)]
        for difference in run
    ]

    without = [it for it, names in zip(run, reasons, strict=True) if len(names) != 1]
    assert without == []
    assert {names[0] for names in reasons} == {
        name for name, item in DIFFERENCES.items() if label.startswith(item.servers)
    }
    keyless = {spec.name for spec in scopable(label) if not spec.keys}
    assert {spec.name for spec in scopable(label)} - compared == keyless


ACTS_ON: dict[str, tuple[str, str]] = {
    # The call, and the one key that it writes; of a stream, the one that it reads.
    "PFMERGE without sources": ("PFMERGE other", "other"),
    "target of SORT named like an option": ("SORT list STORE LIMIT STORE other", "other"),
    "two targets of GEORADIUS": ("GEORADIUS geo 1 1 9 km STORE one STORE other", "other"),
    "target of GEORADIUS named like an option": (
        "GEORADIUS geo 1 1 9 km STORE STOREDIST ASC",
        "STOREDIST",
    ),
    "group or consumer named STREAMS": (
        "XREADGROUP COUNT 1 GROUP STREAMS other STREAMS stream >",
        "stream",
    ),
}


@pytest.mark.parametrize("name", ACTS_ON)
def test_command_acts_on_the_keys_that_are_placed(
    server: RealServer, label: str, name: str
) -> None:
    """Where a server says other keys than `keys_of`, its own command proves it wrong."""
    client = server.client(protocol=3)
    client.rpush("list", "1")
    client.geoadd("geo", (1, 1, "here"))
    client.xadd("stream", {"field": "value"})
    client.xgroup_create("stream", "STREAMS", "0")
    before = {*client.keys()}
    words, key = ACTS_ON[name]
    call = tuple(words.encode().split())
    spec = load_table().find(call)
    assert spec is not None
    (uses,) = Asker(server).keys([call])
    execute: Any = client.execute_command

    reply = execute(*call)

    ours = keys_of(spec, call)
    touched = {*client.keys()} - before or {*reply}
    assert touched == {key.encode()} == {use.key for use in ours} - {b"list", b"geo"}
    if label.startswith(DIFFERENCES[name].servers):
        assert DIFFERENCES[name].applies(call, list(ours), uses or [])
    else:
        assert Counter(uses) == Counter(ours)


def test_every_scopable_command_runs_inside_a_script(server: RealServer, label: str) -> None:
    """A guard is a script: what a script may not call must be refused beforehand, with a reason."""
    client = server.client()
    forbidden = []
    for spec in scopable(label):
        # A guard does not run what subscribes.
        for call in () if spec.subscribes else plain_calls(spec):
            try:
                client.eval("return redis.pcall(unpack(ARGV))", 0, *call)
            except redis.ResponseError as error:
                if "not allowed from script" in str(error):
                    forbidden.append((spec.name, str(error)))

    assert forbidden == []


def test_command_that_is_refused_as_noscript_is_found_by_its_error(
    server: RealServer, label: str
) -> None:
    """The test above looks for an error text; here is a call that has it."""
    with pytest.raises(redis.ResponseError, match="not allowed from script"):
        server.client().eval("return redis.pcall(unpack(ARGV))", 0, "MULTI")


def test_slices_cut_the_keys_out_of_a_call() -> None:
    """A client's hot path takes keys by one slice and must declare what the guard recomputes."""
    table = load_table()
    for spec in table:
        if spec.refused is not None or spec.walk is None or " " in spec.name:
            assert spec.name not in table.key_slices
            continue
        for argc in range(1, abs(spec.arity) + 6):
            call = (spec.name.encode(), *(b"%d" % index for index in range(1, argc)))
            keys = tuple(use.key for use in keys_of(spec, call))
            assert call[table.key_slices[spec.name]] == keys, (spec.name, argc)


def test_places_are_those_of_the_keys() -> None:
    """A client declares what stands at the places, and the guard what it finds by itself."""
    source = random.Random(1)
    for spec in load_table():
        for _ in range(20 if spec.refused is None else 0):
            call = drawn_call(Draws(source.randbytes(48)), spec, KEYS)
            uses = ours_of(spec, call)
            if uses is not None:
                assert [call[place] for place in key_places(spec, call)] == [u.key for u in uses]


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

    assert keys_of(spec, [b"COPY", b"from", b"to", b"REPLACE"]) == (
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
    """The server reports a wrong number of arguments; finding keys must not fail before."""
    argv = [part.encode() for part in call]

    uses = keys_of(load_table().commands[call[0]], argv)

    assert [use.key.decode() for use in uses] == keys


def test_keys_of_a_refused_command_raise() -> None:
    """An empty answer would read as a command without keys."""
    with pytest.raises(UnplacedKeysError, match="`MOVE`: it reaches into another data") as caught:
        keys_of(load_table().commands["MOVE"], [b"MOVE", b"k", b"1"])

    assert caught.value.exit_code == 65
    assert caught.value.code == "unplaced-keys"


@pytest.mark.parametrize(
    "call",
    [
        "COPY a b DB 1",
        "COPY a b REPLACE db 1",
        "XREAD NOACK STREAMS a 0",
        "XREAD GROUP g c STREAMS a 0",
        "XREADGROUP GROUP g STREAMS a >",
        "XREADGROUP LATER STREAMS STREAMS a >",
    ],
)
def test_keys_of_a_call_with_a_refused_option_raise(call: str) -> None:
    """Such an option reaches keys that cannot be found, or its arguments may hide them."""
    argv = call.encode().split()

    with pytest.raises(UnplacedKeysError):
        keys_of(load_table().commands[call.split(maxsplit=1)[0]], argv)


@pytest.mark.parametrize(
    "words", [[b"XGROUP", b"CREATE"], [b"xgroup", b"create"], [b"XGroup", b"cReAtE", b"k"]]
)
def test_sub_command_is_found_in_any_case(words: list[bytes]) -> None:
    """Servers fold the case of both names."""
    spec = load_table().find(words)

    assert spec is not None
    assert spec.name == "XGROUP CREATE"


@pytest.mark.parametrize(
    "words", [[b"XGROUP", b"CREATE\0"], [b"XGROUP", b"CREATES"], [b"XGROUP CREATE"[:6] + b"\0"]]
)
def test_word_that_only_looks_like_a_command_is_none(words: list[bytes]) -> None:
    """A name is compared whole; what is not found is refused."""
    assert load_table().find(words) is None


@pytest.mark.parametrize("name", sorted(KEYLESS_PASSES))
def test_keyless_command_that_passes_has_no_keys(name: str) -> None:
    """PING, ECHO and TIME touch no data."""
    assert keys_of(load_table().commands[name], [name.encode(), b"x"]) == ()
