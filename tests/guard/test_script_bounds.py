"""Approved scripts beside raw ones: numbers, read-only scripts, and the bounds of their work."""

from __future__ import annotations

import re

import pytest
import redis

import keyleash
from keyleash.audit.read import read_denials
from keyleash.commands.locks import RELEASE
from keyleash.errors.sentences import explain
from keyleash.policy.lua import reader
from keyleash.store.keyspace import script_digest
from keyleash.store.records import read_active
from support.errors import raises_code
from support.leash import Leash
from support.scripted import COUNT, PEEK, ScriptLeash, scripted
from support.servers import RealServer


@pytest.fixture
def leash(server: RealServer) -> ScriptLeash:
    leash = ScriptLeash(server)
    leash.approve(audit={"values": "full"})
    return leash


@pytest.fixture
def one_leash(embedded: RealServer) -> ScriptLeash:
    leash = ScriptLeash(embedded)
    leash.approve()
    return leash


NUMBERS = [
    *(f"{sign}{n}" for sign in ("", "-") for n in ("0", "1", "0.1", "1e15", "1/0", "5e-324")),
    *(f"2^{n}" for n in range(48, 72)),
    *(f"2^{n} - 1" for n in range(48, 72)),
    *(f"-2^{n} - 1" for n in range(48, 72)),
    *(f"10^{n}" for n in range(-25, 25)),
    *(f"7 / 10^{n}" for n in range(30)),
    *(f"{n} / 7" for n in range(1, 60)),
    *(f"{n * 7919}.{n * 104729}" for n in range(1, 200)),
    "0/0", "9007199254740993", "123456789.123456789", "1.7976931348623157e308",
]  # fmt: skip
WRITE_NUMBERS = f"redis.call('RPUSH', KEYS[1], {', '.join(NUMBERS[:90])})" + "".join(
    f" redis.call('RPUSH', KEYS[1], {number})" for number in NUMBERS[90:]
)


def test_numbers_of_a_script_are_written_as_by_a_raw_one(leash: ScriptLeash) -> None:
    """In the server's own format."""
    text = f"{WRITE_NUMBERS} redis.call('SET', 1.5, 0.1)"
    client = scripted(leash, text, keys=["app:*", "1.5"])
    leash.admin.eval(text, 1, "{1.5}raw")
    client.eval(text, 1, "app:{1.5}guarded")
    assert client.lrange("app:{1.5}guarded", 0, -1) == leash.admin.lrange("{1.5}raw", 0, -1)
    assert client.get("1.5") == b"0.1"


def test_large_integers_are_numbers_in_a_script(server: RealServer) -> None:
    """As in a raw script, where they lose digits."""
    text = (
        "local n = redis.call('INCRBY', KEYS[1], ARGV[1])"
        " return {type(n), n, tostring(n), redis.call('HINCRBY', KEYS[2], 'f', ARGV[1])}"
    )
    leash = Leash(server)
    client = scripted(leash, text)
    for number in (2**53 + 1, -(2**53) - 3, 2**62 + 12345):
        raw = leash.admin.eval(text, 2, f"{{d}}raw:{number}", f"{{d}}raw:h{number}", number)
        assert client.eval(text, 2, f"app:{{d}}{number}", f"app:{{d}}h{number}", number) == raw


def test_read_only_script_cannot_write(leash: ScriptLeash) -> None:
    """The first write is an error as on a raw connection; a script that only reads runs."""
    client = leash.redis()
    for call in (client.eval_ro, lambda text, *rest: client.evalsha_ro(script_digest(text), *rest)):
        with pytest.raises(redis.ResponseError, match="Write commands are not allowed from read-"):
            call(COUNT, 1, "app:n")
        assert call(PEEK, 1, "app:n") is None
    assert leash.recorded() == []


def test_script_with_the_flag_no_writes_cannot_write(leash: ScriptLeash) -> None:
    """Called by EVAL, with the error of a raw connection; one that only reads runs."""
    for flags in ("no-writes", "allow-stale,no-writes"):
        line = f"#!lua flags={flags}\n"
        client = scripted(leash, line + COUNT)
        for caller in (leash.admin, client):
            with pytest.raises(redis.ResponseError, match="Write commands are not allowed from"):
                caller.eval(line + COUNT, 1, "app:n")
        assert leash.admin.get("app:n") is None
        client = scripted(leash, line + PEEK)
        assert client.eval(line + PEEK, 1, "app:n") is None
    client = scripted(leash, "#!lua flags=no-cluster\n" + COUNT)
    assert client.eval("#!lua flags=no-cluster\n" + COUNT, 1, "app:n") == 1


@pytest.mark.parametrize("command", ["'PFCOUNT'", "'SORT'", "'SET', KEYS[1]", "'PUBLISH', 'a'"])
def test_read_only_script_has_the_errors_of_a_raw_one(server: RealServer, command: str) -> None:
    """Also for commands that may write, or that replicas get."""
    text = f"return redis.pcall({command}, KEYS[1])"
    leash = Leash(server)
    client = scripted(leash, text, {"allow": ["publish"], "channels": ["*"]})
    outcomes = []
    for caller in (leash.admin, client):
        with pytest.raises(redis.ResponseError) as caught:
            caller.eval_ro(text, 1, "app:n")
        outcomes.append(str(caught.value))
    assert outcomes[0] == outcomes[1]


def test_read_only_lock_script_changes_nothing(one_leash: ScriptLeash) -> None:
    client = one_leash.redis()
    client.set("app:lock", "mine")
    with pytest.raises(redis.ResponseError, match="read-only"):
        client.evalsha_ro(RELEASE, 1, "app:lock", "mine")
    assert client.get("app:lock") == b"mine"


@pytest.mark.parametrize("words", [("LOAD", PEEK, "x"), ("LOAD",), ("EXISTS",)])
def test_wrong_number_of_arguments_of_script_is_the_server_s_error(
    one_leash: ScriptLeash, words: tuple[str, ...]
) -> None:
    """Nothing is sent, with the text of a raw connection."""
    outcomes = []
    for caller in (one_leash.admin, one_leash.redis()):
        with pytest.raises(redis.ResponseError) as caught:
            caller.execute_command("SCRIPT", *words)
        outcomes.append(str(caught.value))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "text",
    [
        "redis.call('SET', KEYS[1], 'left') while true do end",
        "redis.call('SET', KEYS[1], 'left') pcall(function() while true do end end) return 1",
        "redis.call('SET', KEYS[1], 'left') pcall(function() while true do end end) KEYS.a.b = 1",
    ],
)
def test_script_that_used_up_its_work_is_recorded_as_a_denial(
    one_leash: ScriptLeash, text: str
) -> None:
    """Whatever it returns or raises; what it wrote stands."""
    client = scripted(one_leash, text, on_denials={"threshold": "2/minute", "suspend": "10m"})
    for _ in range(2):
        with pytest.raises(keyleash.WorkTooLargeError) as denied:
            client.eval(text, 1, "app:n")
        assert denied.value.details["command"] == "EVAL"
        assert "one call of the script" in (denied.value.help or "")
        assert int(denied.value.details["work"]) > int(denied.value.details["limit"]) == 250_000
    assert one_leash.admin.get("app:n") == b"left"
    denials = read_denials(one_leash.store, ["one"])
    assert ("WORK_TOO_LARGE", "EVALSHA") in {(item.code, item.op) for item in denials}
    with pytest.raises(keyleash.SuspendedError):
        client.get("app:n")


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(
    "read", ["'LRANGE', KEYS[1], 0, 9", "'HGETALL', KEYS[2]", "'GET', KEYS[3]"]
)
def test_replies_that_a_script_holds_are_work(server: RealServer, read: str, reads: bool) -> None:
    """Once they have the bytes that the limit allows, the script ends."""
    text = f"local t = {{}} for i = 1, ARGV[1] do t[i] = redis.call({read}) end return #t"
    leash = Leash(server)
    client = scripted(leash, text, audit={"reads": reads})
    part = "x" * 20_000
    leash.admin.rpush("app:{d}l", *[part] * 10)
    leash.admin.hset("app:{d}h", mapping={str(n): part for n in range(10)})
    leash.admin.set("app:{d}s", part * 10)
    keys = ("app:{d}l", "app:{d}h", "app:{d}s")
    assert client.eval(text, 3, *keys, 30) == 30
    with pytest.raises(keyleash.WorkTooLargeError):
        client.eval(text, 3, *keys, 60)


def test_script_that_a_server_does_not_compile_is_named(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its file, if `check` has not found it; nothing is activated."""
    monkeypatch.setattr(reader, "MAX_VALUES", 1000)
    leash = Leash(server)
    with raises_code("script-rejected") as caught:
        scripted(leash, f"return type({'1, ' * 300}1)")
    assert str(caught.value).startswith("the server does not compile the script `s` (`s.lua`) of")
    assert "too complex" in str(caught.value)
    assert read_active(leash.store) is None


def test_bounds_of_a_script_are_named_with_their_limit(one_leash: ScriptLeash) -> None:
    """The 501st key with before-images, and the 1,001st command."""
    write = "for n = 1, ARGV[1] do redis.call('SET', KEYS[1] .. n, n) end"
    client = scripted(one_leash, write, audit={"before_images": {"max_bytes": "1kb"}})
    with pytest.raises(keyleash.ArgsTooManyError) as denied:
        client.eval(write, 1, "app:{d}", 501)
    assert {"keys": "501", "limit": "500"}.items() <= denied.value.details.items()
    assert "501 keys" in (denied.value.help or "")
    touch = "for n = 1, ARGV[1] do redis.call('EXISTS', KEYS[1]) end"
    client = scripted(one_leash, touch)
    with pytest.raises(keyleash.ArgsTooManyError) as denied:
        client.eval(touch, 1, "app:{d}", 1001)
    assert {"commands": "1001", "limit": "1000"}.items() <= denied.value.details.items()
    assert "1001 commands" in (denied.value.help or "")


COSTLY = {
    "digits": (1000, "string.format('%.99f', 1e308)"),
    "digits of a text": (1000, "string.format('%f', '1e308')"),
    "escapes": (5, "cjson.encode(('\\1'):rep(65536))"),
    "options of a pattern": (400, "string.find('aaaaaaaaaaaa', 'a?a?a?a?a?a?a?a?b')"),
    "sketches": (10, "redis.call('PFMERGE', KEYS[1], KEYS[1])"),
    "arguments": (60, f"redis.call('DEL'{', KEYS[1]' * 220})"),
    "numbers": (4_000, "local t = i .. 'x'"),
    "texts of numbers": (8_000, "tostring(i)"),
    "capitals": (60, "string.upper(('x'):rep(32768))"),
    "tables of JSON": (60, "cjson.decode('[' .. ('{},'):rep(1000) .. '1]')"),
}
"""Rounds of calls that take long: a script may do these, and not five times as many."""


@pytest.mark.parametrize(("rounds", "call"), COSTLY.values(), ids=COSTLY)
def test_costly_calls_use_up_the_work_of_a_script(
    embedded: RealServer, rounds: int, call: str
) -> None:
    """Before the server is held for long; measured when the units were chosen."""
    text = f"for i = 1, ARGV[1] do {call} end return 'done'"
    client = scripted(Leash(embedded), text)
    assert client.eval(text, 1, "app:n", rounds) == b"done"
    with pytest.raises(keyleash.WorkTooLargeError):
        client.eval(text, 1, "app:n", 5 * rounds)


RAISING = {
    "text": "local a = 1\n\nerror('why')",
    "operator": "-- A comment\nlocal a = {}\nlocal b = a.\nx.y",
    "function": "\nlocal function f(n)\n  return n + {}\nend\nlocal a = f(\n  1) return a",
    "condition": "local n = 1 while n do\nn = n.x .. 'a'\nend",
}


@pytest.mark.parametrize("text", RAISING.values(), ids=RAISING)
def test_error_of_a_script_has_the_line_of_its_text(leash: ScriptLeash, text: str) -> None:
    """As on a raw connection, and never a line of the guard."""
    client = scripted(leash, text)
    lines = []
    for caller in (leash.admin, client):
        with pytest.raises(redis.ResponseError, match="user_script:") as caught:
            caller.eval(text, 1, "app:n")
        lines.append(re.findall(r"user_script:(\d+)", str(caught.value)))
    assert lines[0] == lines[1]
    assert len(lines[0]) == 2


def test_denial_in_a_script_names_the_script_and_its_line(leash: ScriptLeash) -> None:
    """And that what the script wrote before stands."""
    text = "redis.call('SET', KEYS[1], 1)\nlocal n = redis.call('SET', 'other:{d}x', 1)\nreturn n"
    client = scripted(leash, text)
    with pytest.raises(keyleash.KeyNotGrantedError) as denied:
        client.eval(text, 1, "app:{d}n")
    assert denied.value.details == {"key": "other:{d}x", "at": "s:2"}
    assert "ended at `s:2`, and what it wrote before stands" in explain(denied.value)[1]
    assert client.get("app:{d}n") == b"1"
    text = "return redis.pcall('SET', 'other:{d}x', 1)"
    client = scripted(leash, text)
    with pytest.raises(keyleash.KeyNotGrantedError) as denied:
        client.eval(text, 1, "app:{d}n")
    assert denied.value.details == {"key": "other:{d}x", "at": "s"}


def test_error_table_of_a_script_keeps_its_code(leash: ScriptLeash) -> None:
    """As on a raw connection."""
    text = "error({err = 'CUSTOM why'})"
    client = scripted(leash, text)
    for caller in (leash.admin, client):
        with pytest.raises(redis.ResponseError, match=r"^CUSTOM why"):
            caller.eval(text, 1, "app:n")


DIGITS = (
    "local s, x, t = ('0'):rep(100000) .. '1', 1, {'a', 'b'} for i = 1, 200 do %s end return 'done'"
)
EMPTY = (
    "local t = {} for i = 1, 9000 do t['k' .. i] = i end"
    " local first, last for name in pairs(t) do first, last = first or name, name end"
    " for name in pairs(t) do if name ~= first and name ~= last then t[name] = nil end end %s"
    " return 'done'"
)
KEYS_OF_ONE_PLACE = "local t = {} for i = 0, 9000 do %s end return 'done'"
HIDDEN = {
    **{
        call: DIGITS % call
        for call in (
            *(f"x = {sum}" for sum in ("s + 1", "1 - s", "s * s", "x / s", "s % x", "x ^ s", "-s")),
            *("x = -s ^ 2", "x = 1 + 2 * s", "x = (s) + 1", "for j = s, 1 do end"),
            *("for j = 1, s do end", "for j = 1, 1, s do end", "t[s - 1] = 1"),
            *("math.abs(s)", "math.max(1, 2, s)", "math.random(s)", "bit.tobit(s)", "t.y = s * 1"),
            *("bit.band(1, s)", "string.sub('a', s)", "('a'):sub(1, s)", "string.byte('a', s)"),
            *("string.rep('a', s)", "string.char(1, s)", "string.find('a', 'a', s)"),
            *("string.match('a', 'a', s)", "string.gsub('a', 'a', 'b', s)", "select(s, 1)"),
            *("table.concat(t, '', s)", "unpack(t, s)", "table.insert(t, s, 1)"),
            *("table.remove(t, s)", "pcall(tonumber, '1', s)"),
        )
    },
    "next of pairs": EMPTY % "t[first] = nil local step = pairs({}) for i = 1, 3000 do step(t) end",
    "gap": EMPTY % "for i = 1, 3000 do next(t, first) end",
    "gap of pairs": EMPTY % "local step = pairs({}) for i = 1, 3000 do step(t, first) end",
    "maxn": EMPTY % "for i = 1, 3000 do table.maxn(t) end",
    "empty table sent often": EMPTY
    % "t[first] = nil local u = {} for i = 1, 1000 do u[i] = t end cjson.encode(u)",
    "keys": KEYS_OF_ONE_PLACE % "t[2^52 + i * 4294967295] = 1",
    "one of several keys": KEYS_OF_ONE_PLACE % "t.x, t[2^52 + i * 4294967295], t.y = 1, 2, 3",
    "keys of new tables": KEYS_OF_ONE_PLACE % "t = {[2^52 + i * 4294967295] = 1}",
    "keys of insert": KEYS_OF_ONE_PLACE % "table.insert(t, 2^30 + i * 2048, 1)",
    "reads": KEYS_OF_ONE_PLACE.replace("9000", "1000")
    % "t[-i] = 1 end for i = 1, 20000 do local x = t.x",
    "keys of MessagePack": r"local s = '\223\0\0\39\16' .. ('\207\0\0\0\0\0\0\0\0\1'):rep(10000)"
    " cmsgpack.unpack(s) return 'done'",
}
"""Texts with few rounds, whose work a server does out of sight."""


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_work_that_a_server_hides_is_counted(embedded: RealServer, text: str) -> None:
    """Texts that are read as numbers, walks of empty places, keys with one place in a table."""
    client = scripted(Leash(embedded), text)
    with pytest.raises(keyleash.WorkTooLargeError):
        client.eval(text, 1, "app:n")


@pytest.mark.parametrize(
    "text",
    [
        "local t = {} for i = 1, 20000 do t[#t + 1] = i + ARGV[1] end return 'done'",
        "local t, n = {}, 0 for i = 1, 1000 do t[-i] = i end"
        " for i = 1, 3000 do n = n + 1 end return 'done'",
        "local t, n = {}, 0 for i = 1, 100 do t['k' .. i] = i end"
        " for a in pairs(t) do for b in pairs(t) do n = n + 1 end end return n == 10000 and 'done'",
        "local t = {} for i = 1, 500 do t[i] = {i / 2, ARGV[1] * 1} end"
        " return #cmsgpack.unpack(cmsgpack.pack(t)) == 500 and 'done'",
    ],
)
def test_usual_work_with_numbers_and_tables_is_within_the_limit(
    embedded: RealServer, text: str
) -> None:
    client = scripted(Leash(embedded), text)
    assert client.eval(text, 1, "app:n", "7") == b"done"
