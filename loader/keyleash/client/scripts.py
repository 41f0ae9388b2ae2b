"""The words of EVAL, EVALSHA and SCRIPT."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import NamedTuple

from redis.exceptions import ResponseError

from keyleash.client.roles import upper
from keyleash.commands.locks import LOCK_SCRIPTS
from keyleash.commands.refusals import script_problem
from keyleash.store.records import GuardRecord
from keyleash.store.wire import Argument, as_bytes


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
    if problem_of_call(name, arguments) is not None:
        return None
    script, count = arguments[0], int(as_bytes(arguments[1]))
    digest = _digest(script) if name.startswith("EVALSHA") else digest_of(script)
    keys, words = arguments[2 : 2 + count], arguments[2 + count :]
    return ScriptCall(digest, keys, words, is_read_only=name.endswith("_RO"))


def problem_of_call(name: str, arguments: Sequence[Argument]) -> str | None:
    """Return why a server rejects a call of EVAL or EVALSHA; None if it is well formed."""
    count = as_bytes(arguments[1]) if len(arguments) > 1 else None
    return script_problem(name, count, len(arguments) - 2)


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
        is_load = len(arguments) == 2 and upper(arguments[0]) == "LOAD"
        return digest_of(arguments[1]) if is_load else None
    script = script_call_of(name, arguments) if name.startswith("EVAL") else None
    return script and script.digest


def digest_of(text: Argument) -> str:
    """Return the SHA-1 of a script, by which callers name it."""
    return sha1(as_bytes(text), usedforsecurity=False).hexdigest()


def _digest(word: Argument) -> str:
    """Return a digest as a server compares it, in any case."""
    return as_bytes(word).decode("latin-1").lower()
