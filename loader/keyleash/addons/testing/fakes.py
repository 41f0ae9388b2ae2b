"""fakeredis with the Lua environment that guards need; imported only when a fake is created.

fakeredis creates one Lua runtime per server, when the first script runs. The socket class here
completes that runtime and corrects values that enter and leave it.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from typing import Any

from fakeredis import FakeAsyncRedis, FakeRedis, FakeServer
from fakeredis._clients import FakeAsyncRedisConnection, FakeRedisConnection
from fakeredis._helpers import SimpleError
from fakeredis._socket import AsyncFakeSocket, FakeSocket
from fakeredis.commands_mixins.scripting_mixin import LUA_MODULE

from keyleash.addons.testing import lua_bit, lua_msgpack, lua_struct

# Above this Redis no longer prints an integer in full (its double2ll).
MAX_PLAIN_INTEGER = 2**62

# fakeredis forbids them in scripts; Redis runs them there without blocking.
BLOCKING_POPS = {"BLPOP", "BRPOP", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX"}
NO_SCRIPT = "s"

# fakeredis does not know it, and guards need it.
MEMORY_USAGE = [b"MEMORY", b"USAGE"]

# The fake cannot parse this line, and does not need it: its memory is never full.
EVEN_WHEN_FULL = b"#!lua flags=allow-oom"

# Runs once per server. `...` are the Python functions that cannot be written in Lua;
# they return an error's text as their first value, or nil and their results.
FINISH_RUNTIME = rb"""
local sha1hex, libraries = ...
local raw_error, raw_pcall, type, tostring = error, pcall, type, tostring

local function raise_or_return(problem, ...)
  if problem then raw_error(problem, 3) end
  return ...
end

redis.sha1hex = function(...) return raise_or_return(sha1hex(...)) end
for library, functions in pairs(libraries) do
  _G[library] = {}
  for name, run in pairs(functions) do
    _G[library][name] = function(...) return raise_or_return(run(...)) end
  end
end

-- In Redis, pcall returns the error of redis.call as text.
local function with_error_text(ok, caught, ...)
  if not ok and type(caught) == 'userdata' then return ok, tostring(caught) end
  if not ok and type(caught) == 'table' and caught.err then return ok, caught.err end
  return ok, caught, ...
end
pcall = function(...) return with_error_text(raw_pcall(...)) end

-- lupa itself reads some of these by name, outside of a protected call, where an error aborts
-- the process. So they read as nil.
local removed = {
  debug = true, dofile = true, getfenv = true, io = true, loadfile = true, module = true,
  newproxy = true, package = true, print = true, python = true, require = true, setfenv = true,
}
for name in pairs(removed) do _G[name] = nil end
os = {clock = os.clock}

-- Existing globals stay writable, since fakeredis sets KEYS and ARGV for each script.
local no_global = "Script attempted to access nonexistent global variable '"
setmetatable(_G, {
  __index = function(_, name)
    if not removed[name] then raw_error(no_global .. tostring(name) .. "'", 2) end
  end,
  __newindex = function() raw_error('Attempt to modify a readonly table', 2) end,
})
"""


class GuardServer(FakeServer):
    """A fake Redis 8, empty."""

    def __init__(self) -> None:
        super().__init__(version=(8,), server_type="redis")


class GuardSocket(FakeSocket):
    """A connection's end in the fake server: fakeredis's scripting, corrected."""

    _is_in_script = False

    def _get_server_runtime(self, server: Any) -> Any:
        is_new = not hasattr(server, "_lua_runtime")
        runtime = super()._get_server_runtime(server)
        if is_new:
            libraries: dict[str, dict[str, Callable[..., Any]]] = {
                "bit": lua_bit.FUNCTIONS,
                "cmsgpack": {
                    "pack": lua_msgpack.pack,
                    "unpack": lua_msgpack.unpacker(runtime.table_from),
                },
                "struct": {"pack": lua_struct.pack, "unpack": lua_struct.unpack},
            }
            in_lua = {
                name.encode(): runtime.table_from(
                    {key.encode(): _for_lua(function) for key, function in functions.items()}
                )
                for name, functions in libraries.items()
            }
            runtime.compile(FINISH_RUNTIME)(_for_lua(_sha1hex), runtime.table_from(in_lua))
            # fakeredis rejects a script that leaves an unknown global.
            server._lua_expected_globals.update(in_lua)
        return runtime

    def _convert_lua_result(self, result: Any, nested: bool = True) -> Any:
        # Redis returns the first of several values.
        first = result[0] if isinstance(result, tuple) else result
        return super()._convert_lua_result(first, nested)

    def _lua_redis_call(
        self, lua_runtime: Any, expected_globals: set[Any], op: Any, *args: Any
    ) -> Any:
        texts = [number_text(value) if type(value) in (int, float) else value for value in args]
        is_usage = [word.upper() for word in (op, *texts[:1])] == MEMORY_USAGE
        if is_usage and len(texts) > 1:
            op, texts = b"DUMP", texts[1:2]
        self._is_in_script = True
        try:
            reply = super()._lua_redis_call(lua_runtime, expected_globals, op, *texts)
        finally:
            self._is_in_script = False
        return len(reply) if is_usage and reply else reply

    def _lua_redis_pcall(
        self, lua_runtime: Any, expected_globals: set[Any], op: Any, *args: Any
    ) -> Any:
        reply = super()._lua_redis_pcall(lua_runtime, expected_globals, op, *args)
        if LUA_MODULE.lua_type(reply) == "table":
            problem = reply[b"err"]
            # fakeredis puts a Python str there, which Lua cannot handle as a string.
            if isinstance(problem, str):
                reply[b"err"] = problem.encode()
        return reply

    def _name_to_func(self, cmd_name: str) -> Any:
        function, signature = super()._name_to_func(cmd_name)
        if self._is_in_script and signature.name.upper() in BLOCKING_POPS:
            signature = copy.copy(signature)
            signature.flags = signature.flags - {NO_SCRIPT}
        return function, signature

    def _blocking(
        self,
        timeout: float | None,
        func: Callable[[bool], Any],
        shape: Callable[[Any], Any] | None = None,
    ) -> Any:
        if not self._is_in_script:
            return super()._blocking(timeout, func, shape)
        # As after a timeout.
        value = func(True)
        return value if shape is None else shape(value)

    def eval(self, script: bytes, numkeys: int, *keys_and_args: bytes) -> Any:
        script = script.removeprefix(EVEN_WHEN_FULL)
        if _digest(script) not in self._server.script_cache:
            self._require_compiling(script)
        return super().eval(script, numkeys, *keys_and_args)

    def script_load(self, *args: bytes) -> bytes:
        for script in args[:1]:
            self._require_compiling(script)
        digest: bytes = super().script_load(*args)
        return digest

    def _require_compiling(self, script: bytes) -> None:
        try:
            self._get_server_runtime(self._server).compile(script)
        except LUA_MODULE.LuaSyntaxError as error:
            message = error.args[0]
            text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
            where = text.replace('[string "<python>"]', "user_script")
            raise SimpleError(f"ERR Error compiling script (new function): {where}") from error


class AsyncGuardSocket(GuardSocket, AsyncFakeSocket):
    """The asyncio twin of `GuardSocket`."""


# Both connections let fakeredis create the socket and change its class afterwards, so that they
# do not depend on the arguments of sockets.


class GuardConnection(FakeRedisConnection):
    def _connect(self) -> FakeSocket:
        made = super()._connect()
        made.__class__ = GuardSocket
        return made


class AsyncGuardConnection(FakeAsyncRedisConnection):
    async def _connect(self) -> None:
        await super()._connect()
        self._sock.__class__ = AsyncGuardSocket


def fake_server() -> FakeServer:
    """Return an empty server, to share between clients: `fake_redis(server=…)`."""
    return GuardServer()


def fake_redis(server: FakeServer | None = None, **options: Any) -> FakeRedis:
    """Return a client of *server*, or of a new one; options as for `redis.Redis`."""
    return FakeRedis(server=server or GuardServer(), connection_class=GuardConnection, **options)


def fake_async_redis(server: FakeServer | None = None, **options: Any) -> FakeAsyncRedis:
    """Return an asyncio client, like `fake_redis`."""
    return FakeAsyncRedis(
        server=server or GuardServer(), connection_class=AsyncGuardConnection, **options
    )


def number_text(number: float) -> bytes:
    """Format a Lua number as Redis passes it to a command.

    An integer in full; other numbers as fpconv does: the shortest digits that read back (the
    last digit of fpconv is sometimes off), and an exponent only where plain text would be long.
    """
    if not math.isfinite(number):
        return str(number).encode()
    if number == int(number) and abs(number) <= MAX_PLAIN_INTEGER:
        return b"%d" % number
    sign = "-" if number < 0 else ""
    mantissa, _, power = f"{abs(float(number))!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    written = (whole + fraction).lstrip("0")
    digits = written.rstrip("0")
    exponent = int(power or 0) - len(fraction) + len(written) - len(digits)
    magnitude = len(digits) + exponent - 1
    if exponent >= 0 and magnitude < len(digits) + 7:
        text = digits + "0" * exponent
    elif exponent < 0 and (exponent > -7 or abs(magnitude) < 4):
        padded = digits.rjust(1 - exponent, "0")
        text = f"{padded[:exponent]}.{padded[exponent:]}"
    else:
        text = f"{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{magnitude:+d}"
    return (sign + text).encode()


def _for_lua(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """Return an error as the first value, since Lua's pcall cannot read a Python exception."""

    def call(*arguments: Any) -> tuple[Any, ...]:
        try:
            value = function(*arguments)
        except lua_struct.LibraryError as error:
            return (str(error).encode(),)
        values = value if isinstance(value, tuple) else (value,)
        return None, *(
            # Beyond a C long, lupa takes no int; in Lua it is a double anyway.
            float(value) if isinstance(value, int) and abs(value) >= 2**63 else value
            for value in values
        )

    return call


def _sha1hex(*arguments: lua_struct.Value) -> bytes:
    if len(arguments) != 1:
        raise lua_struct.LibraryError("ERR wrong number of arguments")
    text = arguments[0]
    return _digest(text if isinstance(text, bytes) else number_text(text))


def _digest(script: bytes) -> bytes:
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
