"""The role of a command, the script that it calls, and details of its denial, from its words."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from functools import lru_cache
from hashlib import sha1
from typing import NamedTuple

from redis.exceptions import ResponseError

from keyleash.client.actions import Words
from keyleash.commands import CommandTable
from keyleash.commands.facts import CHANNELS, REFUSED, SCRIPT_CALLS, SUBSCRIPTIONS, WAITS
from keyleash.commands.locks import LOCK_SCRIPTS
from keyleash.commands.refusals import pattern_of, script_problem
from keyleash.errors import ClassNotGrantedError, CommandRefusedError, LeashError
from keyleash.errors.sentences import IN_A_BATCH, MALFORMED
from keyleash.store.records import GuardRecord
from keyleash.store.wire import Argument, BatchMode, as_bytes, split_name

HANDSHAKE = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT", "READONLY"})
"""The commands that redis-py sends by itself when it connects."""


class Role(Enum):
    """The commands that are no plain calls of a guard."""

    TRANSACTION = auto()
    """MULTI, EXEC, DISCARD, WATCH and UNWATCH."""
    SUBSCRIPTION = auto()
    SCRIPT = auto()
    """EVAL, EVALSHA and SCRIPT."""
    CLIENT = auto()
    INFO = auto()
    """INFO, COMMAND INFO, DBSIZE, FLUSHDB and FLUSHALL."""
    KEYS = auto()
    BLOCKING = auto()
    CLUSTER = auto()


_ROLES = {
    **dict.fromkeys(("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"), Role.TRANSACTION),
    **dict.fromkeys(SUBSCRIPTIONS, Role.SUBSCRIPTION),
    **dict.fromkeys(("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"), Role.SUBSCRIPTION),
    **dict.fromkeys((*SCRIPT_CALLS, "SCRIPT"), Role.SCRIPT),
    **dict.fromkeys(WAITS, Role.BLOCKING),
    "CLIENT": Role.CLIENT,
    "CLUSTER": Role.CLUSTER,
    **dict.fromkeys(("INFO", "COMMAND", "DBSIZE", "FLUSHDB", "FLUSHALL"), Role.INFO),
    "KEYS": Role.KEYS,
}


@lru_cache(maxsize=512)
def role_of(name: str | bytes) -> Role | None:
    """Return the role of a command; None if it is a plain call. Asked at every call."""
    return _ROLES.get(split_name((name,))[0])


def split_words(words: Words) -> Words:
    """Split arguments off the command name, where redis-py allows them (`BLPOP key`)."""
    return tuple(split_name(words))


def upper(word: Argument) -> str:
    """Return an argument in upper case, as servers compare options."""
    return (word.decode("latin-1") if isinstance(word, bytes) else str(word)).upper()


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
    """Return the digest of the script in a call; None if it names none."""
    if name == "SCRIPT":
        is_load = len(arguments) == 2 and upper(arguments[0]) == "LOAD"
        return digest_of(arguments[1]) if is_load else None
    script = script_call_of(name, arguments) if name.startswith("EVAL") else None
    return script and script.digest


def script_item(guard: GuardRecord, words: Words) -> tuple[Words, Sequence[Argument]] | None:
    """Return a call of a script as an item of a transaction, and its keys; None for others."""
    name, *arguments = words
    script = script_call_of(name, arguments) if name.startswith("EVAL") else None
    if script is None or not guard.may_run(script.digest):
        # The guard denies it by this name, and records that.
        digest = unapproved_script(name, arguments)
        return ((f"{name}:{digest}",), ()) if digest else None
    digest, keys, rest, is_read_only = script
    return (f"EVALSHA{'_RO' * is_read_only}", digest, str(len(keys)), *keys, *rest), keys


def digest_of(text: Argument) -> str:
    """Return the SHA-1 of a script, by which callers name it."""
    return sha1(as_bytes(text), usedforsecurity=False).hexdigest()


def _digest(word: Argument) -> str:
    """Return a digest as a server compares it, in any case."""
    return as_bytes(word).decode("latin-1").lower()


def described(
    denial: LeashError, words: Words, mode: BatchMode | None, table: CommandTable
) -> LeashError:
    """Return the denial of a command with what its words, and the mode of its batch, add."""
    name, *arguments = split_words(words)
    spec = table.find([as_bytes(word) for word in (name, *arguments[:1])])
    denial.deletes = any("delete" in part.needs for part in (spec, *spec.keys)) if spec else False
    if isinstance(denial, CommandRefusedError):
        return _refused(denial, name, arguments, mode)
    details = dict(denial.details)
    if isinstance(denial, ClassNotGrantedError) and name in CHANNELS and arguments:
        details["channel"] = as_bytes(arguments[0]).decode("utf-8", "surrogateescape")
    if name.startswith("EVAL") and details.get("command") == "EVALSHA":
        # The guard knows each call of a script by this name.
        details["command"] = name
    denial.pattern_of = pattern_of(name, denial.key or "")
    return denial.with_details(details)


def as_command(denial: LeashError, name: str) -> LeashError:
    """Return the denial of one of several calls with the name of the command that made them."""
    named = {"command": name} if "command" in denial.details else {}
    details = {name: value for name, value in denial.details.items() if name != "item"}
    return denial.with_details({**details, **named})


def _refused(
    denial: CommandRefusedError, name: str, arguments: Sequence[Argument], mode: BatchMode | None
) -> CommandRefusedError:
    """Return the denial of a command with a reason that only its words have."""
    details = dict(denial.details)
    # The guard knows the name of the container alone.
    reason = REFUSED.get(f"{name} {upper(arguments[0])}") if arguments else None
    if details.get("once") == "key":
        details = {"command": name, **details}
    elif mode is None and details.get("command") == name in SCRIPT_CALLS:
        # Otherwise the script ran, and one of its commands was denied.
        if problem := problem_of_call(name, arguments):
            details["reason"] = f"{MALFORMED}: {problem}"
    elif mode in (BatchMode.ALL, BatchMode.PREPARE) and role_of(name) in (Role.KEYS, Role.INFO):
        reason = IN_A_BATCH
    return denial.with_details({**details, **({"reason": reason} if reason else {})})
