"""Calls of approved scripts, and the scripts of redis-py's `Lock`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from typing import NamedTuple

from redis.exceptions import ResponseError

from keyleash.client.flow import Flow, Words
from keyleash.commands.locks import EXTEND, LOCK_SCRIPTS, RELEASE
from keyleash.errors import LeashError
from keyleash.store.records import GuardRecord
from keyleash.store.wire import Argument, as_bytes

DENIED_MS = 10_000
"""The expiry of a lock without one whose release is denied."""


class ScriptCall(NamedTuple):
    """The call of a script, by its digest.

    Attributes:
        is_read_only: Whether its writes are errors.
    """

    digest: str
    keys: Sequence[Argument]
    arguments: Sequence[Argument]
    is_read_only: bool = False


def script_call_of(name: str, arguments: Sequence[Argument]) -> ScriptCall | None:
    """Return the script that EVAL or EVALSHA calls; None if the call is malformed."""
    if len(arguments) < 2 or not as_bytes(arguments[1]).isdigit():
        return None
    script, count = arguments[0], int(as_bytes(arguments[1]))
    if count > len(arguments) - 2:
        return None
    digest = _digest(script) if name.startswith("EVALSHA") else digest_of(script)
    keys, words = arguments[2 : 2 + count], arguments[2 + count :]
    return ScriptCall(digest, keys, words, is_read_only=name.endswith("_RO"))


def reply_about(
    guard: GuardRecord, name: str, scripts: Sequence[Argument]
) -> list[int] | bytes | ResponseError | None:
    """Return the reply to SCRIPT EXISTS, and to SCRIPT LOAD of a script that may be called."""
    if (name == "EXISTS" and not scripts) or (name == "LOAD" and len(scripts) != 1):
        return ResponseError(f"wrong number of arguments for 'script|{name.lower()}' command")
    if name == "EXISTS":
        return [int(guard.may_run(_digest(item))) for item in scripts]
    if name == "LOAD":
        digest = digest_of(scripts[0])
        return digest.encode() if guard.may_run(digest) or digest in LOCK_SCRIPTS else None
    return None


def unapproved_script(name: str, arguments: Sequence[Argument]) -> str | None:
    """Return the digest of the script in a denied call; None if it names none."""
    if name == "SCRIPT":
        is_load = len(arguments) == 2 and _digest(arguments[0]) == "load"
        return digest_of(arguments[1]) if is_load else None
    script = script_call_of(name, arguments) if name.startswith("EVAL") else None
    return script and script.digest


def digest_of(text: Argument) -> str:
    """Return the SHA-1 of a script, by which callers name it."""
    return sha1(as_bytes(text), usedforsecurity=False).hexdigest()


def _digest(word: Argument) -> str:
    """Return a digest as a server compares it, in any case."""
    return as_bytes(word).decode("latin-1").lower()


def change_lock(
    script: ScriptCall,
    watch: Callable[[Argument], Flow],
    unwatch: Callable[[], Flow],
    ask: Callable[[Words], Flow],
    change: Callable[[Words], Flow],
) -> Flow:
    """Do what a script of redis-py's `Lock` does, by commands under WATCH; return its reply.

    So no identity needs a guard for scripts to use locks.

    Args:
        watch, unwatch: Begin and end a watch of a key.
        ask: Makes a guarded call; its reply is not decoded.
        change: Makes a call that ends the watch; returns None if the key changed before.
    """
    if not script.keys or len(script.arguments) < (3 if script.digest == EXTEND else 1):
        raise ResponseError("too few keys or arguments for a script of redis-py's Lock")
    (key, *_), (token, *rest) = script.keys, script.arguments
    try:
        life_ms = 0 if script.digest == RELEASE else int(rest[0])
    except (IndexError, ValueError):
        raise ResponseError("value is not an integer or out of range") from None
    while True:
        yield from watch(key)
        try:
            left_ms = 0
            is_owner = (yield from ask(("GET", key))) == as_bytes(token)
            if is_owner and script.digest == EXTEND:
                left_ms = yield from ask(("PTTL", key))
        except ResponseError:
            yield from unwatch()
            raise
        if not is_owner or left_ms < 0:
            yield from unwatch()
            return 0
        if script.is_read_only:
            yield from unwatch()
            raise ResponseError("Write commands are not allowed from read-only scripts.")
        words: Words = ("DEL", key)
        if script.digest != RELEASE:
            is_added = script.digest == EXTEND and as_bytes(rest[1]) == b"0"
            words = ("PEXPIRE", key, life_ms + (left_ms if is_added else 0))
        try:
            is_done = (yield from change(words)) is not None
        except LeashError:
            if script.digest == RELEASE:
                yield from _leave_expiry(key, as_bytes(token), watch, unwatch, ask, change)
            raise
        if is_done:
            return 1


def _leave_expiry(
    key: Argument,
    token: bytes,
    watch: Callable[[Argument], Flow],
    unwatch: Callable[[], Flow],
    ask: Callable[[Words], Flow],
    change: Callable[[Words], Flow],
) -> Flow:
    """Give a lock whose release was denied an expiry if it has none: it must not stay for ever."""
    with suppress(ResponseError):
        yield from watch(key)
        if (yield from ask(("GET", key))) != token:
            yield from unwatch()
        else:
            yield from change(("PEXPIRE", key, DENIED_MS, "NX"))
