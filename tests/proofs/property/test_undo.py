"""Random programs of several identities, undone: what was chosen is as if it had never been."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.audit.read import Query
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import ConflictKind, plan_undo
from keyleash.commands import load_table
from keyleash.errors import NothingToUndoError
from keyleash.store.keyspace import OPERATORS
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.store import Store
from keyleash.store.wire import BatchMode, batch_call, guard_call
from support.errors import raises_code
from support.leash import NAMES, Leash, grant, policy
from support.servers import RealServer, embedded_label
from support.thorough import thorough

IDENTITIES = ("one", "two", "three")
KEYS = [f"k:{number}" for number in range(4)]
FAR_MS = 4_000_000_000_000
"""An expiry that no test lives to see."""

Words = tuple[Any, ...]
State = tuple[Any, ...]

key = st.sampled_from(KEYS)
value = st.sampled_from(["", "0", "7", "x", b"\xff\0", "y" * 100])
name = st.sampled_from(["f", "g", "h"])
number = st.integers(-3, 3)
moment = st.sampled_from([1, FAR_MS, FAR_MS + 1])


def words(*parts: Any) -> st.SearchStrategy[Words]:
    """A command of fixed words and of strategies."""
    return st.tuples(
        *(part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts)
    )


COMMANDS = st.one_of(
    # Any type, several keys, expiries.
    words("DEL", key),
    words("DEL", key, key),
    words("RENAME", key, key),
    words("COPY", key, key, "REPLACE"),
    words("PEXPIREAT", key, moment),
    words("PERSIST", key),
    # Strings.
    words("SET", key, value),
    words("SET", key, value, "PXAT", moment),
    words("SET", key, value, "KEEPTTL"),
    words("MSET", key, value, key, value),
    words("APPEND", key, value),
    words("INCRBY", key, number),
    words("GETDEL", key),
    words("SETBIT", key, st.integers(0, 40), st.integers(0, 1)),
    words("PFADD", key, value),
    words("BITOP", "OR", key, key, key),
    # Lists.
    words("RPUSH", key, value, value),
    words("LPOP", key),
    words("LREM", key, "0", value),
    words("LMOVE", key, key, "LEFT", "RIGHT"),
    words("SORT", key, "ALPHA", "STORE", key),
    # Hashes.
    words("HSET", key, name, value),
    words("HDEL", key, name),
    words("HINCRBY", key, name, number),
    words("HPEXPIREAT", key, st.just(FAR_MS), "FIELDS", "1", name),
    # Sets.
    words("SADD", key, value),
    words("SREM", key, value),
    words("SMOVE", key, key, value),
    words("SPOP", key),
    words("SUNIONSTORE", key, key, key),
    # Sorted sets.
    words("ZADD", key, number, value),
    words("ZINCRBY", key, number, value),
    words("ZREM", key, value),
    words("ZUNIONSTORE", key, "2", key, key),
    words("GEOADD", key, "13.4", "52.5", value),
    # Streams.
    words("XADD", key, "*", name, value),
    words("XADD", key, "MAXLEN", "2", "*", name, value),
    words("XTRIM", key, "MAXLEN", "1"),
    words("XGROUP", "CREATE", key, "g", "0", "MKSTREAM"),
    words("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", key, ">"),
)  # fmt: skip


@dataclass(frozen=True)
class Deed:
    """
    An action on the server.

    Attributes:
        who: An identity, or None for a client without a guard.
        why: The correlation id.
        commands: More than one are a batch.
    """

    who: str | None
    why: str
    commands: tuple[Words, ...]


deeds = st.builds(
    Deed,
    st.sampled_from([*IDENTITIES, *IDENTITIES, None]),
    st.sampled_from(["c0", "c0", "c1", "c2"]),
    COMMANDS.map(lambda item: (item,)) | st.lists(COMMANDS, min_size=2, max_size=3).map(tuple),
)


LOOK = """
local seen = {}
for i, key in ipairs(ARGV) do
  local kind, held = redis.call('TYPE', key).ok, {}
  if kind == 'string' then held = { redis.call('GET', key) }
  elseif kind == 'list' then held = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then held = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then held = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'stream' then held = redis.call('XINFO', 'STREAM', key, 'FULL', 'COUNT', 0)
  elseif kind == 'hash' then
    for n, name in ipairs(redis.call('HKEYS', key)) do
      local expires = redis.pcall('HPEXPIRETIME', key, 'FIELDS', 1, name)[1] or -1
      held[n] = { name, redis.call('HGET', key, name), expires }
    end
  end
  seen[i] = { kind, redis.call('PEXPIRETIME', key), held }
end
return seen
"""
"""What each key holds, by commands of its type: nothing of keyleash's is asked."""


@dataclass
class World:
    """A server, its identities, and what each deed found and left."""

    leash: Leash
    tokens: dict[str, str] = field(init=False)
    scripts: dict[str, GuardRecord] = field(init=False)
    history: list[tuple[Deed, dict[str, State], dict[str, State]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        body: dict[str, Any] = {
            "grants": [grant("read", "write", "delete", keys="k:*")],
            "audit": {"before_images": {"max_bytes": "64kb"}},
        }
        self.leash.load(policy(**dict.fromkeys(IDENTITIES, body)))
        self.tokens = {identity: self.leash.issue(identity).token for identity in IDENTITIES}
        records = {
            identity: guard_record(self.leash.admin.hgetall(NAMES.guard(identity)))
            for identity in IDENTITIES
        }
        self.scripts = {item: record for item, record in records.items() if record}

    def _script(self, identity: str) -> GuardRecord:
        record = guard_record(self.leash.admin.hgetall(NAMES.guard(identity)))
        assert record is not None
        return record

    def begin(self) -> None:
        trails = [NAMES.audit(identity) for identity in (*IDENTITIES, OPERATORS)]
        self.leash.admin.delete(*KEYS, *trails)
        self.history.clear()

    def do(self, deeds: Sequence[Deed]) -> None:
        """Do some things, in one transaction: all of them happen in the same millisecond."""
        looks = []
        # A server discards a transaction with a command that it does not know.
        is_one = all(deed.who for deed in deeds)
        with self.leash.admin.pipeline(transaction=is_one) as pipe:
            for deed in deeds:
                looks.append(len(pipe))
                pipe.eval(LOOK, 0, *KEYS)
                for call in self._calls(deed):
                    pipe.execute_command(*call)
            looks.append(len(pipe))
            pipe.eval(LOOK, 0, *KEYS)
            replies = pipe.execute(raise_on_error=False)
        seen = [_states(replies[place]) for place in looks]
        self.history += zip(deeds, seen, seen[1:], strict=False)

    def _calls(self, deed: Deed) -> Sequence[Words]:
        if deed.who is None:
            return deed.commands
        token, record = self.tokens[deed.who], self.scripts[deed.who]
        head = (token, deed.why)
        if len(deed.commands) == 1:
            return [guard_call(load_table(), record.digest, *head, deed.commands[0])]
        digest = record.batch_digest
        return [batch_call(load_table(), digest, *head, BatchMode.EACH, deed.commands)]

    def look(self) -> dict[str, State]:
        return _states(self.leash.admin.eval(LOOK, 0, *KEYS))

    def chosen(self, why: str) -> dict[str, list[tuple[State, State]]]:
        """Return the values before and after the chosen actions, by key that they changed."""
        found: dict[str, list[tuple[State, State]]] = {}
        for deed, before, after in self.history:
            if deed.who is not None and deed.why == why:
                for item in KEYS:
                    if before[item] != after[item]:
                        found.setdefault(item, []).append((before[item], after[item]))
        return found


def _states(seen: Sequence[Any]) -> dict[str, State]:
    return {
        item: (kind, expires, sorted(held) if kind in {b"set", b"hash"} else held)
        for item, (kind, expires, held) in zip(KEYS, seen, strict=True)
    }


@pytest.fixture
def world(server: RealServer) -> World:
    """Every available server in turn."""
    return World(Leash(server))


def singly(program: Sequence[Sequence[Deed]]) -> Iterator[list[Deed]]:
    """Each deed in a millisecond of its own."""
    for deed in chain(*program):
        time.sleep(0.002)
        yield [deed]


def is_broken(steps: Sequence[tuple[State, State]], now: State) -> bool:
    """Return whether another client changed a key after or between these steps."""
    nexts = [*(before for before, _ in steps[1:]), now]
    return any(after != later for (_, after), later in zip(steps, nexts, strict=True))


PROGRAMS = st.lists(st.lists(deeds, min_size=1, max_size=5), min_size=1, max_size=8)
EXAMPLES, EXAMPLES_ELSEWHERE = 40, 15


def test_undo_of_a_correlation_restores_the_values_before_it(world: World) -> None:
    """
    All data types, expiries, batches, failures, and changes that no guard saw.

    Conflicts are exactly the keys that others changed after or between the chosen commands. With a
    conflict, nothing changes; forced, each key gets its value from before the first chosen command.
    An undo that is undone restores everything.
    """
    is_plain = world.leash.server.label == embedded_label()

    @thorough(EXAMPLES if is_plain else EXAMPLES_ELSEWHERE)
    @given(PROGRAMS)
    def check(program: list[list[Deed]]) -> None:
        undo_and_redo(world, program)

    check()


def undo_and_redo(world: World, program: list[list[Deed]]) -> None:
    """Run a program, undo one correlation id, undo that undo, and so on."""
    world.begin()
    # The order within one millisecond is found by digests, which changes without a guard break.
    for at_once in program if all(deed.who for deed in chain(*program)) else singly(program):
        world.do(at_once)
    chosen, now, admin = world.chosen("c0"), world.look(), world.leash.admin
    if not chosen:
        with pytest.raises(NothingToUndoError):
            plan_undo(Store(admin), Query(correlation="c0"))
        return

    conflicts = {
        item
        for item, steps in chosen.items()
        if is_broken(steps, now[item]) and steps[0][0] != now[item]
    }
    plan = plan_undo(Store(admin), Query(correlation="c0"))
    assert {item.key.decode() for item in plan.keys} == set(chosen)
    assert {item.key.decode() for item in plan.blocked} == conflicts
    kinds = {conflict.kind for item in plan.blocked for conflict in item.conflicts}
    assert kinds == ({ConflictKind.CHANGED} if conflicts else set())
    if conflicts:
        with raises_code("undo-denied"):
            apply_undo(Store(admin), plan)
        assert world.look() == now
        plan = plan_undo(
            Store(admin),
            Query(correlation="c0"),
            force=[conflict.encode() for conflict in conflicts],
        )
    expected = {**now, **{item: steps[0][0] for item, steps in chosen.items()}}
    if expected == now:
        with pytest.raises(NothingToUndoError):
            apply_undo(Store(admin), plan)
        return

    done = apply_undo(Store(admin), plan)
    assert world.look() == expected
    again = apply_undo(Store(admin), plan_undo(Store(admin), Query(correlation=done.correlation)))
    assert world.look() == now
    apply_undo(Store(admin), plan_undo(Store(admin), Query(correlation=again.correlation)))
    assert world.look() == expected
