"""Reasons and names that the client adds to a denial, from the words of its call."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.client.actions import Words
from keyleash.client.roles import Role, role_of, split_words, upper
from keyleash.client.scripts import problem_of_call, unapproved_script
from keyleash.commands.facts import CHANNELS, REFUSED
from keyleash.commands.refusals import pattern_of
from keyleash.errors import ClassNotGrantedError, CommandRefusedError, LeashError
from keyleash.errors.sentences import IN_A_BATCH, MALFORMED, UNAPPROVED
from keyleash.store.wire import Argument, BatchMode, as_bytes


def described(denial: LeashError, words: Words, mode: BatchMode | None) -> LeashError:
    """Return the denial of a command with what its words and its batch add.

    Args:
        mode: The mode of its batch; None for a call of its own.
    """
    name, *arguments = split_words(words)
    if isinstance(denial, CommandRefusedError):
        return _refused(denial, name, arguments, mode)
    details = dict(denial.details)
    if isinstance(denial, ClassNotGrantedError) and name in CHANNELS and arguments:
        details["channel"] = _text(arguments[0])
    if name.startswith("EVAL") and details.get("command") == "EVALSHA":
        # The guard knows each call of a script by this name.
        details["command"] = name
    found = denial.with_details(details)
    found.pattern_of = pattern_of(name, denial.key or "")
    return found


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
    elif mode is None and role_of(details.get("command", "")) is Role.SCRIPT:
        # Otherwise the script ran, and one of its commands was denied.
        digest = unapproved_script(name, arguments)
        if digest:
            details |= {"script": digest, "reason": f"{UNAPPROVED} {digest}"}
        elif name.startswith("EVAL") and (problem := problem_of_call(name, arguments)):
            details["reason"] = f"{MALFORMED}: {problem}"
    elif mode not in (None, BatchMode.EACH) and role_of(name) in (Role.KEYS, Role.INFO):
        reason = IN_A_BATCH
    return denial.with_details({**details, **({"reason": reason} if reason else {})})


def _text(word: Argument) -> str:
    return as_bytes(word).decode("utf-8", "surrogateescape")
