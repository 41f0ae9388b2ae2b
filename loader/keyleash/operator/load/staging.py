"""Stage scripts and records on the server before activation."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from redis.exceptions import ResponseError

from keyleash.compiler import CompiledGuard, Report
from keyleash.doubles import DOUBLE
from keyleash.errors import OperationError
from keyleash.operator.load.plan import (
    IdentityChange,
    Snapshot,
    StagedState,
    StateChange,
    record_of,
)
from keyleash.store.records import ActivePolicy
from keyleash.store.scripts import COLLECT, STAGE, STAGED_KEEP_MS
from keyleash.store.server_check import Client
from keyleash.store.state import Layout
from keyleash.store.store import Store, batches
from keyleash.store.wire import Transport

PIECE = 20
"""States per script."""
PIECE_BYTES = 64 * 1024
"""Bytes of states per script: the server hashes everything that a script reads or writes."""
FEW = 8
"""States that may be migrated in the activation itself."""
ROUNDS = 4
_MARK_BYTES = 4 + DOUBLE


class LoadStage:
    """
    The staged keys of one load.

    The activation only renames them, so that it blocks the server briefly. Keys of an interrupted
    load expire, and no other load uses them.

    Attributes:
        load: The id of the load.
        seen: The staged states, by identity.
    """

    def __init__(self, store: Store) -> None:
        self.load = secrets.token_hex(8)
        self._store = store
        self._recorded: Sequence[str] = ()
        self.seen: dict[str, StagedState] = {}

    def put_policy(self, policy: ActivePolicy, layouts: Mapping[str, Layout]) -> None:
        """Stage the record of a policy, without its time, and the layouts of all states."""
        recorded = self._store.keys.staged_layouts(self.load)
        with self._store.client.pipeline(transaction=False) as pipe:
            for name in (
                self._store.keys.staged_policy(self.load),
                self._store.keys.staged_stored_policy(self.load),
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
        """Stage the guard records of *generation*."""
        self._recorded = [
            self._store.keys.staged_guard(self.load, guard.identity) for guard in guards
        ]
        for batch in batches(zip(self._recorded, guards, strict=True)):
            with self._store.client.pipeline(transaction=False) as pipe:
                for key, guard in batch:
                    record = record_of(guard, generation, commands, transport)
                    pipe.hset(key, mapping=asdict(record))
                    pipe.pexpire(key, STAGED_KEEP_MS)
                pipe.execute()

    def keep_records(self) -> None:
        """Make the staged records persistent, so that the activation only renames them."""
        # A load that is interrupted from here on leaves these small hashes behind.
        for batch in batches(self._recorded):
            with self._store.client.pipeline(transaction=False) as pipe:
                for key in batch:
                    pipe.persist(key)
                pipe.execute()

    def put_states(
        self, changes: Sequence[IdentityChange], snapshots: Mapping[str, Snapshot]
    ) -> None:
        """Migrate states, and again those that change meanwhile."""
        waiting = [change for change in changes if change.kind is StateChange.MOVED]
        for _ in range(ROUNDS):
            for piece in _pieces(waiting, snapshots):
                self._put_piece(piece)
            waiting = self._changed(waiting)
            if len(waiting) <= FEW:
                return

    def discard(self) -> None:
        """Delete the remaining staged keys."""
        names = [
            self._store.keys.staged_policy(self.load),
            self._store.keys.staged_stored_policy(self.load),
            self._store.keys.staged_layouts(self.load),
        ]
        names += self._recorded
        names += [self._store.keys.staged_state(self.load, identity) for identity in self.seen]
        for batch in batches(names):
            self._store.client.unlink(*batch)

    def _put_piece(self, piece: Sequence[IdentityChange]) -> None:
        words: list[str | bytes] = []
        for change in piece:
            if change.moves is not None:
                words += change.identity, change.moves.packed, change.moves.rings
        seen = iter(
            self._store.client.eval(
                STAGE.text, *STAGE.arguments(self._store.keys, self.load, *words)
            )
        )
        for change, *answer in zip(piece, seen, seen, seen, strict=True):
            self.seen[change.identity] = StagedState(*answer)

    def _changed(self, changes: Sequence[IdentityChange]) -> list[IdentityChange]:
        """Return the changes whose states changed since they were staged."""
        found = []
        for batch in batches(changes):
            with self._store.client.pipeline(transaction=False) as pipe:
                for change in batch:
                    key, seen = self._store.keys.state(change.identity), self.seen[change.identity]
                    pipe.getrange(key, 0, len(seen.header) - 1)
                    for offset, _ in struct.iter_unpack(f"<I{DOUBLE}s", seen.marks):
                        pipe.getrange(key, offset, offset + DOUBLE - 1)
                replies = iter(pipe.execute())
            for change in batch:
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
"""Number of new scripts or changed identities from which the collector is run."""

STEP_KIB = 40
"""Step size of the collector, in its own unit; the server runs other commands in between."""

LONGEST_S = 0.5
"""Upper bound of the time spent: enough for 1,000 identities on a server nearby."""


def step_lua_gc(client: Client) -> None:
    """Run the server's Lua garbage collector for a full cycle, in small steps.

    Left alone, it rests until its memory has doubled, and then sweeps the remains of thousands of
    scripts within one command: a SCRIPT LOAD, or a large activation.
    """
    step, until_s = COLLECT.text, time.monotonic() + LONGEST_S
    done_kib = 0
    try:
        # Ends after one cycle's worth of steps, because the server may complete the cycle itself.
        # EVAL, because scripts may be flushed meanwhile.
        while (held_kib := client.eval(step, 0, STEP_KIB)) and done_kib < held_kib:
            done_kib += STEP_KIB
            if time.monotonic() > until_s:
                return
    except ResponseError:
        # The load itself reports errors of the server.
        return


def load_scripts(
    client: Client, guards: Sequence[CompiledGuard], report: Report | None = None
) -> None:
    """Load the guards that the server lacks, and compare its digests with ours.

    Args:
        report: Called with the number of loaded guards and the total.

    Raises:
        OperationError (digest-mismatch): The server computes another digest; nothing is activated
            then.
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


def record_sources(store: Store, guards: Sequence[CompiledGuard]) -> None:
    """Store each script's text, for those who may load scripts. Adds, never replaces."""
    for batch in batches(guards):
        with store.client.pipeline(transaction=False) as pipe:
            for guard in batch:
                pipe.hset(store.keys.source(guard.identity), mapping=dict(guard.scripts))
            pipe.execute()


def retire_sources(store: Store, guards: Sequence[CompiledGuard], removed: Sequence[str]) -> None:
    """Delete the texts of scripts that no guard record names."""
    for batch in batches(guards):
        with store.client.pipeline(transaction=False) as pipe:
            for guard in batch:
                pipe.hkeys(store.keys.source(guard.identity))
            held = pipe.execute()
        with store.client.pipeline(transaction=False) as pipe:
            for guard, digests in zip(batch, held, strict=True):
                old = [digest for digest in digests if digest.decode() not in guard.scripts]
                if old:
                    pipe.hdel(store.keys.source(guard.identity), *old)
            pipe.execute()
    for names in batches(removed):
        store.client.unlink(*map(store.keys.source, names))
