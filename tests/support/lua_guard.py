"""
A guard in a Lua of its own, under a clock that the test sets.

The guard's text is what a server would run; what it calls is a handful of commands on
Python dictionaries. So a test can stand at the end of a month, or send the clock back.

    server = LuaServer(now_us=…)
    server.activate(policy_document)
    assert server.guard("agent").call("SET", "a:1", "x").allowed
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from lupa import lua51

from keyleash.addons.testing import lua_struct
from keyleash.commands import CommandTable, load_table
from keyleash.compiler import CompiledGuard, compile_policy
from keyleash.errors import ReplyCode
from keyleash.evaluate.trace import ALLOWED, Decision
from keyleash.limits import SECOND_US
from keyleash.operator.load.preview import (
    IdentityChange,
    StateChange,
    activation_plan,
    activation_words,
    layouts_after,
    summary_of,
)
from keyleash.policy import Identity, Policy, parse_policy
from keyleash.policy.canonical import policy_digest
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import GuardRecord
from keyleash.store.scripts import ACTIVATE, STAGE, OperatorScript
from keyleash.store.snapshots import GuardSnapshot
from keyleash.store.staging import StagedState
from keyleash.store.state import Layout
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, TokenRecord, new_token_id, token_digest
from keyleash.store.wire import BatchMode, batch_call, declared_keys, refusal

KEYS = Keyspace()
TABLE = CommandTable(
    load_table().servers,
    {
        name: spec
        for name, spec in load_table().commands.items()
        if name in {"PING", "GET", "SET", "INCR", "DEL", "MGET", "MSET", "COPY"}
    },
)
"""A few commands, since a guard of all of them takes longer to compile than to test."""
TOKEN_ID_LENGTH = len(new_token_id())
FIRST_TOKEN = "kl_one"
FAR_US = 2**52 // 1000 * 1000
"""When the tests' tokens expire."""

Value = bytes | dict[bytes, bytes] | list[tuple[bytes, ...]]


class LuaServer:
    """As much of a server as guards and activation need."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self.data: dict[bytes, Value] = {}
        self.expires_ms: dict[bytes, int] = {}
        self.ran: list[tuple[bytes, ...]] = []
        self.guards: dict[str, CompiledGuard] = {}

    def copy(self) -> LuaServer:
        """A server that goes its own way from here."""
        twin = LuaServer(self.now_us)
        twin.data = copy.deepcopy(self.data)
        twin.expires_ms = dict(self.expires_ms)
        twin.guards = dict(self.guards)
        return twin

    def activate(self, document: str, meanwhile: Callable[[], None] | None = None) -> Policy:
        """Make a policy the active one with the real scripts.

        Args:
            document: The policy file's text.
            meanwhile: What happens after states are staged and before they are made active.
        """
        policy = parse_policy(document, file="policy.json", commands=TABLE)
        year = datetime.fromtimestamp(self.now_us // SECOND_US, UTC).year
        guards = compile_policy(policy, TABLE, year=year)
        layouts = {
            name.decode(): Layout.from_json(text) for name, text in self._hash(KEYS.layouts).items()
        }
        names = {*self.guards, *(guard.identity for guard in guards)}
        snapshots = {name: self._standing(name) for name in names}
        changes = activation_plan(guards, snapshots, layouts, self.now_us)
        generation = self._hash(KEYS.policy).get(b"generation", b"0")
        header = (generation, b"load", b"test", policy_digest(policy), summary_of(changes), "")
        self._stage(document, generation, layouts_after(layouts, changes))
        for change in changes:
            # The guards' records are in `guards`, under other names.
            self.data[KEYS.staged_guard("load", change.identity).encode()] = {}
        seen = {
            change.identity: self._staged(change)
            for change in changes
            if change.kind is StateChange.MOVED
        }
        if meanwhile is not None:
            meanwhile()
        words = activation_words(changes, seen)
        self._operate(ACTIVATE, *header, *words)
        self.guards = {guard.identity: guard for guard in guards}
        return policy

    def _standing(self, name: str) -> GuardSnapshot:
        state = self.state(name)
        guard, record = self.guards.get(name), None
        if guard is not None:
            record = GuardRecord(guard.digest, guard.batch_digest, guard.policy_digest, 1)
        return GuardSnapshot(
            record, int(struct.unpack_from("<d", state)[0]) if state else 0, len(state)
        )

    def _stage(self, document: str, generation: bytes, layouts: Mapping[str, Layout]) -> None:
        recorded = {name.encode(): item.to_json().encode() for name, item in layouts.items()}
        for name in (KEYS.staged_policy("load"), KEYS.staged_stored_policy("load")):
            self.data[name.encode()] = {
                b"document": document.encode(),
                b"generation": b"%d" % (int(generation) + 1),
            }
        self.data[KEYS.staged_layouts("load").encode()] = recorded

    def _staged(self, change: IdentityChange) -> StagedState:
        """Return the reply of the real script about the staged state."""
        assert change.moves is not None
        words = [b"load", change.identity.encode(), change.moves.packed, change.moves.rings]
        seen = self._operate(STAGE, *words)
        return StagedState(seen[1], seen[2], seen[3])

    def guard(self, identity: str, token: str = FIRST_TOKEN) -> LuaGuard:
        """The active guard of *identity*, for the holder of *token*, which is made known."""
        record = TokenRecord(
            f"{token[-TOKEN_ID_LENGTH:]:_>{TOKEN_ID_LENGTH}}",
            expires_us=FAR_US,
            used_us=self.now_us,
        )
        key = KEYS.token(identity, token_digest(token)).encode()
        self.data.setdefault(key, record.pack())
        self.expires_ms[key] = FAR_US // 1000 + KEEP_AFTER_EXPIRY_MS
        return LuaGuard(self, self.guards[identity], token, record.id)

    def state(self, identity: str) -> bytes:
        return self._string(KEYS.state(identity).encode())

    def events(self, identity: str) -> list[tuple[bytes, ...]]:
        found = self.data.get(KEYS.audit(identity).encode(), [])
        assert isinstance(found, list)
        return found

    def run(self, script: str, keys: Sequence[bytes], argv: Sequence[bytes]) -> Any:
        lua = _lua()
        lua.server = self
        return lua.function(script)(lua.table(keys), lua.table(argv))

    def _operate(self, script: OperatorScript, *words: str | bytes | int) -> Any:
        count, *rest = script.arguments(KEYS, *words)
        assert isinstance(count, int)
        arguments = [_text(word) for word in rest]
        return self.run(script.text, arguments[:count], arguments[count:])

    def _hash(self, key: str) -> dict[bytes, bytes]:
        found = self.data.get(key.encode(), {})
        assert isinstance(found, dict)
        return found

    # What scripts call. A data command is noted, and answers OK.

    def call(self, *arguments: object) -> object:
        name, *words = (_text(argument) for argument in arguments)
        if name == b"TYPE":
            return {b"ok": b"none"}
        command = getattr(self, f"_{name.decode().lower()}", None)
        assert command is not None, name
        assert name == b"TIME" or words[0].startswith(b"keyleash:"), words
        for key in [key for key, at_ms in self.expires_ms.items() if at_ms < self.now_us // 1000]:
            del self.data[key], self.expires_ms[key]
        return command(*words)

    def pcall(self, *arguments: object) -> object:
        words = tuple(_text(argument) for argument in arguments)
        if len(words) > 1 and words[1].startswith(b"keyleash:"):
            return self.call(*arguments)
        if words[0] in (b"STRLEN", b"EXISTS", b"MEMORY"):
            # A guard asks for sizes before it runs a command; data keys are absent here.
            return 0
        self.ran.append(words)
        return b"OK"

    def _time(self) -> list[bytes]:
        return [b"%d" % part for part in divmod(self.now_us, SECOND_US)]

    def _pttl(self, key: bytes) -> int:
        return self.expires_ms[key] - self.now_us // 1000

    def _get(self, key: bytes) -> object:
        return self.data.get(key, False)

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes:
        self.data[key] = value
        self.expires_ms.pop(key, None)
        if options[:1] == (b"PX",):
            self._pexpire(key, options[1])
        return b"OK"

    def _mget(self, *keys: bytes) -> object:
        return [self.data.get(key, False) for key in keys]

    def _mset(self, *words: bytes) -> None:
        for key, value in zip(words[::2], words[1::2], strict=True):
            self._set(key, value)

    def _rename(self, old: bytes, new: bytes) -> None:
        self.data[new] = self.data.pop(old)
        self.expires_ms.pop(new, None)
        if old in self.expires_ms:
            self.expires_ms[new] = self.expires_ms.pop(old)

    def _persist(self, key: bytes) -> None:
        self.expires_ms.pop(key, None)

    def _pexpire(self, key: bytes, life_ms: bytes) -> int:
        assert int(life_ms) > 0
        self.expires_ms[key] = self.now_us // 1000 + int(life_ms)
        return 1

    def _getrange(self, key: bytes, first: bytes, last: bytes) -> bytes:
        return self._string(key)[int(first) : int(last) + 1]

    def _setrange(self, key: bytes, offset: bytes, value: bytes) -> int:
        start = int(offset)
        old = self._string(key).ljust(start, b"\0")
        self.data[key] = old[:start] + value + old[start + len(value) :]
        return len(self._string(key))

    def _string(self, key: bytes) -> bytes:
        found = self.data.get(key, b"")
        assert isinstance(found, bytes)
        return found

    def _exists(self, *keys: bytes) -> int:
        return sum(key in self.data for key in keys)

    def _del(self, *keys: bytes) -> int:
        for key in keys:
            self.expires_ms.pop(key, None)
        return sum(self.data.pop(key, None) is not None for key in keys)

    def _hget(self, key: bytes, name: bytes) -> object:
        return self._hash(key.decode()).get(name, False)

    def _hmget(self, key: bytes, *names: bytes) -> list[object]:
        return [self._hash(key.decode()).get(name, False) for name in names]

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [word for pair in self._hash(key.decode()).items() for word in pair]

    def _hincrby(self, key: bytes, name: bytes, step: bytes) -> int:
        number = int(self._hash(key.decode()).get(name, b"0")) + int(step)
        self._hset(key, name, b"%d" % number)
        return number

    def _hdel(self, key: bytes, name: bytes) -> int:
        found = self.data.get(key, {})
        assert isinstance(found, dict)
        return found.pop(name, None) is not None

    def _hlen(self, key: bytes) -> int:
        return len(self._hash(key.decode()))

    def _xlen(self, key: bytes) -> int:
        return len(self.data.get(key, b""))

    # Nothing here asks for the history of policies.

    def _zcard(self, key: bytes) -> int:
        return 0

    def _zadd(self, key: bytes, score: bytes, member: bytes) -> int:
        return 1

    def _zrange(self, key: bytes, first: bytes, last: bytes) -> list[bytes]:
        return []

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        found = self.data.setdefault(key, {})
        assert isinstance(found, dict)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return 0

    def _rpush(self, key: bytes, value: bytes) -> int:
        found = self.data.setdefault(key, [])
        assert isinstance(found, list)
        found.append((value,))
        return len(found)

    def _lpop(self, key: bytes) -> object:
        found = self.data.get(key)
        assert found is None or isinstance(found, list)
        return found.pop(0)[0] if found else False

    def _xtrim(self, key: bytes, *_: bytes) -> int:
        return 0

    def _xadd(self, key: bytes, *words: bytes) -> bytes:
        stream = self.data.setdefault(key, [])
        assert isinstance(stream, list)
        stream.append(words[words.index(b"*") + 1 :])
        return b"%d-%d" % (self.now_us // 1000, len(stream))


@dataclass(frozen=True, slots=True)
class LuaGuard:
    """One identity's guard and one of its tokens."""

    server: LuaServer
    compiled: CompiledGuard
    token: str
    token_id: str

    @property
    def identity(self) -> Identity:
        return self.compiled.plan.identity

    def call(self, *command: str) -> Decision:
        """Call a command with the keys that it has."""
        argv = [word.encode() for word in command]
        keys = declared_keys(TABLE, argv)
        header = [self.token.encode(), b"corr"]
        before = len(self.server.ran)
        reply = self.server.run(self.compiled.script, keys, [*header, *argv])
        if isinstance(reply, bytes):
            assert self.server.ran[before:] == [tuple(argv)]
            return ALLOWED
        assert len(self.server.ran) == before
        error = refusal(bytes(reply[b"err"]).decode("ascii"))
        assert error is not None
        return Decision(ReplyCode(error.code), error.details)

    def batch(self, mode: BatchMode, *commands: tuple[str, ...]) -> list[Decision]:
        """Call a batch; one decision for each command, or of a refused whole the only one."""
        words = batch_call(TABLE, self.compiled.batch_digest, self.token, "corr", mode, commands)
        count = int(words[2])
        keys, argv = (
            [_text(word) for word in part] for part in (words[3 : 3 + count], words[3 + count :])
        )
        reply = self.server.run(self.compiled.batch_script, keys, argv)
        if reply[b"err"] is not None:
            return [_refused(reply)]
        return [ALLOWED if item == b"OK" else _refused(item) for item in reply.values()]


def _refused(reply: Any) -> Decision:
    error = refusal(bytes(reply[b"err"]).decode("ascii"))
    assert error is not None
    return Decision(ReplyCode(error.code), error.details)


def _text(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    assert isinstance(value, int | float)
    assert not isinstance(value, bool)
    return b"%d" % value if value == int(value) else repr(value).encode()


class _Lua:
    """One Lua 5.1 for all servers of the process, since making one takes a while."""

    def __init__(self) -> None:
        self.server: LuaServer
        self._runtime = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._null = self._runtime.eval(b"{}")
        make = self._runtime.execute(
            b"""
            return function(call, pcall, sha1hex, pack, unpack, decode, null)
              redis = {call = call, pcall = pcall, sha1hex = sha1hex,
                error_reply = function(line) return {err = line} end}
              struct = {pack = pack, unpack = unpack}
              cjson = {decode = decode, null = null}
            end
            """
        )
        make(
            self._answering("call"),
            self._answering("pcall"),
            lambda text: hashlib.sha1(text, usedforsecurity=False).hexdigest().encode(),
            lua_struct.pack,
            lua_struct.unpack,
            lambda text: self._from_json(json.loads(text)),
            self._null,
        )

    def table(self, values: Sequence[bytes]) -> Any:
        return self._runtime.table_from(values)

    @cache  # noqa: B019 - there is one of this class
    def function(self, script: str) -> Any:
        text = f"return function(KEYS, ARGV)\n{script}\nend"
        return self._runtime.execute(text.encode("ascii"))

    def _answering(self, name: str) -> Callable[..., object]:
        def call(*words: object) -> object:
            reply = getattr(self.server, name)(*words)
            if isinstance(reply, dict):
                return self._runtime.table_from(reply)
            return self.table(reply) if isinstance(reply, list) else reply

        return call

    def _from_json(self, value: Any) -> Any:
        if value is None:
            return self._null
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, list):
            return self._runtime.table_from([self._from_json(item) for item in value])
        if isinstance(value, dict):
            items = {name.encode(): self._from_json(item) for name, item in value.items()}
            return self._runtime.table_from(items)
        return value


@cache
def _lua() -> _Lua:
    return _Lua()
