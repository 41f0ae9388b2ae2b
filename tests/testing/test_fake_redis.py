"""The fake server against a real one: the same scripts, the same replies."""

# ruff: noqa: E501 - a script is easier to compare on one line
from __future__ import annotations

import asyncio
import hashlib
import inspect
import struct
import subprocess
import sys
from typing import Any

import fakeredis
import pytest
import redis
from redis.exceptions import NoScriptError, ResponseError

import keyleash.testing
from keyleash.testing import fake_async_redis, fake_redis, fake_server
from support.errors import raises_code
from support.servers import RealServer

ALL_BYTES = bytes(range(256))
SCRIPTS = [
    "local t = redis.call('TIME') return {type(t[1]), type(t[2]), #t, #t[1]}",
    "return tostring(redis.call('GET', 'missing'))",
    "return redis.call('GET', 'missing')",
    "redis.call('SET', 'a', '1') return redis.call('MGET', 'a', 'missing', 'a')",
    "redis.call('HSET', 'h', 'f', '1') return redis.call('HGETALL', 'h')",
    "redis.call('ZADD', 'z', 1.5, 'm') return redis.call('ZSCORE', 'z', 'm')",
    "redis.call('XADD', 'x', '5-1', 'a', 'b') return redis.call('XRANGE', 'x', '-', '+')",
    "return {true, false, 3.99, -3.99, 'x', {1, {}}}",
    "return true",
    "return false",
    "return nil",
    "return",
    "return string.find('agents:jobs:1:state', '^agents:jobs:[^:]+:')",
    "redis.call('SET', 'n', '9007199254740992') return redis.call('INCR', 'n')",
    "redis.call('SET', 'n', '9007199254740992') redis.call('INCR', 'n') return redis.call('GET', 'n')",
    "return 1732456789123456 .. ''",
    "return string.format('%.0f', 1732456789123456)",
    "return redis.error_reply('LEASH KEY_DENIED key=a')",
    "return redis.error_reply('plain')",
    "return {err = 'LEASH RATE_LIMITED limit=x'}",
    "return redis.status_reply('FINE')",
    "return {redis.error_reply('LEASH X a=b'), 1}",
    "redis.call('SET', 'a', 'x') return redis.pcall('INCR', 'a')",
    "redis.call('SET', 'a', 'x') return redis.pcall('LPUSH', 'a', 'x')",
    "redis.call('SET', 'a', 'x') local r = redis.pcall('INCR', 'a') return {type(r), type(r.err), r.err .. '!'}",
    "redis.call('SET', 'a', 'x') local ok, e = pcall(redis.call, 'INCR', 'a') return {tostring(ok), type(e), e}",
    "local ok, e = pcall(error, {err = 'LEASH BOOM'}) return e",
    "local ok, e = pcall(error, 'boom') return e",
    "return {pcall(function(...) return select('#', ...) end, 1, nil, 3)}",
    "return redis.call('SET', 'k', 'v', 'PX', 1000)",
    "redis.call('SET', 'k', 'v', 'PX', 100000) redis.call('SETRANGE', 'k', 1, 'zz') return {redis.call('GET', 'k'), redis.call('PTTL', 'k') > 0}",
    "redis.call('SETRANGE', 'k', 5, 'zz') return redis.call('GET', 'k')",
    "redis.call('SET', 'k', 'hello') return {redis.call('GETRANGE', 'k', 1, 3), redis.call('GETRANGE', 'k', -3, -1), redis.call('GETRANGE', 'missing', 0, 3)}",
    "redis.call('SET', 'a', 0.1) return redis.call('GET', 'a')",
    "redis.call('SET', 'a', 1732456789123456) return redis.call('GET', 'a')",
    "return ARGV[1]",
    "redis.call('SET', KEYS[1], ARGV[1]) return {redis.call('GET', KEYS[1]), #ARGV[1], #KEYS, #ARGV}",
    "return {string.byte(ARGV[1], 1, -1)}",
    "return redis.call('ECHO', 'a\\0\\255\\r\\n')",
    "for i = 1, 30 do redis.call('XADD', 'x', 'MAXLEN', 10, '*', 'a', i) end return redis.call('XLEN', 'x')",
    "for i = 1, 500 do redis.call('XADD', 'x', 'MAXLEN', '~', '10', '*', 'a', i) end return redis.call('XLEN', 'x') < 400",
    "local t = {} for i = 1, 7000 do t[i] = 'k' .. i end return redis.call('DEL', unpack(t))",
    "local t = {} for i = 1, 3000 do t[i] = 'k' .. i; t[3000 + i] = i end redis.call('SADD', 's', unpack(t)) return redis.call('SCARD', 's')",
    "return {redis.sha1hex('abc'), redis.sha1hex(''), redis.sha1hex(12)}",
    "return {struct.unpack('<dBc8', struct.pack('<dBc8', 1, 2, 'abcdefgh'))}",
    "return struct.pack('<d', 1732456789123.25)",
    "return cmsgpack.pack({1, -3, 300, 2 ^ 40, -2 ^ 31, 2.5, 0.1, 1 / 0, 2 ^ 70, 'x\\255', false, {}, {ok = 'OK'}, {[3] = 'x'}}, nil)",
    "return cmsgpack.pack(string.rep('x', 40), string.rep('\\255', 300), string.rep('y', 70000))",
    "local t = {} for i = 1, 20 do t = {t} end return cmsgpack.pack(t)",
    "return cmsgpack.unpack(cmsgpack.pack({1, {ok = 'OK'}, 'x\\255', false, {{err = 'ERR boom'}, 'a'}}))",
    "return {cmsgpack.unpack(cmsgpack.pack(1, 'a', {[3] = 'b'}, true))}",
    "return {pcall(cmsgpack.unpack, '\\221')}",
    "return {pcall(cmsgpack.unpack, '\\212\\1\\1')}",
    "return {bit.band(7, '11'), bit.bor(1, 2 ^ 31), bit.bxor(1, -1), bit.bnot(0), bit.bswap(1), bit.tobit(2 ^ 32 + 5), bit.tobit(2.5)}",
    "return {bit.lshift(1, 31), bit.lshift(1, 33), bit.rshift(-1, 4), bit.arshift(-256, 4), bit.rol(-2, 3), bit.ror(-2, 3)}",
    "return {bit.tohex(255, -4), bit.tohex(-1), bit.tohex(5, 2), bit.tohex(5, 0)}",
    "return cjson.encode({a = {1, 2}})",
    "return cjson.decode('{\"a\": [1, 2]}').a[2]",
    "return {type(os.clock), type(os.time), type(os.execute)}",
    "local ok, e = pcall(function() return no_such_global end) return {tostring(ok), (string.gsub(e, '^.-:%d+: ', ''))}",
    "local ok, e = pcall(function() made_up = 1 end) return {tostring(ok), (string.gsub(e, '^.-:%d+: ', ''))}",
    "return redis.call('SET', 'a', 'c', 'XX')",
    "redis.call('RPUSH', 'l', 'a') return redis.call('LMPOP', 1, 'l', 'LEFT')",
    "redis.call('SET', 'a', 'b') return {redis.call('TYPE', 'a'), redis.call('EXISTS', 'a', 'a'), redis.call('PEXPIRETIME', 'a')}",
    "repeat local a = 1 until true do return ({'x', 'y'})[2] end",
]  # fmt: skip

# A guard in small: token record, packed state, grant by pattern, audit, then the command.
GUARD = inspect.cleandoc("""
    local redis, struct, code, detail = redis, struct, nil, ''
    local call = redis.call
    local token, correlation, command, key = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
    repeat
      local record = call('GET', 'control:token:' .. redis.sha1hex(token))
      if not record then code = 'TOKEN_UNKNOWN' break end
      local expires_ms, flags, token_id = struct.unpack('<dBc8', record)
      if flags ~= 0 then code = 'TOKEN_REVOKED' break end
      local state = call('GET', 'control:state')
      if not state then code = 'NOT_ACTIVE' break end
      local generation, day, used, ring_at = struct.unpack('<dddH', state)
      if generation ~= 7 then code = 'POLICY_STALE' break end
      if command ~= 'SET' and command ~= 'MGET' and command ~= 'INCR' then
        code, detail = 'COMMAND_REFUSED', command break
      end
      if KEYS[1] ~= key then code = 'KEYS_MISMATCH' break end
      if not string.find(key, '^jobs:[^:]+:state$') then
        code, detail = 'KEY_NOT_GRANTED', key break
      end
      local time = call('TIME')
      local now_ms = time[1] * 1000 + time[2] / 1000
      if expires_ms <= now_ms then code = 'TOKEN_EXPIRED' break end
      if used >= 3 then code, detail = 'BUDGET_EXHAUSTED', 'limit=day' break end
      local slot = 26 + 8 * ring_at
      local oldest = call('GETRANGE', 'control:state', slot, slot + 7)
      if #oldest == 8 and struct.unpack('<d', oldest) > now_ms then code = 'RATE_LIMITED' break end
      call('SETRANGE', 'control:state', slot, struct.pack('<d', now_ms))
      call('SETRANGE', 'control:state', 16, struct.pack('<dH', used + 1, (ring_at + 1) % 4))
      call('XADD', 'control:audit', 'MAXLEN', '~', '1000', '*', 'token', token_id, 'op', command,
        'key', key, 'correlation', correlation)
      return redis.pcall(unpack(ARGV, 3))
    until true
    call('XADD', 'control:denied', 'MAXLEN', '~', '100', '*', 'code', code)
    return redis.error_reply('LEASH ' .. code .. ' ' .. detail)
""")


def reply(client: redis.Redis, *command: Any) -> Any:
    try:
        return client.execute_command(*command)
    except ResponseError as error:
        return type(error), str(error)


def typed(value: Any) -> Any:
    """Make 1 and True differ, and an error inside a reply comparable."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, Exception):
        return type(value), str(value)
    return type(value), value


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("script", SCRIPTS)
def test_script_replies_as_on_a_real_server(
    embedded: RealServer, script: str, protocol: int
) -> None:
    """Scripts reply as on a real server."""
    command = ("EVAL", script, 1, b"key\xff", ALL_BYTES)
    fake = reply(fake_redis(protocol=protocol), *command)
    real = reply(embedded.client(protocol=protocol), *command)

    assert typed(fake) == typed(real)


def test_guard_decides_as_on_a_real_server(embedded: RealServer) -> None:
    """The same calls in the same order are allowed and denied by a whole guard."""
    token, key = "kl_agent_x", "jobs:1:state"
    calls = [
        (1, key, token, "c1", "SET", key, ALL_BYTES),
        (1, key, token, "c2", "INCR", key),
        (1, key, token, "c3", "DEL", key),
        (1, key, "kl_agent_other", "c4", "SET", key, "v"),
        (1, "jobs:1:lock", token, "c5", "SET", "jobs:1:lock", "v"),
        (1, "jobs:2:state", token, "c6", "SET", key, "v"),
        (1, key, token, "c7", "MGET", key, "missing"),
        (1, key, token, "c8", "SET", key, "v"),
    ]
    seen = []
    for client in (fake_redis(), embedded.client()):
        digest = hashlib.sha1(token.encode(), usedforsecurity=False).hexdigest()
        client.set(f"control:token:{digest}", struct.pack("<dB8s", 9e15, 0, b"token-id"))
        client.set("control:state", struct.pack("<dddH", 7, 0, 0, 0))
        script = client.script_load(GUARD)
        replies = [reply(client, "EVALSHA", script, *call) for call in calls]
        state: Any = client.get("control:state")
        audit: Any = client.xrange("control:audit")
        denied: Any = client.xrange("control:denied")
        seen.append(
            {
                "replies": [typed(answer) for answer in replies],
                "state": (len(state), struct.unpack_from("<dddH", state)),
                "audit": [fields for _, fields in audit],
                "denied": [fields for _, fields in denied],
            }
        )

    fake, real = seen
    assert fake == real
    assert len(fake["audit"]) == 3


def test_evalsha_without_load_is_noscript_until_the_script_is_loaded(embedded: RealServer) -> None:
    """Recovery of a lost script starts with this error."""
    script = "return 'loaded'"
    digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    for client in (fake_redis(), embedded.client()):
        with pytest.raises(NoScriptError):
            client.evalsha(digest, 0)
        assert client.script_exists(digest) == [False]
        assert client.script_load(script) == digest
        assert client.script_exists(digest) == [True]
        assert client.evalsha(digest, 0) == b"loaded"
        client.script_flush()
        assert client.script_exists(digest) == [False]


def test_script_load_of_broken_lua_fails_as_on_a_real_server(embedded: RealServer) -> None:
    """A guard that does not compile must fail when it is loaded, not when it is called."""
    output = []
    for client in (fake_redis(), embedded.client()):
        for command in (("SCRIPT", "LOAD", "local x = = 1"), ("EVAL", "local x = = 1", 0)):
            output.append(reply(client, *command))

    assert output[0] == output[2]
    assert output[1] == output[3]


def test_script_error_leaves_the_fake_usable() -> None:
    """A failed script must not poison the interpreter that the next one shares."""
    client = fake_redis()
    for broken in (
        "made_up = 1",
        "return no_such_global",
        "error('boom')",
        "return struct.unpack('<d', 'x')",
    ):
        with pytest.raises(ResponseError):
            client.eval(broken, 0)

    assert client.eval("return 'fine'", 0) == b"fine"


def test_clients_of_one_fake_server_share_its_data() -> None:
    """An agent and an operator look at the same keys."""
    server = fake_server()
    fake_redis(server=server).eval("return redis.call('SET', 'a', '1')", 0)

    assert fake_redis(server=server).get("a") == b"1"
    assert fake_redis().get("a") is None


def test_async_client_runs_scripts_on_the_same_server() -> None:
    """The asyncio client is the same fake behind an await."""
    server = fake_server()
    fake_redis(server=server).set("a", "1")

    async def run() -> Any:
        client = fake_async_redis(server=server)
        try:
            return await client.execute_command(  # type: ignore[no-untyped-call]
                "EVAL", "return {redis.sha1hex('abc'), redis.call('GET', 'a')}", 0
            )
        finally:
            await client.aclose()

    assert asyncio.run(run()) == [
        hashlib.sha1(b"abc", usedforsecurity=False).hexdigest().encode(),
        b"1",
    ]


def test_other_fakes_in_the_process_stay_as_they_were() -> None:
    """A project's own use of fakeredis must not change because keyleash is imported."""
    fake_redis().eval("return 1", 0)
    plain = fakeredis.FakeRedis()

    with pytest.raises(ResponseError, match="sha1hex"):
        plain.eval("return redis.sha1hex('abc')", 0)


def test_import_of_the_package_does_not_import_fakeredis() -> None:
    """fakeredis is only there for tests, so importing keyleash.testing must not need it."""
    code = "import sys, keyleash.testing; sys.exit('fakeredis' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], env=_path(), check=False).returncode == 0


def test_missing_fakeredis_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the error is a sentence and not a traceback into fakeredis."""
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    monkeypatch.delitem(sys.modules, "keyleash.addons.testing.fakes", raising=False)
    monkeypatch.delattr("keyleash.addons.testing.fakes", raising=False)

    with raises_code("missing-extra") as caught:
        keyleash.testing.fake_redis()
    assert "keyleash[testing]" in str(caught.value.help)


def _path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}
