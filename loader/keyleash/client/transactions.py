"""MULTI, EXEC, DISCARD, WATCH and UNWATCH: a transaction is held back, and sent as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ExecAbortError, ResponseError

from keyleash.client.actions import Flow, Send, Unguarded, Words
from keyleash.client.answers import keys_reply
from keyleash.client.batches import require_one_call
from keyleash.client.caller import Caller, of_item
from keyleash.client.calls import Call, Queue
from keyleash.client.command_words import Role, role_of, split_words
from keyleash.client.script_calls import send_script
from keyleash.errors import LeashError
from keyleash.store.wire import BatchMode

NESTED = {"MULTI": "MULTI calls can not be nested", "WATCH": "WATCH inside MULTI is not allowed"}


class Transaction:
    """The transaction of a connection, and its watch.

    Attributes:
        held: The commands since MULTI; None outside of a transaction.
        is_watching: Whether keys are watched, which another connection would not be.
    """

    def __init__(self, caller: Caller, queue: Queue) -> None:
        self._caller = caller
        self._queue = queue
        self.clear()

    def clear(self) -> None:
        """Forget everything: it has ended, or the connection was closed."""
        self.held: list[Words] | None = None
        self.is_watching = False
        self._is_aborted = False

    def hold(self, words: Words) -> None:
        """Hold a command back until EXEC; a wrong number of arguments aborts the transaction."""
        assert self.held is not None  # noqa: S101 - the caller looks
        if not self._rejects(words):
            self.held.append(words)
            self._queue.add_reply(b"QUEUED")

    def abort(self) -> None:
        """Let EXEC fail: a command was denied instead of queued."""
        self._is_aborted = self.held is not None

    def send(self, words: Words) -> Flow:
        """Carry out a command of transactions."""
        name, queue = words[0], self._queue
        if self._rejects(words):
            return
        if name in ("MULTI", "WATCH") and self.held is not None:
            yield from self._reject_nested(words)
        elif name == "MULTI":
            self.held = []
            queue.add_reply(b"OK")
        elif name == "WATCH":
            self.is_watching = True
            queue.defer(self._caller.watch(words))
        elif name == "UNWATCH":
            queue.defer(self._end(b"OK"))
            self.is_watching = False
        elif self.held is None:
            queue.add_reply(ResponseError(f"{name} without MULTI"))
        elif name == "DISCARD":
            self._discard(b"OK")
        elif self._is_aborted:
            self._discard(ExecAbortError("Transaction discarded because of previous errors."))
        else:
            yield from self._execute(self.held)

    def _execute(self, held: Sequence[Words]) -> Flow:
        is_watched = self.is_watching
        roles = [role_of(words[0]) for words in held]
        self.clear()
        if roles == [Role.SCRIPT] and not is_watched:
            words = split_words(held[0])
            yield from send_script(self._caller, self._queue, words, is_transaction=True)
            return
        if not held and not is_watched:
            self._queue.add_reply([])
            return
        require_one_call(held)
        keys = [at for at, role in enumerate(roles) if role is Role.KEYS]
        places = [at for at in range(len(held)) if at not in keys]
        call = self._caller.new_call([held[at] for at in places], BatchMode.ALL)
        call.has_scripts, call.is_watched, call.places = Role.SCRIPT in roles, is_watched, places
        if keys or (is_watched and held):
            self._queue.defer(self._run_prepared(call, held, keys))
        else:
            yield from self._queue.add([call])

    def _run_prepared(self, call: Call, held: Sequence[Words], keys: Sequence[int]) -> Flow:
        """Run a transaction after its calls of KEYS, which are rounds of SCAN."""
        found: dict[int, Any] = {}
        try:
            for at in keys:
                found[at] = yield from keys_reply(held[at], self._caller.run)
        except ResponseError as error:
            failed = of_item(error, at, held[at]) if isinstance(error, LeashError) else error
            return (yield from self._end(failed, is_watched=call.is_watched))
        if call.is_watched and call.commands:
            yield from self._caller.check(call)
        yield Send([call])
        (reply,) = yield from self._caller.replies(call, undecoded=True)
        replies = reply.read_response(True)
        for at, names in found.items() if replies is not None else ():
            replies.insert(at, names)
        return replies

    def _discard(self, reply: Any) -> None:
        """End the transaction without running it."""
        self._queue.defer(self._end(reply, is_watched=self.is_watching))
        self.clear()

    def _end(self, reply: Any, *, is_watched: bool = True) -> Flow:
        """End a watch; return a reply, or raise an error."""
        if is_watched:
            yield Unguarded(("UNWATCH",))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _rejects(self, words: Words) -> bool:
        """Return whether servers reject a command; its error has become its reply."""
        problem = self._caller.session.table.problem(split_words(words))
        if problem is not None and words[0] == "EXEC":
            self._discard(ExecAbortError(f"Transaction discarded because of: {problem}"))
        elif problem is not None:
            self.abort()
            self._queue.add_reply(ResponseError(problem))
        return problem is not None

    def _reject_nested(self, words: Words) -> Flow:
        """Reply to MULTI or WATCH inside MULTI, which abort the transaction on some servers."""
        problem, row = f"Command '{words[0].lower()}' not allowed inside a transaction", None
        if self._queue.next_pending is None:
            with suppress(ResponseError):
                (row,) = yield Unguarded(("COMMAND", "INFO", words[0]))
        if row and b"no_multi" not in row[2]:
            problem = NESTED[words[0]]
        else:
            self.abort()
        self._queue.add_reply(ResponseError(problem))
