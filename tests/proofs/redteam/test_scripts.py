"""Ways out of the sandbox of approved scripts, none of which works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from keyleash.policy.lua import LuaError, sandboxed
from keyleash.store.keyspace import script_digest
from keyleash.store.records import guard_record
from support.leash import NAMES, Leash, with_files
from support.servers import RealServers, embedded_label

DENIED = "LEASH "
"""The beginning of every denial."""


def calls(*commands: str) -> dict[str, str]:
    """Return a text for each command, in Lua, that runs it and returns its reply."""
    return {f"call {command}": f"return redis.call({command})" for command in commands}


OUTSIDE = {
    **calls(
        "'SET', 'other:x', '1'",
        "'set', 'other:x', '1'",
        "'sEt', 'other:secret', '1'",
        "'GET', 'other:secret'",
        "'MGET', 'app:a', 'other:secret'",
        "'MSET', 'app:a', '1', 'other:x', '1'",
        "'RENAME', 'app:a', 'other:x'",
        "'COPY', 'other:secret', 'app:b'",
        "'COPY', 'app:a', 'other:x'",
        "'SORT', 'app:l', 'STORE', 'other:x'",
        "'SORT', 'app:l', 'BY', 'nosort', 'GET', 'other:*'",
        "'SORT', 'app:l', 'BY', 'other:*'",
        "'sort_ro', 'app:l', 'ALPHA', 'GET', '*'",
        "'ZUNIONSTORE', 'other:x', '1', 'app:z'",
        "'BITOP', 'NOT', 'other:x', 'app:a'",
        "'LMOVE', 'app:l', 'other:x', 'LEFT', 'LEFT'",
        "'SMOVE', 'app:s', 'other:x', 'a'",
        "'PFMERGE', 'other:x', 'app:p'",
        "'GETDEL', 'other:secret'",
        "'GETEX', 'other:secret', 'EX', '1'",
        "'SUBSTR', 'other:secret', '0', '-1'",
        "'LCS', 'other:secret', 'app:a'",
        "'OBJECT', 'ENCODING', 'other:secret'",
        "'MEMORY', 'USAGE', 'other:secret'",
        "'XREAD', 'STREAMS', 'other:secret', '0'",
        "'DEL', KEYS[1], 'other:secret'",
        "'UNLINK', 'other:secret'",
        "'EXPIRE', 'other:secret', '1'",
        "'PUBLISH', 'other', 'x'",
        "'EVAL', \"return redis.call('set', 'other:x', '1')\", '0'",
        "'EVALSHA', ARGV[1], '0'",
        "'FCALL', 'leash_x', '0'",
        "'SCRIPT', 'LOAD', 'return 1'",
        "'SCRIPT', 'FLUSH'",
        "'FUNCTION', 'FLUSH'",
        "'FLUSHALL'",
        "'FLUSHDB'",
        "'KEYS', '*'",
        "'RANDOMKEY'",
        "'SCAN', '0'",
        "'SCAN', '0', 'MATCH', 'other:*'",
        "'SELECT', '1'",
        "'SWAPDB', '0', '1'",
        "'MOVE', 'app:a', '1'",
        "'MULTI'",
        "'WATCH', 'other:secret'",
        "'AUTH', 'x'",
        "'ACL', 'SETUSER', 'x'",
        "'CLIENT', 'KILL', 'ID', '1'",
        "'CONFIG', 'SET', 'maxmemory', '1'",
        "'DEBUG', 'SLEEP', '1'",
        "'SHUTDOWN'",
        "'SAVE'",
        "'REPLICAOF', 'NO', 'ONE'",
        "'MIGRATE', 'h', '1', 'app:a', '0', '1'",
        "'MODULE', 'LIST'",
        "'SUBSCRIBE', 'x'",
        "'MONITOR'",
        "'WAIT', '0', '1'",
        "'GET', 'keyleash:policy'",
        "'DEL', 'keyleash:audit:one'",
        "'XADD', 'keyleash:audit:one', '*', 'SET', 'app:a'",
        "'SET', 'keyleash:state:one', ''",
        "'SET ', 'other:x', '1'",
        "'SET\\0', 'other:x', '1'",
        "' SET', 'other:x', '1'",
        "''",
    ),
    "pcall": "return tostring(pcall(redis.call, 'SET', 'other:x', '1'))",
    "redis.pcall": "local r = redis.pcall('SET', 'other:x', '1') return r.err",
    "alias": "local call = redis.call return call('SET', 'other:x', '1')",
    "member by name": "return redis['call']('SET', 'other:x', '1')",
    "method of redis": "return redis:call('SET', 'other:x', '1')",
    "key of a reply": "redis.call('SET', KEYS[1], 'other:x')"
    " return redis.call('SET', redis.call('GET', KEYS[1]), '1')",
    "another declared key": "KEYS[1] = 'other:x' return redis.call('SET', KEYS[1], '1')",
    "another list of keys": "KEYS = {'other:x'} return redis.call('SET', KEYS[1], '1')",
    "command of an argument": "return redis.call(ARGV[2], 'other:x', '1')",
    "a call of its own": "redis.call = redis.pcall return redis.call('SET', 'other:x', '1')",
    "another type": "type = function() return 'string' end return redis.call('SET', {}, '1')",
    "another table": "table.concat = nil string.upper = nil table.insert = nil"
    " return redis.call('SET', 'other:x', '1')",
    "arguments that are made late": "local k = 'app:a' local function key() k = 'other:x' end"
    " return redis.call('MSET', k, '1', k, '1', key() or k, '1')",
    "unpacked": "return redis.call(unpack({'SET', 'other:x', '1'}))",
    "in a callback": "return (string.gsub('x', 'x', function()"
    " return redis.call('SET', 'other:x', '1') end))",
    "in a comparison": "local t = {2, 1} table.sort(t, function(a, b)"
    " redis.call('SET', 'other:x', '1') return a < b end) return t",
    "in a pcall in a pcall": "return tostring(pcall(pcall, redis.call, 'SET', 'other:x', '1'))",
    "after other writes": "redis.call('SET', KEYS[1], '1') redis.call('SET', 'other:x', '1')",
}
"""Commands outside of the grants: `app:*` with all classes."""

ENDLESS = {
    "while": "while true do end",
    "repeat": "repeat until false",
    "for": "for i = 1, 1e15 do end",
    "for without a step": "for i = 1, 1, 0 do end while true do end",
    "recursion": "local function f() f() end while true do pcall(f) end",
    "tail calls": "local function f() return f() end return f()",
    "two functions": "local g local function f() return g() end g = function() return f() end f()",
    "pcall in a loop": "while true do pcall(function() while true do end end) end",
    "pcall of everything": "local function f() pcall(f) pcall(f) return pcall(f) end"
    " while true do f() end",
    "commands": "while true do redis.pcall('GET', KEYS[1]) end",
    "denied commands": "while true do redis.pcall('GET', 'other:secret') end",
    "text doubled": "local s = 'x' while true do s = s .. s end",
    "text repeated": "return #string.rep('x', 1e12)",
    "method of a text": "return #('x'):rep(1e12)",
    "member of a text": "return #(('x').rep('x', 1e12))",
    "computed member of a text": "local s = 'x' return #(s['re' .. 'p'](s, 1e12))",
    "member of a number": "local n = 1 .. '' return #n:rep(1e12)",
    "repeated in a pcall": "while true do pcall(string.rep, 'x', 1e6) end",
    "joined": "local t = {} for i = 1, 1000 do t[i] = string.rep('x', 9000) end"
    " while true do table.concat(t) end",
    "replaced": "local s = string.rep('x', 3000) return #s:gsub('x', s)",
    "replaced by a function": "local s = string.rep('x', 9000)"
    " return #string.gsub(s, 'x', function() return s end)",
    "pattern": "return string.find(string.rep('a', 1000), '.-.-.-.-.-b')",
    "pattern of a method": "return string.rep('a', 1000):match('(.*)(.*)(.*)(.*)b')",
    "pattern with many options": "return string.find('aaaa', string.rep('a?', 400) .. 'b')",
    "long plain search": "local s = string.rep('a', 1e6)"
    " while true do string.find(s, string.rep('a', 1000) .. 'b', 1, true) end",
    "format": "while true do string.format('%99s', 'x') end",
    "inserted at the beginning": "local t = {} for i = 1, 1e9 do table.insert(t, 1, i) end",
    "inserted far before": "local t = {} while true do table.insert(t, -1e9, 1) end",
    "removed at the beginning": "local t = {} for i = 1, 1e5 do t[i] = i end"
    " while true do table.remove(t, 1) t[#t + 1] = 1 end",
    "sorted": "local t = {} for i = 1, 1e5 do t[i] = i % 7 end while true do table.sort(t) end",
    "unpacked": "local t = {} for i = 1, 5000 do t[i] = i end while true do unpack(t) end",
    "selected": "local t = {} for i = 1, 5000 do t[i] = i end"
    " local function f(...) while true do local a = select(1, ...) end end f(unpack(t))",
    "passed on": "local t = {} for i = 1, 5000 do t[i] = i end"
    " local function f(...) while true do local a = {...} end end f(unpack(t))",
    "next of an emptied table": "local t = {} for i = 1, 1e4 do t[i] = i end"
    " for i = 1, 1e4 do t[i] = nil end while true do next(t) end",
    "nested JSON": "local t = {} for i = 1, 60 do t = {t, t} end return #cjson.encode(t)",
    "nested MessagePack": "local t = {} for i = 1, 14 do local u = {}"
    " for j = 1, 20 do u[j] = t end t = u end return #cmsgpack.pack(t)",
    "nested reply": "local t = {} for i = 1, 60 do t = {t, t} end return t",
    "reply within itself": "local t = {} t[1] = t return t",
    "JSON within itself": "local t = {} t[1] = t return cjson.encode(t)",
    "decoded": "local s = cjson.encode({string.rep('[]', 1000)}) while true do cjson.decode(s) end",
    "packed": "while true do struct.pack(string.rep('i', 100), unpack({})) end",
    "hashed": "local s = string.rep('x', 1e6) while true do redis.sha1hex(s) end",
    "read again and again": "while true do local v = redis.call('GET', 'app:long') end",
    "literal pattern": "local s = string.rep('a', 60000)"
    " return string.match(s, string.rep('a', 50000) .. 'b')",
    "pattern with a long set": "local s = string.rep('b', 40000)"
    " return string.find(s, '[' .. string.rep('a', 40000) .. ']')",
    "literal search": "local s = string.rep('a', 200000)"
    " return string.find(s, string.rep('a', 100000) .. 'b')",
    "replaced by a long set": "local s = string.rep('a', 40000)"
    " return s:gsub('[' .. string.rep('b', 20000) .. ']', '')",
    "anchor that is none": "return string.gmatch(string.rep('^', 1500), '^.-^.-#')",
    "pattern with a captured text": "return string.find(string.rep('a', 1800), '(.-)%1b')",
    "inserted behind 32 bits": "local t = {} table.insert(t, 2^32 - 3e6, 1)",
    "inserted far behind": "local t = {} table.insert(t, 2^32 + 1, 1)",
    "inserted at no number": "local t = {} table.insert(t, 0/0, 1)",
    "removed behind 32 bits": "local t = {1, 2} table.remove(t, 2^32 + 1)",
    "joined behind 32 bits": "local s, t = string.rep('x', 1e6), {}"
    " for i = 1, 200 do t[i] = s end return #table.concat(t, '', 2^32 + 1, 200)",
    "joined in full": "local s, t = string.rep('x', 1e6), {}"
    " for i = 1, 200 do t[i] = s end return #table.concat(t, '', '1', '200')",
    "unpacked behind 32 bits": "return unpack({1, 2}, 2^32 + 1, 2^32 + 2)",
    "repeated below 32 bits": "return #string.rep('x', -2^32 + 2e7)",
    "method below 32 bits": "return #(('x'):rep(-2^32 + 2e7))",
    "repeated by no number": "return #string.rep('x', 0/0)",
    "compared": "local a = string.rep('x', 2e6) local b = a .. 'y'"
    " while true do local c = a < b end",
    "compared from the right": "local a = string.rep('x', 2e6) local b = a .. 'y'"
    " while true do local c = 'x' and b >= a end",
    "sorted long texts": "local p, t = string.rep('x', 20000), {}"
    " for i = 1, 300 do t[i] = p .. i * 7919 % 1000 end while true do table.sort(t) end",
    "constructors": "local t = {} for i = 1, 1000 do t[i] = {" + "{}," * 2000 + "} end",
    "long bodies": "local n = 0 for i = 1, 20000 do " + "n=n+1 " * 4000 + "end return n",
    "long function": "local n = 0 local function f() " + "n=n+1 " * 4000 + "end"
    " for i = 1, 20000 do f() end return n",
    "raised long texts": "local s = string.rep('x', 2e6)"
    " while true do pcall(function() error(s) end) end",
    "error replies": "local s = string.rep('x', 2e6) while true do redis.error_reply(s) end",
    "many tables of MessagePack": "local s = '\\221\\0\\15\\0\\0' .. string.rep('\\144', 983040)"
    " return #cmsgpack.unpack(s)",
    "many tables of JSON": "return #cjson.decode('[' .. string.rep('{},', 400000) .. '1]')",
    "bytes": "local s = string.rep('x', 5000) while true do string.byte(s, 1, -1) end",
}
"""Texts without an end, or that make more than a server has."""

HARMLESS = {
    "denial that nothing ran": "return {err = 'LEASH POLICY_STALE'}",
    "raised denial": "error({err = 'LEASH RATE_LIMITED limit=x retry_after_ms=1'})",
    "lost script": "return redis.error_reply('NOSCRIPT No matching script')",
    "read-only": "error({err = 'READONLY x'})",
    "missing function": "return {err = 'ERR Function not found'}",
    "denial behind a code": "return {err = 'ERR LEASH POLICY_STALE'}",
    "denial behind two codes": "return {err = 'ERR ERR LEASH TOKEN_EXPIRED'}",
    "lost script before a NUL": "return {err = 'NOSCRIPT\\0 x'}",
    "missing function with a line": "return {err = 'ERR Function not found\\n'}",
    "missing function with a NUL": "return {err = 'ERR Function not found\\0'}",
    "function": "return function() end",
    "library": "return redis",
    "null": "return cjson.null",
    "strange error": "error(cjson.null)",
    "function as an error": "error(function() end)",
    "no error": "error()",
    "nan": "return 0/0",
    "other version": "return tostring(pcall(redis.setresp, 3))",
    "log": "redis.log(redis.LOG_WARNING, 'fake line')",
    "libraries": "string.rep = nil table = nil redis.call = nil pcall = nil return 1",
}
"""What a script may return or raise; a reply that says that nothing ran is never among it."""

AT_LOAD = (
    "return _G", "return _G.redis", "local a = _G['redis']", "return loadstring('return 1')()",
    "return load(function() end)", "return getfenv(0)", "setfenv(1, {})", "return getmetatable('')",
    "setmetatable({}, {__index = redis})", "return rawget(redis, 'x')", "rawset(redis, 'call', 1)",
    "return newproxy(true)", "return coroutine.create(function() end)", "return debug.getinfo(1)",
    "return dofile('/etc/passwd')", "return require('os')", "return io.open('/etc/passwd')",
    "return os.execute('id')", "return server.call('SET', 'other:x', '1')",
    "collectgarbage('stop')",
    "return string.dump(function() end)", "redis.set_repl(redis.REPL_NONE)", "redis.breakpoint()",
    "redis.register_function('f', function() end)", "return redis.acl_check_cmd('GET')",
    "cjson.encode_max_depth(1e9)", "cjson.encode_keep_buffer('off')", "math.randomseed(1)",
    "xpcall(error, error)", "print('x')", "module('x')", "return package.loaded", "x = 1",
    "function f() end", "redis.call('GET', call)", "return approved", "return perform",
    "return argv",
    "return token", "return __t", "__b = nil", "local __m = 1", "return 1 end return 2",
    "end end end", "end) redis.call('SET', 'other:x', '1') (function()", "--[[", "return [[",
    "return '",
    "return 1 --[==[ ]]", "if true then", "return (", "goto out ::out::", "return ...", "break",
    "return 1; return 2", "local a <close> = 1", "return 1 // 1", "return ~1", "return 'a\nb'",
)  # fmt: skip


class Stage(Leash):
    """A server with an identity that may run all of these texts."""

    token: str
    script: str

    def approve(self, texts: list[str]) -> None:
        """Load them, with a secret outside of the grants."""
        names = {f"s{n}": text for n, text in enumerate(texts)}
        grant = {"allow": ["read", "write", "delete"], "keys": ["app:*"], "scripts": [*names]}
        document = {
            "version": 1,
            "scripts": {name: {"file": f"{name}.lua"} for name in names},
            "identities": {"one": {"kind": "machine", "grants": [grant]}},
        }
        files = {f"{name}.lua": text for name, text in names.items()}
        self.load(with_files(json.dumps(document), files))
        self.token = self.issue("one").token
        record = guard_record(self.admin.hgetall(NAMES.guard("one")))
        assert record is not None
        self.script = record.approved_digest

    def run(self, text: str, *arguments: str) -> Any:
        """Run a text with the key `app:a`; return its reply, or the text of its error."""
        digest = script_digest(text)
        call = ("EVALSHA", self.script, 1, "app:a", self.token, "", digest, *arguments)
        try:
            return self.admin.execute_command(*call)
        except redis.ResponseError as error:
            return str(error)


TEXTS = [*OUTSIDE.values(), *ENDLESS.values(), *HARMLESS.values()]


@pytest.fixture(scope="module")
def stage(real_servers: RealServers) -> Iterator[Stage]:
    with real_servers.lend(embedded_label()) as server:
        stage = Stage(server)
        stage.approve(TEXTS)
        stage.admin.set("other:secret", "hidden")
        stage.admin.set("app:long", "x" * 100_000)
        yield stage


def assert_kept(stage: Stage, reply: Any) -> None:
    """Assert that nothing outside of the grants was read or changed."""
    names = [
        name for name in stage.admin.scan_iter() if not name.startswith((b"app:", b"keyleash:"))
    ]
    assert names == [b"other:secret"]
    assert stage.admin.get("other:secret") == b"hidden"
    assert stage.admin.ttl("other:secret") == -1
    assert b"hidden" not in repr(reply).encode()
    assert stage.token not in repr(reply)
    assert stage.admin.info("server")["uptime_in_seconds"] >= 0


def test_there_are_more_than_a_hundred_ways() -> None:
    assert len({*TEXTS, *AT_LOAD}) > 190


@pytest.mark.parametrize("text", OUTSIDE.values(), ids=OUTSIDE)
def test_command_outside_of_the_grants_is_denied(stage: Stage, text: str) -> None:
    """However a script comes to the command or to the key."""
    stage.admin.set("app:a", "old")
    stage.admin.rpush("app:l", "1")
    reply = stage.run(text, stage.script, "SET")

    assert_kept(stage, reply)
    if "pcall" not in text.partition("redis.call = ")[0] and "type =" not in text:
        assert str(reply).startswith((DENIED, "attempt to", "Lua redis", "user_script")), reply


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_script_without_an_end_is_ended(stage: Stage, text: str) -> None:
    """With the work that the policy allows, whatever it does with errors."""
    reply = stage.run(text)

    assert_kept(stage, reply)
    assert any(
        word in str(reply)
        for word in (
            "WORK_TOO_LARGE",
            "ARGS_TOO_MANY",
            "overflow",
            "nested",
            "bad argument",
            "out of range",
        )
    ), reply


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_reply_of_a_script_never_says_that_nothing_ran(stage: Stage, text: str) -> None:
    """A client would send the script again."""
    reply = stage.run(text)

    assert_kept(stage, reply)
    assert not str(reply).startswith(
        ("LEASH", DENIED, "NOSCRIPT", "No matching", "READONLY", "Function")
    )
    assert stage.run(HARMLESS["libraries"]) == 1


@pytest.mark.parametrize("text", AT_LOAD)
def test_text_that_leaves_the_sandbox_is_denied_at_load(text: str) -> None:
    """With a place in the text."""
    with pytest.raises(LuaError) as caught:
        sandboxed(text.encode())
    assert caught.value.line >= 1
