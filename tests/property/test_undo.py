"""Random programs of several identities, undone: what was chosen is as if it had never been."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import keyleash
from keyleash.audit.undo import Kind, Selection, apply_undo, plan_undo
from keyleash.errors import NothingToUndoError, UndoRefusedError
from keyleash.protocol.keyspace import OPERATORS
from support.leash import NAMES, Leash, grant, policy
from support.servers import RealServer
from support.thorough import thorough

IDENTITIES = ("one", "two", "three")
KEYS = [f"k:{number}" for number in range(6)]
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
    Something that somebody does.

    Attributes:
        who: An identity, or None for somebody whom no guard sees.
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
    COMMANDS.map(lambda one: (one,)) | st.lists(COMMANDS, min_size=2, max_size=3).map(tuple),
)


@dataclass
class World:
    """A server, its identities, and what each deed found and left."""

    leash: Leash
    agents: dict[str, keyleash.Redis] = field(init=False)
    has_field_expiry: bool = field(init=False)
    history: list[tuple[Deed, dict[str, State], dict[str, State]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        body: dict[str, Any] = {
            "grants": [grant("read", "write", "delete", keys="k:*")],
            "audit": {"before_images": {"max_bytes": "64kb"}},
        }
        self.leash.load(policy(**dict.fromkeys(IDENTITIES, body)))
        self.agents = {one: self.leash.agent(one) for one in IDENTITIES}
        try:
            self.leash.admin.execute_command("HPEXPIRETIME", "none", "FIELDS", "1", "f")
            self.has_field_expiry = True
        except redis.ResponseError:
            self.has_field_expiry = False

    def begin(self) -> None:
        trails = [NAMES.audit(one) for one in (*IDENTITIES, OPERATORS)]
        self.leash.admin.delete(*KEYS, *trails)
        self.history.clear()

    def do(self, deed: Deed) -> None:
        before = self.look()
        with contextlib.suppress(redis.ResponseError):
            self._run(deed)
        self.history.append((deed, before, self.look()))

    def _run(self, deed: Deed) -> None:
        if deed.who is None:
            for command in deed.commands:
                with contextlib.suppress(redis.ResponseError):
                    self.leash.admin.execute_command(*command)
            return
        agent = self.agents[deed.who]
        with keyleash.correlation(deed.why):
            if len(deed.commands) == 1:
                agent.execute_command(*deed.commands[0])
                return
            pipe: Any = agent.pipeline(transaction=False)
            for command in deed.commands:
                pipe.execute_command(*command)
            pipe.execute(raise_on_error=False)

    def look(self) -> dict[str, State]:
        """What each key holds, by commands of its type: nothing of keyleash's is asked."""
        admin = self.leash.admin
        with admin.pipeline() as pipe:
            for one in KEYS:
                pipe.type(one)
                pipe.pexpiretime(one)
            said = pipe.execute()
        return {
            one: (said[2 * place], said[2 * place + 1], *self._content(one, said[2 * place]))
            for place, one in enumerate(KEYS)
        }

    def _content(self, one: str, kind: bytes) -> Iterator[Any]:
        admin: Any = self.leash.admin
        match kind:
            case b"string":
                yield admin.get(one)
            case b"list":
                yield admin.lrange(one, 0, -1)
            case b"set":
                yield admin.smembers(one)
            case b"zset":
                yield admin.zrange(one, 0, -1, withscores=True)
            case b"hash":
                held = admin.hgetall(one)
                yield held
                if self.has_field_expiry:
                    fields = sorted(held)
                    yield admin.execute_command("HPEXPIRETIME", one, "FIELDS", len(fields), *fields)
            case b"stream":
                yield repr(admin.execute_command("XINFO", "STREAM", one, "FULL", "COUNT", 0))

    def chosen(self, why: str) -> dict[str, list[tuple[State, State]]]:
        """What the deeds that are to be undone found and left, by key that they changed."""
        found: dict[str, list[tuple[State, State]]] = {}
        for deed, before, after in self.history:
            if deed.who is not None and deed.why == why:
                for one in KEYS:
                    if before[one] != after[one]:
                        found.setdefault(one, []).append((before[one], after[one]))
        return found


@pytest.fixture
def world(server: RealServer) -> World:
    return World(Leash(server))


def is_broken(steps: Sequence[tuple[State, State]], now: State) -> bool:
    """Whether somebody else changed a key after or between these."""
    nexts = [*(before for before, _ in steps[1:]), now]
    return any(after != later for (_, after), later in zip(steps, nexts, strict=True))


@thorough(60)
@given(st.lists(deeds, min_size=1, max_size=25))
def test_undo_of_a_correlation_leaves_what_stood_there_before_it(
    world: World, program: list[Deed]
) -> None:
    """
    All data types, expiries, batches, failures, and changes that no guard saw.

    Conflicts are exactly the keys that others changed since, or between; with one, nothing
    is changed; forced, each key holds what it held before the first chosen command changed it.
    An undo that is undone leaves all as it was before.
    """
    world.begin()
    # Digests do not tell the order of what happened in one millisecond if somebody whom no guard
    # sees had a hand in it.
    seen = all(deed.who for deed in program)
    for deed in program:
        world.do(deed)
        if not seen:
            time.sleep(0.001)
    chosen, now, admin = world.chosen("c0"), world.look(), world.leash.admin
    if not chosen:
        with pytest.raises(NothingToUndoError):
            plan_undo(admin, Selection(correlation="c0"))
        return

    conflicts = {one for one, steps in chosen.items() if is_broken(steps, now[one])}
    plan = plan_undo(admin, Selection(correlation="c0"))
    assert {one.key.decode() for one in plan.keys} == set(chosen)
    assert {one.key.decode() for one in plan.blocked} == conflicts
    kinds = {obstacle.kind for one in plan.blocked for obstacle in one.obstacles}
    assert kinds == ({Kind.CHANGED} if conflicts else set())
    if conflicts:
        with pytest.raises(UndoRefusedError):
            apply_undo(admin, plan)
        assert world.look() == now
        plan = plan_undo(
            admin, Selection(correlation="c0"), forced=[one.encode() for one in conflicts]
        )
    expected = {**now, **{one: steps[0][0] for one, steps in chosen.items()}}
    if expected == now:
        with pytest.raises(NothingToUndoError):
            apply_undo(admin, plan)
        return

    done = apply_undo(admin, plan)
    assert world.look() == expected
    again = apply_undo(admin, plan_undo(admin, Selection(correlation=done.correlation)))
    assert world.look() == now
    apply_undo(admin, plan_undo(admin, Selection(correlation=again.correlation)))
    assert world.look() == expected
