"""The same call made twice from the same data: raw, and through a guard."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
import redis.asyncio

import keyleash
from client.alike import Awaited
from keyleash.commands import load_table
from keyleash.store.wire import declared_keys
from support.command_table import command_rows, words_of
from support.leash import Leash, grant
from support.servers import RealServer

FAR_S = 4_102_444_800
"""New Year 2100: a time to live that no test outlasts."""
NEAR_MS = 30_000
OTHER_DB = 9
ANNOTATION = re.compile(r"^Command # 1 \(.*\) of pipeline caused error: ", re.DOTALL)
BROAD = {
    "grants": [
        grant("read", "write", "delete", "scan", keys="t:*"),
        grant("write", keys="t:*", only=["RESTORE"]),
        {"allow": ["publish", "subscribe"], "channels": ["t:*"]},
    ]
}

SEED: tuple[tuple[Any, ...], ...] = (
    ("SET", "t:str", "hello"),
    ("SET", "t:str2", "yellow"),
    ("SET", "t:num", "10"),
    ("SET", "t:big", "9007199254740993"),
    ("SET", "t:edge", "9007199254740991"),
    ("SET", "t:max", "9223372036854775805"),
    ("SET", "t:most", "9223372036854775807"),
    ("SET", "t:min", "-9223372036854775806"),
    ("SET", "t:least", "-9223372036854775808"),
    ("SET", "t:float", "10.5"),
    ("SET", "t:bin", b"\x00\xff\x80\r\n"),
    ("SET", "t:empty", ""),
    ("SET", "t:ttl", "expires", "EXAT", FAR_S),
    ("SET", "t:farttl", "expires", "PXAT", 2**53 - 1),
    ("SET", "t:bits", b"\xb5\x0f\x00\xff"),
    ("RPUSH", "t:list", "a", "b", "c", "a", "b"),
    ("RPUSH", "t:one", "x"),
    ("SADD", "t:set", "a", "b", "c"),
    ("SADD", "t:set2", "b", "c", "d"),
    ("SADD", "t:ints", 1, 2, 3),
    ("SADD", "t:single", "only"),
    ("MSET", "t:w:1", "30", "t:w:2", "20", "t:w:a", "b", "t:w:b", "a"),
    ("HSET", "t:h:1", "f", "v1", "->f", "9"),
    ("SADD", "t:bigset", *(f"member-{i}" for i in range(300))),
    ("HSET", "t:hash", "f1", "v1", "f2", "v2", "n", 5, "big", 2**53, "fl", "1.5"),
    ("HSET", "t:hash1", "only", "1"),
    ("HSET", "t:hfe", "f1", "v1", "f2", "v2"),
    ("HSET", "t:bighash", *(f"{word}{i}" for i in range(600) for word in ("field", "value"))),
    ("ZADD", "t:z", 1, "a", 2.5, "b", 3, "c", "inf", "top", "-inf", "bottom", 1 / 3, "third"),
    ("ZADD", "t:z1", 1.5, "only"),
    ("ZADD", "t:z2", 10, "a"),
    ("ZADD", "t:zlex", 0, "a", 0, "b", 0, "c", 0, "d"),
    ("ZADD", "t:bigz", *(part for i in range(300) for part in (i / 7, f"m{i}"))),
    ("GEOADD", "t:geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"),
    ("PFADD", "t:hll", "a", "b", "c"),
    ("PFADD", "t:hll2", "c", "d"),
    *(("XADD", "t:stream", f"{i}-0", "f", f"v{i}", "g", b"\xff") for i in range(1, 5)),
    ("XGROUP", "CREATE", "t:stream", "g", "0"),
    ("XREADGROUP", "GROUP", "g", "alice", "COUNT", 2, "STREAMS", "t:stream", ">"),
    ("XREADGROUP", "GROUP", "g", "bob", "COUNT", 1, "STREAMS", "t:stream", ">"),
    *(("XADD", "t:holes", f"{i}-0", "f", "v") for i in range(1, 4)),
    ("XGROUP", "CREATE", "t:holes", "g", "0"),
    ("XREADGROUP", "GROUP", "g", "alice", "STREAMS", "t:holes", ">"),
    ("XDEL", "t:holes", "2-0"),
    ("XADD", "t:calm", "1-0", "f", "v"),
    ("XGROUP", "CREATE", "t:calm", "g", "0"),
)

VECTORS = ((1, 0, 0, "a", "SETATTR", '{"n":1}'), (0, 1, 0, "b"), (0, 0, 1, "c"))
"""Sown where there are vector sets."""

RESTORE = """
for _, key in ipairs(ARGV) do
  redis.call('DEL', key)
  local stored = redis.call('HMGET', 'seed', key, 'ends of ' .. key)
  if stored[1] then redis.call('RESTORE', key, stored[2], stored[1], 'ABSTTL') end
end
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded call of tests/commands.txt; `mark` is the sign in front of it, if any."""

    mark: str
    words: tuple[bytes, ...]

    @property
    def name(self) -> str:
        return self.words[0].decode()

    def __str__(self) -> str:
        return " ".join(str(word)[1:] for word in self.words)[:200]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The reply to a call, and the data after it."""

    reply: Any
    data: Any


@functools.cache
def recorded_calls() -> tuple[Call, ...]:
    """Return the recorded calls of all commands."""
    return tuple(_call(row.name, text) for row in command_rows().values() for text in row.calls)


def _call(name: str, text: str) -> Call:
    mark = text[0] if text[:2] in ("~ ", "? ") else ""
    arguments = text.removeprefix(f"{mark} ")
    return Call(mark, words_of(name if arguments == "-" else f"{name} {arguments}"))


class Twin:
    """A server with seeded data, a raw client and a guarded one."""

    def __init__(self, server: RealServer, **options: Any) -> None:
        leash = Leash(server)
        leash.load(one=BROAD)
        self.admin = server.client(protocol=2)
        self.admin.response_callbacks.clear()
        self._other = server.client(db=OTHER_DB)
        self.raw = server.client(**options)
        self.guarded = server.guarded(leash.issue("one").token, **options)
        self.commands = {name.decode().upper() for name in self._ask("COMMAND", "LIST")}
        self._seed = self._sow()
        self._touched = set[bytes]()
        self._restore_script = self.admin.register_script(RESTORE)

    def outcome(self, client: redis.Redis, call: Call, *, with_data: bool) -> Outcome:
        """Make *call* on the seeded data; an error is part of the outcome."""
        words = [self._filled(word) for word in call.words]
        self._restore()
        keys = _written_keys(words)
        self._touched.update(keys)
        if call.name in ("COPY", "MOVE"):
            self._other.flushdb()
        reply = answer(lambda: client.execute_command(call.name, *words[1:]))
        return Outcome(reply, self._data(call, keys) if with_data else None)

    def outcome_of_method(
        self, client: redis.Redis, method: Callable[[redis.Redis], Any]
    ) -> Outcome:
        """The same for one of redis-py's methods, without a look at the data."""
        self._touched.update(self._seed, [b"t:new"])
        self._restore()
        return Outcome(answer(lambda: method(client)), None)

    def _ask(self, *command: Any) -> Any:
        return self.admin.execute_command(*command)

    def _sow(self) -> dict[bytes, bytes]:
        for command in SEED:
            self._ask(*command)
        if "HEXPIREAT" in self.commands:
            self._ask("HEXPIREAT", "t:hfe", FAR_S, "FIELDS", 1, "f1")
        if "VADD" in self.commands:
            for vector in VECTORS:
                self._ask("VADD", "t:vec", "VALUES", 3, *vector)
        seed = {key: self._ask("DUMP", key) for key in self._ask("KEYS", "t:*")}
        for key, dump in seed.items():
            ends_ms = max(self._ask("PEXPIRETIME", key), 0)
            self._ask("HSET", "seed", key, dump, b"ends of " + key, ends_ms)
        return seed

    def _filled(self, word: bytes) -> bytes:
        if word.startswith(b"{dump:"):
            return self._seed[word[len("{dump:") : -1]]
        return word

    def _restore(self) -> None:
        """Make the data that the last call wrote what it was."""
        if self._touched:
            self._restore_script(args=[*self._touched])
            self._touched.clear()

    def _data(self, call: Call, keys: list[bytes]) -> Any:
        if call.mark:
            return [self._content(key) for key in keys]
        with self.admin.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.execute_command("DUMP", key)
                pipe.execute_command("PEXPIRETIME", key)
            found = pipe.execute()
        if call.name in ("COPY", "MOVE"):
            found += [self._other.dump(key) for key in keys]
            self._other.flushdb()
        return found

    def _content(self, key: bytes) -> Any:
        """Return a key's value, without the times that a dump has."""
        kind = self._ask("TYPE", key)
        ends_ms = self._ask("PEXPIRETIME", key)
        match kind:
            case b"string":
                held: Any = self._ask("GET", key)
            case b"hash":
                held = [self._ask("HGETALL", key)]
                fields = self._ask("HKEYS", key)
                if "HPEXPIRETIME" in self.commands:
                    held += self._ask("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
            case b"stream":
                pending = self._ask("XPENDING", key, "g", "-", "+", 100)
                owned = [(entry, owner, times) for entry, owner, _idle_ms, times in pending]
                held = [self._ask("XRANGE", key, "-", "+"), owned]
            case _:
                held = self._ask("DUMP", key)
        return [kind, ends_ms, held]


def _written_keys(words: list[bytes]) -> list[bytes]:
    table = load_table()
    spec = table.find(words)
    # PFCOUNT keeps its answer in the key, which the table rightly takes for no change.
    if spec is None or not (spec.mutates or spec.name == "PFCOUNT"):
        return []
    return list(declared_keys(table, [words[0].decode().upper(), *words[1:]]))


def answer(make: Callable[[], Any]) -> Any:
    """Return the result of *make*, or its exception as class and text."""
    try:
        return make()
    except Exception as error:
        return type(error), str(error)


def difference(mark: str, raw_outcome: Any, other: Any) -> str | None:
    """Return the difference of two outcomes as text, or None."""
    for part in ("reply", "data"):
        raw, guarded = getattr(raw_outcome, part), getattr(other, part)
        if not _alike(mark, raw, guarded):
            return f"{part} {_shown(guarded)}, raw {_shown(raw)}"
    return None


def _shown(value: Any) -> str:
    return repr(value)[:300]


def _alike(mark: str, value: Any, other: Any) -> bool:
    """Equal in type, value and order; for a marked call, but for the time that passed."""
    if type(value) is not type(other):
        return False
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(
            _alike(mark, a, b) for a, b in zip(value, other, strict=True)
        )
    if isinstance(value, dict):
        return _alike(mark, list(value.items()), list(other.items()))
    if mark == "?":
        return True
    if mark == "~" and isinstance(value, int) and min(abs(value), abs(other)) > 1000:
        near: bool = abs(value - other) < NEAR_MS
        return near
    same: bool = value == other
    return same


class AsyncTwin(Twin):
    """The same with async clients, raw and guarded."""

    def __init__(self, server: RealServer, runner: asyncio.Runner, **options: Any) -> None:
        super().__init__(server, **options)
        token = self.guarded._session._token
        raw = redis.asyncio.Redis.from_url(server.url, **options)
        guarded = keyleash.asyncio.Redis.from_url(server.url, token=token, **options)
        self.raw: Any = Awaited(raw, runner)
        self.guarded: Any = Awaited(guarded, runner)

    def close(self) -> None:
        self.raw.aclose()
        self.guarded.aclose()


class Piped:
    """A client whose every command is a pipeline of its own, maybe behind another command."""

    def __init__(self, client: Any, *, transaction: bool, is_behind: bool = False) -> None:
        self._client = client
        self._transaction = transaction
        self._is_behind = is_behind

    def execute_command(self, *words: Any) -> Any:
        pipe = self._client.pipeline(transaction=self._transaction)
        if self._is_behind:
            pipe.exists("t:none")
        pipe.execute_command(*words)
        try:
            *_, result = pipe.execute(raise_on_error=False)
        except redis.ResponseError as error:
            # Of a transaction whose command could not be queued: redis-py raises in any case.
            plain = re.sub(
                r"^Command # [12] \(.*\) of pipeline caused error: ", "", str(error), flags=re.S
            )
            raise type(error)(plain) from None
        if isinstance(result, Exception):
            raise result
        return result
