"""The `struct` of the fake against the `struct` of a real server."""

from __future__ import annotations

import math
import random
import re
import struct

import pytest

from keyleash.addons.testing import lua_struct
from keyleash.addons.testing.fakes import number_text
from keyleash.testing import fake_redis
from support.servers import RealServer

PACKED = [
    ("<d", (1.5,)),
    ("<dBc8", (1732456789123.456, 3, b"tokentok")),
    ("<ddddd", (1.0, 2.0, 3.0, 4.0, 5.0)),
    ("<BH", (255, 65535)),
    ("<HIIB", (65535, 4294967295, 0, 7)),
    ("<I4", (4294967295,)),
    ("<B", (2.9,)),
    ("<c4", (b"\x00\xff\r\n",)),
    ("<", ()),
]
POSITION = re.compile(r"^\S*( \"<python>\"\])?:\d+: ")
INVALID = [
    "return struct.unpack('<d', '1234567')",
    "return struct.unpack('<d', '12345678', 2)",
    "return struct.unpack('<B', 'abc', 0)",
    "return struct.unpack('<B', 'abc', 4)",
    "return redis.sha1hex()",
    "return redis.sha1hex('a', 'b')",
]


def in_lua(value: object) -> str:
    if isinstance(value, bytes):
        return '"' + "".join(f"\\{byte:03d}" for byte in value) + '"'
    return repr(value)


@pytest.mark.parametrize(("fmt", "values"), PACKED, ids=[fmt for fmt, _ in PACKED])
def test_pack_gives_the_bytes_of_redis(
    embedded: RealServer, fmt: str, values: tuple[bytes | int | float, ...]
) -> None:
    """A guard packs state in Lua and Python reads it, so every byte must agree."""
    arguments = "".join(f", {in_lua(value)}" for value in values)
    expected = embedded.client().eval(f"return struct.pack('{fmt}'{arguments})", 0)

    assert lua_struct.pack(fmt.encode(), *values) == expected


@pytest.mark.parametrize(("fmt", "values"), PACKED, ids=[fmt for fmt, _ in PACKED])
def test_unpack_gives_the_values_of_redis_and_the_next_position(
    embedded: RealServer, fmt: str, values: tuple[bytes | int | float, ...]
) -> None:
    """The position that comes last is what lets a guard read a ring of records."""
    data = b"??" + lua_struct.pack(fmt.encode(), *values)
    script = """
        local values = {struct.unpack(ARGV[1], ARGV[2], 3)}
        for at, value in ipairs(values) do
          if type(value) == 'number' then
            values[at] = 'number ' .. string.format('%.17g', value)
          end
        end
        return values
    """
    expected = embedded.client().eval(script, 0, fmt, data)
    unpacked = lua_struct.unpack(fmt.encode(), data, 3)

    assert [
        value if isinstance(value, bytes) else f"number {float(value):.17g}".encode()
        for value in unpacked
    ] == expected


@pytest.mark.parametrize("script", INVALID)
def test_invalid_arguments_raise_the_error_of_redis(embedded: RealServer, script: str) -> None:
    """A guard that reads too short a record must fail on the fake as it fails in Redis."""
    caught = f"local ok, problem = pcall(function() {script} end) return problem"
    errors = [client.eval(caught, 0) for client in (fake_redis(), embedded.client())]
    fake, real = (POSITION.sub("", text.decode()) for text in errors)

    assert fake == real


def test_random_doubles_survive_both_ways(embedded: RealServer) -> None:
    """TATs and days are doubles; a bit lost in one would move a limit."""
    generator = random.Random(7)
    doubles = [struct.unpack("<d", generator.randbytes(8))[0] for _ in range(200)]
    doubles = [number for number in doubles if not math.isnan(number)]
    data = struct.pack(f"<{len(doubles)}d", *doubles)
    fmt = "<" + "d" * len(doubles)
    echoed = embedded.client().eval(
        "local v = {struct.unpack(ARGV[1], ARGV[2])} v[#v] = nil "
        "return struct.pack(ARGV[1], unpack(v))",
        0,
        fmt,
        data,
    )

    assert lua_struct.pack(fmt.encode(), *lua_struct.unpack(fmt.encode(), data)[:-1]) == data
    assert echoed == data


ECHO = "return redis.call('ECHO', (struct.unpack('<d', ARGV[1])))"


@pytest.mark.parametrize(
    "number",
    [0.1, 0.5, -2.5, 3.0, -0.0, 1e15, 1e17, 2.0**62, 2.0**63, 1e21, 1e22, 1e-4, 1.5e-9, 1e300],
)
def test_number_reaches_a_command_as_redis_writes_it(embedded: RealServer, number: float) -> None:
    """A number in redis.call becomes text; in another text it would be another key or value."""
    assert number_text(number) == embedded.client().eval(ECHO, 0, struct.pack("<d", number))


def test_random_numbers_reach_commands_unchanged(embedded: RealServer) -> None:
    """Redis's last digit is not always the nearest, but the number it names is the same."""
    generator = random.Random(11)
    numbers = [generator.uniform(-1, 1) * 10.0 ** generator.randint(-25, 25) for _ in range(300)]
    client = embedded.client()
    written = [client.eval(ECHO, 0, struct.pack("<d", number)) for number in numbers]

    assert [float(text) for text in written] == numbers
    assert [float(number_text(number)) for number in numbers] == numbers
    assert [len(number_text(number)) for number in numbers] == [len(text) for text in written]


@pytest.mark.parametrize("fmt", ["<q", ">d", "<s", "<c0", "!4d"])
def test_other_formats_raise(fmt: str) -> None:
    """A guard with a format that the fake lacks fails at once, not with wrong numbers."""
    with pytest.raises(lua_struct.LibraryError, match="does not support"):
        lua_struct.pack(fmt.encode(), 1)
