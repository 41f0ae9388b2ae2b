"""Reasons and names that the client adds to a denial, from the words of its call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from keyleash.client.actions import Words
from keyleash.client.roles import Role, role_of, split_words, upper
from keyleash.client.scripts import problem_of_call, unapproved_script
from keyleash.client.session import NOT_ALLOWABLE, unapproved
from keyleash.commands.facts import CHANNELS, PATTERNS, REFUSED, SCANS
from keyleash.errors import ClassNotGrantedError, CommandRefusedError, LeashError
from keyleash.store.wire import Argument, BatchMode, as_bytes

_OUTSIDE: dict[Role | None, str] = {
    Role.KEYS: "call it before the transaction, or use SCAN in it",
    Role.INFO: "call it before the transaction",
}
"""The help for commands that a connection answers itself, but not within a transaction."""


def described(denial: LeashError, words: Words, mode: BatchMode | None) -> LeashError:
    """Return the denial of a command with what its words and its batch add.

    Args:
        mode: The mode of its batch; None for a call of its own.
    """
    name, *arguments = split_words(words)
    if isinstance(denial, CommandRefusedError):
        if denial.details.get("once") == "key":
            return denial.with_details({"command": name, **denial.details})
        # The guard knows the name of the container alone.
        reason = arguments and REFUSED.get(f"{name} {upper(arguments[0])}")
        if reason:
            return _replaced(denial, reason, NOT_ALLOWABLE)
        if mode is None:
            return _of_script(name, arguments, denial)
        outside = _OUTSIDE.get(role_of(name))
        if mode is not BatchMode.EACH and outside is not None:
            return _replaced(denial, "it is not possible in a batch or transaction", outside)
    if isinstance(denial, ClassNotGrantedError) and name in CHANNELS and arguments:
        return denial.with_details({**denial.details, "channel": _text(arguments[0])})
    if name.startswith("EVAL") and denial.details.get("command") == "EVALSHA":
        # The guard knows each call of a script by this name.
        return denial.with_details({**denial.details, "command": name})
    if name in SCANS:
        denial.pattern_of = "SCAN"
    elif name in PATTERNS and _is_pattern(arguments, denial.key):
        denial.pattern_of = "SORT"
    return denial


def as_command(denial: LeashError, name: str) -> LeashError:
    """Return the denial of one of several calls with the name of the command that made them."""
    named = {"command": name} if "command" in denial.details else {}
    details = {name: value for name, value in denial.details.items() if name != "item"}
    return denial.with_details({**details, **named})


def _of_script(
    name: str, arguments: Sequence[Argument], denial: CommandRefusedError
) -> CommandRefusedError:
    """Return the denial of a script with its digest, or with the mistake of the call."""
    # Otherwise the script ran, and one of its commands was denied.
    if role_of(denial.details.get("command", "")) is not Role.SCRIPT:
        return denial
    digest = unapproved_script(name, arguments)
    if digest:
        return unapproved(digest, denial)
    problem = problem_of_call(name, arguments) if name.startswith("EVAL") else None
    if problem is None:
        return denial
    return _replaced(
        denial, problem, "after the script come the number of keys, the keys, and the arguments"
    )


def _replaced(denial: CommandRefusedError, reason: str, help: str) -> CommandRefusedError:
    found = CommandRefusedError({**denial.details, "reason": reason}, help=help)
    found.identity = denial.identity
    return found


def _is_pattern(arguments: Sequence[Argument], key: str | None) -> bool:
    return key is not None and any(
        upper(option) in PATTERNS["SORT"] and _text(value) == key
        for option, value in pairwise(arguments[1:])
    )


def _text(word: Argument) -> str:
    return as_bytes(word).decode("utf-8", "surrogateescape")
