"""The staged keys of a load: its records and states, before the activation renames them."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from keyleash.doubles import DOUBLE
from keyleash.store.records import RARE_FIELDS, ActivePolicy, GuardRecord
from keyleash.store.scripts import STAGE, STAGED_KEEP_MS
from keyleash.store.server import round_trip
from keyleash.store.state import Layout
from keyleash.store.store import Store, batches, pieces

PIECE = 20
"""States per script."""
PIECE_BYTES = 64 * 1024
"""Bytes of states per script: the server hashes everything that a script reads or writes."""
FEW = 8
"""States that may be migrated in the activation itself."""
ROUNDS = 4
_MARK_BYTES = 4 + DOUBLE


class StateMove(NamedTuple):
    """The migration of one state.

    Attributes:
        packed: The steps, for `moved_state.lua`.
        rings: The rings of the old layout, for `newest_calls.lua`.
        size: The length of the state in bytes.
    """

    identity: str
    packed: bytes
    rings: bytes
    size: int


class StagedState(NamedTuple):
    """A state as `stage.lua` migrated it, to detect changes since; empty if it was not.

    Attributes:
        header: Its numbers.
        marks: The newest call of each of its rings.
        moved: The migrated state; empty if it is staged on the server.
    """

    header: bytes = b""
    marks: bytes = b""
    moved: bytes = b""


class LoadStage:
    """The staged keys of one load.

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
                pipe.hset(name, mapping=_fields(policy))
                pipe.pexpire(name, STAGED_KEEP_MS)
            for names in batches(layouts):
                pipe.hset(recorded, mapping={name: layouts[name].to_json() for name in names})
            pipe.pexpire(recorded, STAGED_KEEP_MS)
            pipe.execute()

    def put_records(self, records: Mapping[str, GuardRecord]) -> None:
        """Stage guard records, by identity."""
        self._recorded = [self._store.keys.staged_guard(self.load, name) for name in records]
        for batch in batches(zip(self._recorded, records.values(), strict=True)):
            with self._store.client.pipeline(transaction=False) as pipe:
                for key, record in batch:
                    pipe.hset(key, mapping=_fields(record))
                    pipe.pexpire(key, STAGED_KEEP_MS)
                pipe.execute()

    def keep_records(self) -> None:
        """Make the staged records persistent, so that the activation only renames them."""
        # A load that is interrupted from here on leaves these small hashes behind.
        for batch in batches(self._recorded):
            round_trip(self._store.client, (("PERSIST", key) for key in batch))

    def put_states(self, moves: Sequence[StateMove]) -> None:
        """Migrate states, and again those that change meanwhile."""
        waiting = list(moves)
        for _ in range(ROUNDS):
            for piece in pieces(waiting, PIECE, PIECE_BYTES, lambda move: move.size):
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

    def _put_piece(self, piece: Sequence[StateMove]) -> None:
        words = [word for move in piece for word in (move.identity, move.packed, move.rings)]
        seen = iter(
            self._store.client.eval(
                STAGE.text, *STAGE.arguments(self._store.keys, self.load, *words)
            )
        )
        for move, *answer in zip(piece, seen, seen, seen, strict=True):
            self.seen[move.identity] = StagedState(*answer)

    def _changed(self, moves: Sequence[StateMove]) -> list[StateMove]:
        """Return the moves whose states changed since they were staged."""
        changed = []
        for batch in batches(moves):
            with self._store.client.pipeline(transaction=False) as pipe:
                for move in batch:
                    key, seen = self._store.keys.state(move.identity), self.seen[move.identity]
                    pipe.getrange(key, 0, len(seen.header) - 1)
                    for offset, _ in struct.iter_unpack(f"<I{DOUBLE}s", seen.marks):
                        pipe.getrange(key, offset, offset + DOUBLE - 1)
                replies = iter(pipe.execute())
            for move in batch:
                header, marks, _ = self.seen[move.identity]
                now = next(replies)
                calls = [next(replies) for _ in range(len(marks) // _MARK_BYTES)]
                newest = [item for _, item in struct.iter_unpack(f"<I{DOUBLE}s", marks)]
                if now != header or [call.ljust(DOUBLE, b"\0") for call in calls] != newest:
                    changed.append(move)
        return changed


def _fields(record: ActivePolicy | GuardRecord) -> dict[str, str | int]:
    """Return a record as Redis stores it: without truth values, and fields of few identities."""
    return {
        name: int(value) if isinstance(value, bool) else value
        for name, value in asdict(record).items()
        if value or name.encode() not in RARE_FIELDS
    }
