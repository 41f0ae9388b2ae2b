"""
What a load makes on the server before the moment of activation, under names of its own.

The activation then renames it, so that the server serves nobody only for as long as that
takes. What a load that died left behind expires, and no other load ever looks at it.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from keyleash.compiler import CompiledGuard
from keyleash.compiler.templates import STAGED_KEEP_MS, operator_script
from keyleash.deploy.plan import Change, How, Seen
from keyleash.deploy.standing import Standing, batches, record_of
from keyleash.protocol.active import ActivePolicy, Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import DOUBLE, Layout
from keyleash.protocol.transport import Transport

PIECE = 20
"""States per script at most,"""
PIECE_BYTES = 64 * 1024
"""and bytes of them: what a script reads and writes, the server hashes several times."""
FEW = 8
"""So many states may as well be moved in the activation."""
ROUNDS = 4
_MARK_BYTES = 4 + DOUBLE


class Stage:
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
        self._script = operator_script("stage.lua", keyspace)
        self._recorded: Sequence[str] = ()
        self.seen: dict[str, Seen] = {}

    def put_policy(self, policy: ActivePolicy, layouts: Mapping[str, Layout]) -> None:
        """Stage what is recorded of a policy, but for its time, and the layouts of all states."""
        recorded = self._keyspace.staged_layouts(self.load)
        with self._client.pipeline(transaction=False) as pipe:
            for name in (
                self._keyspace.staged_policy(self.load),
                self._keyspace.staged_kept(self.load),
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

    def put_states(self, changes: Sequence[Change], standings: Mapping[str, Standing]) -> None:
        """Move the states that are to be, and those again that change while others are moved."""
        waiting = [change for change in changes if change.how is How.MOVED]
        for _ in range(ROUNDS):
            for piece in _pieces(waiting, standings):
                self._put_piece(piece)
            waiting = self._changed(waiting)
            if len(waiting) <= FEW:
                return

    def discard(self) -> None:
        """Remove what is left."""
        names = [
            self._keyspace.staged_policy(self.load),
            self._keyspace.staged_kept(self.load),
            self._keyspace.staged_layouts(self.load),
        ]
        names += self._recorded
        names += [self._keyspace.staged_state(self.load, identity) for identity in self.seen]
        for some in batches(names):
            self._client.unlink(*some)

    def _put_piece(self, piece: Sequence[Change]) -> None:
        words: list[str | bytes] = []
        for change in piece:
            if change.moves is not None:
                words += change.identity, change.moves.packed, change.moves.rings
        seen = iter(self._client.eval(self._script, 0, self.load, *words))
        for change, *answer in zip(piece, seen, seen, seen, strict=True):
            self.seen[change.identity] = Seen(*answer)

    def _changed(self, changes: Sequence[Change]) -> list[Change]:
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
                newest = [one for _, one in struct.iter_unpack(f"<I{DOUBLE}s", marks)]
                if now != header or [one.ljust(DOUBLE, b"\0") for one in calls] != newest:
                    found.append(change)
        return found


def _pieces(
    changes: Sequence[Change], standings: Mapping[str, Standing]
) -> Iterator[Sequence[Change]]:
    piece: list[Change] = []
    size = 0
    for change in changes:
        length = standings[change.identity].size
        if piece and (len(piece) == PIECE or size + length > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(change)
        size += length
    if piece:
        yield piece
