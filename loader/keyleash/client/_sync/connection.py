"""Guarded connections."""
# Generated from client/aio_connection.py by `make sync`: edit that file.

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.client._redis_py import (
    BufferedReply,
    awaits_auth,
    longer_timeout,
    pack,
    read_within,
    readable,
)
from keyleash.client.actions import (
    AskForToken,
    CheckSubscriptions,
    Flow,
    Pause,
    Receive,
    Send,
    SendUnguarded,
    Unguarded,
    Words,
)
from keyleash.client.caller import LOST, is_final
from keyleash.client.calls import Call
from keyleash.client.command_words import split_words
from keyleash.client.dialogue import Packed, unpacked
from keyleash.client.guarding import Guarding, Lock
from keyleash.client.permission import ask_permission
from keyleash.client.retries import FinalError, RetryWrapper, closed, is_lost, mark_sent, unmark
from keyleash.client.subscriptions import check
from keyleash.client.tokens import call_source
from keyleash.errors import LeashError, NotReplicatedError
from keyleash.store.wire import BatchMode


class SafeRetry(RetryWrapper):
    """A Retry that repeats nothing that was sent, but calls with idempotency ids."""

    def call_with_retry(self, do: Any, fail: Any, *args: Any, **options: Any) -> Any:
        """Like redis-py's, but raise at once what came after a call without an id was sent."""
        # Connecting is part of the attempt that it is made for, and has no ids of its own.
        is_outer = self.ids.begin()

        def attempt() -> Any:
            if is_outer:
                self.ids.begin_attempt()
            try:
                return do()
            except Exception as error:
                raise self._wrapped(error) from None

        try:
            return self.policy.call_with_retry(attempt, fail, *args, **options)
        except FinalError as carrier:
            error = carrier.args[0]
        except (MasterDownError, ReadOnlyError) as denial:
            if self.ids.lost is None:
                raise
            # The attempt before it may have run all the same.
            raise self.ids.lost from denial
        finally:
            if is_outer:
                self.ids.end()
        if not is_lost(error):
            raise error
        try:
            # As Retry does in the end: redis-py disconnects here, or finds a watch lost.
            fail(error, *self._failures(options))
        except WatchError:
            # An EXEC that was sent may have run, and callers repeat it after a WatchError.
            if not getattr(error, "is_exec", False):
                raise
        raise error


class Guarded(Guarding):
    """Mixed in before a connection class of redis-py."""

    retry_class = SafeRetry
    lock = Lock
    sleep: Callable[[float], Any] = staticmethod(time.sleep)

    def connect(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's, whose own commands need no guard."""
        above: Any = super()
        if self._is_open and self._dialogue.has_leftovers:
            # A pool asks for it when it hands out a connection.
            self.disconnect()
        if self._is_open:
            return None
        with self._handshake():
            return above.connect(*args, **options)

    def re_auth(self, *args: Any, **options: Any) -> None:
        """Like redis-py's, which sends AUTH when credentials are renewed."""
        above: Any = super()
        if awaits_auth(self):
            with self._handshake():
                above.re_auth(*args, **options)

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Like redis-py's, whose own commands need no guard."""
        above: Any = super()
        with self._handshake():
            above.connect_check_health(*args, **options)
        self._is_open = True

    def disconnect(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; forget what was to be read."""
        above: Any = super()
        self._is_open = False
        self._dialogue.clear()
        self._dialogue.is_answered = False
        if self._checker is not None:
            self._checker.disconnect()
        return above.disconnect(*args, **options)

    def can_read(self, *args: Any, **options: Any) -> bool:
        """Return whether anything is left to be read, which the next user must not get.

        If the connection has subscriptions, also check these when that is due.

        Raises:
            ConnectionError: a pool asks, which would hand out a connection with subscriptions.
        """
        above: Any = super()
        subscriptions = self._dialogue.subscriptions
        if not (args or options):
            self._require_unsubscribed()
        if self._dialogue.due or not subscriptions.active:
            return self._dialogue.has_leftovers or above.can_read(*args, **options)
        (timeout_s,) = args or options.values() or (0,)
        for pause_s in subscriptions.pauses(timeout_s):
            self._check_again()
            if readable(above, pause_s):
                return True
        return False

    def can_read_destructive(self, *args: Any, **options: Any) -> bool:
        """Return the same; older pools ask for it."""
        above: Any = super()
        self._require_unsubscribed()
        return self._dialogue.has_leftovers or above.can_read_destructive(*args, **options)

    def _require_unsubscribed(self) -> None:
        if self._dialogue.subscriptions.active:
            # A pool then connects again, and the next user gets no messages as replies.
            raise RedisConnectionError("the connection has subscriptions")

    def send_command(self, *args: Any, **options: Any) -> None:
        """Send a command through the guard, or hold it back for EXEC.

        Raises:
            CommandRefusedError: no guard can check it.
        """
        check_health = options.get("check_health", True)
        self._dialogue.is_answered = False
        if self._is_own(args, check_health):
            above: Any = super()
            above.send_packed_command(pack(split_words(args)), check_health)
            return
        words = self._encoded(args)
        call = self._dialogue.lone_call((words,))
        if call is None:
            self._send_all([words], check_health)
        else:
            self._send([call], check_health, is_due=True)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send what `pack_command` or `pack_commands` returned; otherwise like `send_command`.

        Also bytes that another client packed.
        """
        self._dialogue.is_answered = False
        commands = command if isinstance(command, Packed) else unpacked(command)
        self._send_all(commands, check_health)

    def read_response(self, disable_decoding: bool = False, **options: Any) -> Any:
        """Return the next reply.

        Raises:
            LeashError: the guard denied the command.
            NotReplicatedError: it ran, but too few replicas have it.
        """
        dialogue = self._dialogue
        due: Any = dialogue.due
        above: Any = super()
        if not due:
            if dialogue.is_cut and not self._handshakes:
                raise closed()
            if dialogue.subscriptions.active and not self._handshakes:
                return self._read_message(disable_decoding, options)
            return above.read_response(disable_decoding=disable_decoding, **options)
        first = due[0]
        if isinstance(first, BufferedReply):
            return due.popleft().read_response(disable_decoding)
        if first.is_lone and len(due) == 1:
            return self._read_lone(first, disable_decoding, options)
        return self._drive(dialogue.receive(disable_decoding), options)

    def run(self, words: Words) -> Any:
        """Send a command through the guard; return its reply.

        In one go, for speed; otherwise like `send_command` and `read_response`.
        """
        call = None if self._handshakes or self._encodes else self._dialogue.lone_call((words,))
        if call is None:
            self.send_command(*words)
            return self.read_response()
        self._dialogue.is_answered = False
        self._send([call], is_due=True)
        return self._read_lone(call, False, {})

    def run_batch(self, commands: Sequence[Words], mode: BatchMode) -> list[Any] | None:
        """Send commands through the guard as one batch, in one go.

        Returns:
            Their replies and errors; None, and nothing was sent, if they are to be sent like those
            of any pipeline.

        Raises:
            LeashError: in mode `all`, the guard denied one of them.
        """
        call = None if self._encodes else self._dialogue.lone_batch(commands, mode)
        if call is None:
            return None
        self._dialogue.is_answered = False
        self._send([call], is_due=True)
        replies: list[Any] = self._read_lone(call, False, {})
        return replies

    def _read_lone(self, call: Call, undecoded: bool, options: dict[str, Any]) -> Any:
        """Return the reply to the only call that is due; of a batch, the replies and errors."""
        dialogue = self._dialogue
        above: Any = super()
        failed = None
        if call.waits_for is None:
            try:
                reply = above.read_response(disable_decoding=undecoded, **options)
            except ResponseError as error:
                failed = error.with_traceback(None)
            except Exception as error:
                raise (mark_sent(error) if is_lost(error) else error) from None
            else:
                dialogue.due.clear()
                dialogue.is_answered = True
                if call.mode is not None:
                    return dialogue.caller.items(call, reply)
                words = call.commands[0]
                return reply if is_final(words[0]) else dialogue.caller.finished(words, reply)
        replies = self._drive(dialogue.receive_all(undecoded), options, received=failed)
        if call.mode is not BatchMode.EACH:
            return replies[0].read_response(undecoded)
        values = [reply.value for reply in replies]
        for value in values:
            if isinstance(value, NotReplicatedError):
                raise value
        return values

    def _read_message(self, disable_decoding: bool, options: dict[str, Any]) -> Any:
        """Return the next message; check the subscriptions whenever it is time."""
        above: Any = super()
        subscriptions = self._dialogue.subscriptions
        for pause_s in subscriptions.pauses(options.get("timeout", self.socket_timeout)):
            self._check_again()
            message = read_within(above, pause_s, disable_decoding, options)
            if message is not None:
                return message
        if "timeout" in options:
            return None
        raise RedisTimeoutError("Timeout reading from the server")

    def _check_again(self) -> None:
        subscriptions = self._dialogue.subscriptions
        if not subscriptions.is_check_due:
            return
        active = [*subscriptions.active]
        try:
            for left in reversed(range(self.check_attempts)):
                with suppress(*LOST if left else ()):
                    self._check(active, subscriptions.guard)
                    break
        except Exception as error:
            # The server delivers no more. redis-py may connect again, which checks again.
            self.disconnect()
            raise unmark(error) from None

    def _check(self, active: Sequence[Words], checked_by: Any) -> None:
        """Check subscriptions on the second connection."""
        subscriptions = self._dialogue.subscriptions
        with self._checking:
            checker = self._second()
            flow = check(checker._dialogue.caller, active, checked_by)
            try:
                guard = checker._drive(flow, {})
            except BaseException:
                checker.disconnect()
                raise
            # The guard of a subscription that is added has not checked the others.
            if checked_by is not None or not subscriptions.active:
                subscriptions.note_check(guard)

    def call(self, call: Call) -> Any:
        """Make a call about the token on a connection from which nothing is to be read.

        Returns:
            The reply, undecoded.
        """
        return self._drive_alone(self._dialogue.caller.about_token(call))

    def can_i(self, words: Words) -> None:
        """Ask the guard whether it would allow a command; errors are those of `ask_permission`."""
        self._drive_alone(ask_permission(self._dialogue.caller, self._encoded(words)))

    def exchange(self, calls: Sequence[Call], deliver: Callable[[Call, list[Any]], None]) -> None:
        """Make calls in one packet; otherwise like `Caller.exchange`."""
        if self._encodes:
            for call in calls:
                call.commands = [self._encoded(words) for words in call.commands]
        self._drive_alone(self._dialogue.caller.exchange(calls, deliver))

    def _drive_alone(self, flow: Flow) -> Any:
        self._dialogue.is_cut = False
        try:
            return self._drive(flow, {}, check_health=True)
        except ResponseError:
            raise
        except BaseException:
            # The next user would read the replies.
            self.disconnect()
            raise

    def _send_all(self, commands: Any, check_health: bool) -> None:
        try:
            if not self._is_open and not self._handshakes:
                # Each failed attempt to connect forgets what is due, so nothing may be yet.
                self.connect()
            if not self._dialogue.due:
                self._dialogue.is_cut = False
            if check_health and self._dialogue.is_idle and not self._handshakes:
                self.check_health()
            self._drive(self._dialogue.send(commands), {})
        except BaseException:
            if self._dialogue.due or self._handshakes:
                # The next user would read their replies, or listen without a subscription.
                self.disconnect()
            raise

    # The request contains the token, so no function that reads has it in a local variable: error
    # reports may show local variables.

    def _send(
        self, calls: Sequence[Call], check_health: bool = True, *, is_due: bool = False
    ) -> None:
        """Send calls in one packet.

        Args:
            is_due: As of `Send`.
        """
        above: Any = super()
        if self._handshakes:
            pass
        elif not self._is_open:
            self.connect()
        elif (
            check_health
            and self.health_check_interval
            and not self._dialogue.transaction.is_watching
        ):
            self.check_health()
        try:
            above.send_packed_command(self._packed(calls, is_due=is_due), check_health=False)
        except BaseException as error:
            if is_lost(error):
                # All of it may have been sent before the loss was seen.
                mark_sent(error)
            # Without the frames that have the token in a local variable; a denial has none.
            denial = error.__cause__ if isinstance(error.__cause__, LeashError) else None
            error.__context__ = None
            raise error.with_traceback(None) from denial

    def _receive(self, action: Receive, options: dict[str, Any]) -> Any:
        above: Any = super()
        try:
            if action.longer_s:
                options = {**options, **longer_timeout(above, action.longer_s)}
            reply = above.read_response(disable_decoding=action.undecoded, **options)
        except Exception as error:
            raise (mark_sent(error, is_exec=action.is_exec) if is_lost(error) else error) from None
        if reply is None and action.longer_s:
            # asyncio's connection returns None after a given timeout, and stays open: the next user
            # would read the reply when it comes.
            self.disconnect()
            raise RedisTimeoutError("Timeout reading the reply to WAIT")
        return reply

    def _drive(
        self,
        flow: Flow,
        options: dict[str, Any],
        *,
        check_health: bool = False,
        received: Exception | None = None,
    ) -> Any:
        """Run a flow: carry out its actions until it returns.

        Args:
            check_health: Whether to check the connection before the first action.
            received: The outcome of the first action, if it was read before.
        """
        try:
            action = next(flow)
            if received is not None:
                action = flow.throw(received)
            while True:
                check = check_health and self._dialogue.is_idle
                check_health = False
                try:
                    outcome = self._carry_out(action, options, check)
                except Exception as error:
                    action = flow.throw(error)
                else:
                    action = flow.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    def _carry_out(self, action: Any, options: dict[str, Any], check_health: bool) -> Any:
        above: Any = super()
        match action:
            case Send(calls, is_due):
                if self._dialogue.is_cut:
                    raise closed()
                return self._send(calls, check_health, is_due=is_due)
            case Receive():
                return self._receive(action, options)
            case Unguarded(words):
                above.send_packed_command(pack(words), check_health)
                return above.read_response(disable_decoding=True)
            case SendUnguarded(words):
                return above.send_packed_command(pack(words), check_health)
            case CheckSubscriptions(subscriptions):
                return self._check(subscriptions, None)
            case Pause():
                return self.pause(action)
            case AskForToken():
                return self.session.accept_token(call_source(self.session.source))
            case _:
                raise AssertionError(f"a connection has no action {type(action).__name__}")
