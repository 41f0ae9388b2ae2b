"""Pytest fixtures for tests of agents, and a fake Redis in the test's process that runs guards.

`keyleash.addons.testing.plugin` has the fixtures; they return a `LeashServer`, a `LeashCluster` or
a `FakeLeash`.

`fake_redis()` is fakeredis with what guards need in its Lua: `redis.sha1hex`, `struct`, `bit`,
`cmsgpack`, the globals of Redis and no others, numbers formatted as in Redis, blocking commands
that return at once in a script, and SCRIPT LOAD that compiles. fakeredis is not patched; other
fakes in the process are unaffected.

Known differences from a real server:

- `struct` and `cmsgpack` have `pack` and `unpack` alone; `struct` knows the formats that guards
  use.
- `redis.acl_check_cmd`, `redis.REDIS_VERSION`, `redis.set_repl`, `redis.replicate_commands` and
  `redis.breakpoint` do not exist; a script that starts with `#!lua` does not compile.
- The text of an uncaught error differs: no `script: <digest>, on
  @user_script:1.`; a Lua error has fakeredis's prefix, and `error({err = …})` loses its
  message. So does the text of `redis.pcall` for an unknown command or wrong arguments.
  `redis.call()` without arguments raises a TypeError in the client.
- `redis.call` and the like are `userdata` to `type()`. Globals that Redis does not have
  but Lua does (`io`, `print`) read as nil instead of raising.
- The tables of libraries can be written to (`string.x = 1`), and a global that exists can
  be set (`tostring = nil`); both last.
- `redis.setresp` is fakeredis's: after `redis.setresp(3)` nulls and sets are not as in Redis, and
  `{set = …}`, `{big_number = …}` and `{verbatim_string = …}` are not understood.
- A number beyond 2^63 is returned as that integer; in Redis it overflows.
- FUNCTION and FCALL run in a separate interpreter without these corrections.
- Commands are fakeredis's: OBJECT and CONFIG are unknown in scripts, MEMORY USAGE exists there
  alone and returns an estimate, `MAXLEN ~` keeps a different number of entries, positions of GEO
  commands differ from the sixth digit on.
- ACLs are checked for the call, but not for each `redis.call` inside a script, so a
  fence cannot be tested here. There is no eviction, no persistence and no memory limit.
- A script is compiled at each EVALSHA, so timings are meaningless.

Use a real server (the fixtures without *fake*) to test any of these. A name of this module raises
`OperationError` (missing-extra) where fakeredis, lupa or what the fixtures need is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyleash.addons.testing.fakes import fake_async_redis, fake_redis, fake_server
    from keyleash.addons.testing.leash import FakeLeash, Leash, LeashCluster, LeashServer

__all__ = [
    "FakeLeash",
    "Leash",
    "LeashCluster",
    "LeashServer",
    "fake_async_redis",
    "fake_redis",
    "fake_server",
]

if not TYPE_CHECKING:  # Otherwise every name would exist for type checkers.

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from keyleash.extras import import_with_extra  # noqa: PLC0415

        module = "fakes" if name.startswith("fake") else "leash"
        return getattr(import_with_extra(f"keyleash.addons.testing.{module}"), name)
