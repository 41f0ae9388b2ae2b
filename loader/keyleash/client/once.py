"""The idempotency ids of an agent's calls, which may be sent again after a lost connection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from keyleash.errors import CommandRefusedError
from keyleash.errors.sentences import NO_IDS
from keyleash.store.token import reject_tokens
from keyleash.store.wire import MAX_ID_BYTES, split_name

_ID = re.compile(rf"[ -~]{{1,{MAX_ID_BYTES}}}")


class CallId(str):
    """The idempotency id of one call, shared by all attempts to make it.

    Attributes:
        lost: The lost connection or timeout of an attempt that was sent; None if there is none.
        token: The digest of the token that the last attempt was sent with.
    """

    lost: Exception | None = None
    token = ""


class Block:
    """The calls of a block, whose ids are numbered: `step`, `step#2`, `step#3`.

    Attributes:
        first: The id of the first call.
    """

    def __init__(self, first: str) -> None:
        self.first = first
        self._count = 0

    def next_id(self) -> CallId:
        """Return the id of the next call.

        Raises:
            ValueError: with its number it is too long.
        """
        self._count += 1
        if self._count == 1:
            return CallId(self.first)
        return CallId(check_id(f"{self.first}#{self._count}"))


NO_ID = CallId()

_current: ContextVar[Block | None] = ContextVar("keyleash_once", default=None)
current_block = _current.get
"""Returns the block that surrounds a call; None if there is none."""


@contextmanager
def once(idempotency_id: str) -> Iterator[str]:
    """Give the guarded calls inside the block an idempotency id: each runs once.

    The server remembers a call with an id and its reply, for as long as `idempotency` of the policy
    says. The same call with the same id gets that reply, and nothing runs. So a client sends it
    again after a lost connection, as its retry policy says, and a program may run the whole block
    again. The first call that may change something has *idempotency_id*, the second `…#2` and so
    on; calls that only read have none. With its number an id must not exceed 200 characters, so up
    to 180 are safe. It follows threads and tasks as `keyleash.correlation` does.

    Raises:
        ValueError: *idempotency_id* has not 1 to 200 printable ASCII characters.
        SecretInTextError: it contains a token.
        TypeError: it is no str.
    """
    before = _current.set(Block(check_id(idempotency_id)))
    try:
        yield idempotency_id
    finally:
        _current.reset(before)


def maybe_once(idempotency_id: str | None) -> AbstractContextManager[Any]:
    """Return a block as `once` does; one that changes nothing without an id."""
    return nullcontext() if idempotency_id is None else once(idempotency_id)


def check_id(idempotency_id: Any) -> str:
    """Return an id; errors as for `once`."""
    if not isinstance(idempotency_id, str):
        kind = type(idempotency_id).__name__
        raise TypeError(f"the idempotency id must be a str, not {kind}")
    reject_tokens(once=idempotency_id)
    if not _ID.fullmatch(idempotency_id):
        raise ValueError(
            f"an idempotency id has 1 to {MAX_ID_BYTES} printable ASCII characters:"
            f" {idempotency_id[: MAX_ID_BYTES + 1]!r}"
        )
    return idempotency_id


def without_ids(idempotency_id: str, words: Sequence[Any], identity: str) -> CommandRefusedError:
    """Return the denial of a call with an id by a guard that takes none."""
    name = split_name(words)[0]
    denial = CommandRefusedError({"command": name, "once": idempotency_id, "reason": NO_IDS})
    denial.identity = identity
    return denial


class Ids:
    """The ids of the calls on a connection: the same ones when redis-py repeats them.

    Args:
        taken: The first of them, if they are known.
    """

    def __init__(self, taken: Sequence[CallId] = ()) -> None:
        self._taken = [*taken]
        self._at = 0
        self._has_first = self._has_id = bool(taken)
        self._is_open = self._lacks_id = False

    @property
    def may_repeat(self) -> bool:
        """Return whether all calls of the attempt had ids, so that they may be sent again."""
        return self._has_id and not self._lacks_id

    def begin(self) -> bool:
        """Begin what redis-py may repeat; return False if it is part of such a thing."""
        if self._is_open:
            return False
        self._is_open = True
        return True

    def begin_attempt(self) -> None:
        """Begin an attempt, whose calls have the ids of the one before."""
        self._at = 0
        self._has_id, self._lacks_id = self._has_first, False

    def end(self) -> None:
        """Forget the ids."""
        self._taken.clear()
        self._is_open = False

    def lose(self, error: Exception) -> None:
        """Note that an attempt was sent, and ended in *error* without all replies."""
        for once in self._taken:
            once.lost = error

    @property
    def lost(self) -> Exception | None:
        """The error of an attempt that was lost; None if there is none."""
        return next((once.lost for once in self._taken if once.lost is not None), None)

    def take(self, block: Block) -> CallId:
        """Return the id of a call, in the order of the calls."""
        if not self._is_open:
            return block.next_id()
        if self._at == len(self._taken):
            self._taken.append(block.next_id())
        self._at += 1
        return self._taken[self._at - 1]

    def note(self, *, has_id: bool) -> None:
        """Note that a call is sent."""
        self._has_id |= has_id
        self._lacks_id |= not has_id


class Attempts(Block):
    """A block around one call of a cluster, which has the same ids in each attempt at any node.

    Args:
        block: The block that the ids are of.
        taken: The ids that the call has already.

    Attributes:
        ids: The ids of the call.
    """

    def __init__(self, block: Block, taken: Sequence[CallId] = ()) -> None:
        super().__init__(block.first)
        self._block = block
        self.ids = Ids(taken)
        self.ids.begin()

    def next_id(self) -> CallId:
        """Return the id of the next call of the attempt."""
        return self.ids.take(self._block)


@contextmanager
def attempts(once: CallId | None = None) -> Iterator[Ids | None]:
    """Begin a call that may be made several times; yield its ids, or None if no block is around.

    Args:
        once: Its id, if it has one already.
    """
    block = _current.get()
    if block is None:
        yield None
        return
    inner = Attempts(block, [once] if once else [])
    before = _current.set(inner)
    try:
        yield inner.ids
    finally:
        _current.reset(before)
