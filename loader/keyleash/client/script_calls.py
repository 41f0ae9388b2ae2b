"""Calls of approved scripts, and of those of redis-py's `Lock`."""

from __future__ import annotations

from contextlib import suppress

from redis.exceptions import ResponseError

from keyleash.client.actions import Flow, Unguarded, Words
from keyleash.client.caller import Caller
from keyleash.client.calls import Call, Queue
from keyleash.client.command_words import (
    ScriptCall,
    reply_about,
    script_call_of,
    unapproved_script,
    upper,
)
from keyleash.commands.locks import DENIED_MS, EXTEND, LOCK_SCRIPTS, RELEASE
from keyleash.errors import LeashError
from keyleash.store.records import GuardRecord
from keyleash.store.wire import Argument, BatchMode, as_bytes


def send_script(
    caller: Caller,
    queue: Queue,
    words: Words,
    *,
    is_watching: bool = False,
    is_transaction: bool = False,
) -> Flow:
    """Call the guard for an approved script; reply to what redis-py asks about scripts.

    Args:
        is_watching: Whether keys are watched, whose watch a lock's own would end.
        is_transaction: Whether it is the only command of a transaction.
    """
    guard: GuardRecord = yield from caller.guard()
    name, *arguments = words
    call, script = caller.new_call([words]), None
    if name == "SCRIPT":
        reply = reply_about(guard, upper(arguments[0]) if arguments else "", arguments[1:])
        if reply is not None:
            queue.add_reply([reply] if is_transaction else reply)
            return
    else:
        script = script_call_of(name, arguments)
    is_known = script is not None and guard.may_run(script.digest)
    if script and script.digest in LOCK_SCRIPTS and not (is_known or is_watching):
        queue.defer(_change_lock(caller, script, is_transaction=is_transaction))
        return
    if is_known and is_transaction:
        call.mode, call.has_scripts = BatchMode.ALL, True
    elif script and is_known:
        call.script = script
        if script.digest == RELEASE and not is_watching:
            queue.defer(_release(caller, call, script))
            return
    elif digest := unapproved_script(name, arguments):
        # The guard denies it by this name, and records that.
        call.commands = [(f"{name}:{digest}",)]
    yield from queue.add([call])


def _release(caller: Caller, call: Call, script: ScriptCall) -> Flow:
    """Call the approved script that releases a lock; return its reply."""
    try:
        return (yield from caller.reply_to(call))
    except LeashError:
        if script.keys and script.arguments:
            yield from _leave_expiry(caller, script.keys[0], script.arguments[0])
        raise


def _change_lock(caller: Caller, script: ScriptCall, *, is_transaction: bool) -> Flow:
    """Do what a script of redis-py's `Lock` does, by commands under WATCH; return its reply.

    So no identity needs a guard for scripts to use locks.
    """
    if not script.keys or len(script.arguments) < (3 if script.digest == EXTEND else 1):
        raise ResponseError("too few keys or arguments for a script of redis-py's Lock")
    (key, *_), (token, *rest) = script.keys, script.arguments
    try:
        life_ms = 0 if script.digest == RELEASE else int(rest[0])
    except (IndexError, ValueError):
        raise ResponseError("value is not an integer or out of range") from None
    result = None
    while result is None:
        left_ms = yield from _watch_own(caller, key, token, with_expiry=script.digest == EXTEND)
        if left_ms is None:
            result = 0
            break
        if script.is_read_only:
            yield Unguarded(("UNWATCH",))
            raise ResponseError("Write commands are not allowed from read-only scripts.")
        words: Words = ("DEL", key)
        if script.digest != RELEASE:
            is_added = script.digest == EXTEND and as_bytes(rest[1]) == b"0"
            words = ("PEXPIRE", key, life_ms + (left_ms if is_added else 0))
        try:
            if (yield from _run_watched(caller, words)) is not None:
                result = 1
        except LeashError:
            if script.digest == RELEASE:
                yield from _leave_expiry(caller, key, token)
            raise
    return [result] if is_transaction else result


def _watch_own(
    caller: Caller, key: Argument, token: Argument, *, with_expiry: bool = False
) -> Flow:
    """Watch the key of a lock; return its milliseconds to live, or 0 without *with_expiry*.

    If it is another's, or has no expiry that is needed, end the watch and return None.
    """
    left_ms = -1
    yield from caller.watch(("WATCH", key))
    try:
        if (yield from caller.run(("GET", key))) == as_bytes(token):
            left_ms = (yield from caller.run(("PTTL", key))) if with_expiry else 0
    except ResponseError:
        yield Unguarded(("UNWATCH",))
        raise
    if left_ms >= 0:
        return left_ms
    yield Unguarded(("UNWATCH",))
    return None


def _run_watched(caller: Caller, words: Words) -> Flow:
    """Make a call that ends the watch; return None if the key changed before."""
    call = caller.new_call([words], BatchMode.ALL)
    call.is_watched = True
    yield from caller.check(call)
    return (yield from caller.reply_to(call))


def _leave_expiry(caller: Caller, key: Argument, token: Argument) -> Flow:
    """Give a lock whose release was denied an expiry if it has none: it must not stay for ever."""
    with suppress(ResponseError):
        if (yield from _watch_own(caller, key, token)) is not None:
            yield from _run_watched(caller, ("PEXPIRE", key, DENIED_MS, "NX"))
