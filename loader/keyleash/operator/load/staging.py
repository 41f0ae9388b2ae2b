"""Stage scripts and records on the server before activation."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from redis.exceptions import ResponseError

from keyleash.compiler import CompiledGuard, Report
from keyleash.errors import OperationError
from keyleash.limits.counters import DOUBLE
from keyleash.operator.load.plan import (
    IdentityChange,
    Snapshot,
    StagedState,
    StateChange,
    batches,
    record_of,
)
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import ActivePolicy, Client
from keyleash.store.scripts import COLLECT, STAGE, STAGED_KEEP_MS
from keyleash.store.state import Layout
from keyleash.store.wire import Transport

# What a load makes on the server before the moment of activation, under names of its own.
#
# The activation then renames it, so that the server serves nobody only for as long as that
# takes. What a load that died left behind expires, and no other load ever looks at it.

PIECE = 20
"""States per script at most,"""
PIECE_BYTES = 64 * 1024
"""and bytes of them: what a script reads and writes, the server hashes several times."""
FEW = 8
"""So many states may as well be moved in the activation."""
ROUNDS = 4
_MARK_BYTES = 4 + DOUBLE


class LoadStage:
    """
    The staged keys of one load.

    Attributes:
        load: Its id.
        seen: The states that are staged, by identity.
    """

    def __init__(self, client: Client, keyspace: Keyspace) -> None:
        self.load = secrets.token_hex(8)
        self._client = client
        self._keyspace = keyspace
        self._recorded: Sequence[str] = ()
        self.seen: dict[str, StagedState] = {}

    def put_policy(self, policy: ActivePolicy, layouts: Mapping[str, Layout]) -> None:
        """Stage what is recorded of a policy, but for its time, and the layouts of all states."""
        recorded = self._keyspace.staged_layouts(self.load)
        with self._client.pipeline(transaction=False) as pipe:
            for name in (
                self._keyspace.staged_policy(self.load),
                self._keyspace.staged_stored_policy(self.load),
            ):
                pipe.hset(name, mapping=asdict(policy))
                pipe.pexpire(name, STAGED_KEEP_MS)
            for names in batches(layouts):
                pipe.hset(recorded, mapping={name: layouts[name].to_json() for name in names})
            pipe.pexpire(recorded, STAGED_KEEP_MS)
            pipe.execute()

    def put_records(
        self,
        guards: Sequence[CompiledGuard],
        generation: int,
        commands: str,
        transport: Transport,
    ) -> None:
        """Stage the records of the guards that are to be, as of *generation*."""
        self._recorded = [
            self._keyspace.staged_guard(self.load, guard.identity) for guard in guards
        ]
        for some in batches(zip(self._recorded, guards, strict=True)):
            with self._client.pipeline(transaction=False) as pipe:
                for key, guard in some:
                    record = record_of(guard, generation, commands, transport)
                    pipe.hset(key, mapping=asdict(record))
                    pipe.pexpire(key, STAGED_KEEP_MS)
                pipe.execute()

    def keep_records(self) -> None:
        """Let the staged records last, so that the activation need not: it only renames them."""
        # A load that dies between here and the activation leaves them behind for ever: small
        # hashes that nobody looks at.
        for some in batches(self._recorded):
            with self._client.pipeline(transaction=False) as pipe:
                for key in some:
                    pipe.persist(key)
                pipe.execute()

    def put_states(
        self, changes: Sequence[IdentityChange], snapshots: Mapping[str, Snapshot]
    ) -> None:
        """Move the states that are to be, and those again that change while others are moved."""
        waiting = [change for change in changes if change.kind is StateChange.MOVED]
        for _ in range(ROUNDS):
            for piece in _pieces(waiting, snapshots):
                self._put_piece(piece)
            waiting = self._changed(waiting)
            if len(waiting) <= FEW:
                return

    def discard(self) -> None:
        """Remove what is left."""
        names = [
            self._keyspace.staged_policy(self.load),
            self._keyspace.staged_stored_policy(self.load),
            self._keyspace.staged_layouts(self.load),
        ]
        names += self._recorded
        names += [self._keyspace.staged_state(self.load, identity) for identity in self.seen]
        for some in batches(names):
            self._client.unlink(*some)

    def _put_piece(self, piece: Sequence[IdentityChange]) -> None:
        words: list[str | bytes] = []
        for change in piece:
            if change.moves is not None:
                words += change.identity, change.moves.packed, change.moves.rings
        seen = iter(
            self._client.eval(STAGE.text, *STAGE.arguments(self._keyspace, self.load, *words))
        )
        for change, *answer in zip(piece, seen, seen, seen, strict=True):
            self.seen[change.identity] = StagedState(*answer)

    def _changed(self, changes: Sequence[IdentityChange]) -> list[IdentityChange]:
        """Those whose states were called since they were staged, as far as the client sees."""
        found = []
        for some in batches(changes):
            with self._client.pipeline(transaction=False) as pipe:
                for change in some:
                    key, seen = self._keyspace.state(change.identity), self.seen[change.identity]
                    pipe.getrange(key, 0, len(seen.header) - 1)
                    for offset, _ in struct.iter_unpack(f"<I{DOUBLE}s", seen.marks):
                        pipe.getrange(key, offset, offset + DOUBLE - 1)
                replies = iter(pipe.execute())
            for change in some:
                header, marks, _ = self.seen[change.identity]
                now = next(replies)
                calls = [next(replies) for _ in range(len(marks) // _MARK_BYTES)]
                newest = [item for _, item in struct.iter_unpack(f"<I{DOUBLE}s", marks)]
                if now != header or [call.ljust(DOUBLE, b"\0") for call in calls] != newest:
                    found.append(change)
        return found


def _pieces(
    changes: Sequence[IdentityChange], snapshots: Mapping[str, Snapshot]
) -> Iterator[Sequence[IdentityChange]]:
    piece: list[IdentityChange] = []
    size = 0
    for change in changes:
        length = snapshots[change.identity].size
        if piece and (len(piece) == PIECE or size + length > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(change)
        size += length
    if piece:
        yield piece


MANY = 100
"""So many new scripts, or identities to activate, are worth it."""

STEP_KIB = 40
"""How far it goes on in one command, in its own measure; the server serves others in between."""

LONGEST_S = 0.5
"""Enough for 1,000 identities on a server nearby. It is worth no more: a load goes on anyway."""


def step_lua_gc(client: Client) -> None:
    """Let it mark and sweep all there is, a little in each command.

    It works whenever something is allocated, and then rests until its memory has doubled. Left
    alone, it sweeps what thousands of scripts are made of within one command: a SCRIPT LOAD, or
    the activation of many identities.
    """
    step, until_s = COLLECT.text, time.monotonic() + LONGEST_S
    done_kib = 0
    try:
        # Not until it is seen to come around: the server moves it too, and may be the one who
        # ends every round. By EVAL, since scripts may be flushed meanwhile.
        while (held_kib := client.eval(step, 0, STEP_KIB)) and done_kib < held_kib:
            done_kib += STEP_KIB
            if time.monotonic() > until_s:
                return
    except ResponseError:
        # Whatever is wrong with the server, the load itself says it better.
        return


def load_scripts(
    client: Client, guards: Sequence[CompiledGuard], report: Report | None = None
) -> None:
    """Load the guards that the server lacks, and compare its digests with ours.

    Args:
        report: Told now and then how many are there.

    Raises:
        OperationError (digest-mismatch): the server names a script otherwise than we do. A guard's
            digest is its identity: nothing is activated then.
    """
    loaded = 0
    for batch in batches(guards):
        scripts = [(guard, *script) for guard in batch for script in guard.scripts.items()]
        known = client.script_exists(*(digest for _, digest, _ in scripts))
        for (guard, expected, script), present in zip(scripts, known, strict=True):
            if present:
                continue
            answered = client.script_load(script)
            digest = answered.decode() if isinstance(answered, bytes) else answered
            if digest != expected:
                raise OperationError(
                    "digest-mismatch",
                    f"the server gives the guard of `{guard.identity}` the digest `{digest}`,"
                    f" expected `{expected}`",
                )
        if len(known) - sum(known) >= MANY:
            step_lua_gc(client)
        loaded += len(batch)
        if report is not None:
            report(loaded, len(guards))


def record_sources(client: Client, keyspace: Keyspace, guards: Sequence[CompiledGuard]) -> None:
    """Put each script's text where those who may load can find it. Adds, never replaces."""
    for batch in batches(guards):
        with client.pipeline(transaction=False) as pipe:
            for guard in batch:
                pipe.hset(keyspace.source(guard.identity), mapping=dict(guard.scripts))
            pipe.execute()


def retire_sources(
    client: Client, keyspace: Keyspace, guards: Sequence[CompiledGuard], removed: Sequence[str]
) -> None:
    """Forget the texts of scripts that no record names any more."""
    for batch in batches(guards):
        with client.pipeline(transaction=False) as pipe:
            for guard in batch:
                pipe.hkeys(keyspace.source(guard.identity))
            held = pipe.execute()
        with client.pipeline(transaction=False) as pipe:
            for guard, digests in zip(batch, held, strict=True):
                old = [digest for digest in digests if digest.decode() not in guard.scripts]
                if old:
                    pipe.hdel(keyspace.source(guard.identity), *old)
            pipe.execute()
    for names in batches(removed):
        client.unlink(*map(keyspace.source, names))
