"""The question of whether the guard would allow a command: the answer, and the call that asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keyleash.client.actions import Flow, Words
from keyleash.client.answers import callable_commands
from keyleash.client.caller import Caller
from keyleash.client.calls import Call
from keyleash.client.command_words import (
    Role,
    reply_about,
    role_of,
    script_call_of,
    split_words,
    unapproved_script,
    upper,
)
from keyleash.client.session import Session
from keyleash.commands.facts import OF_THE_CONNECTION
from keyleash.commands.locks import LOCK_SCRIPTS, RELEASE
from keyleash.errors import LeashError
from keyleash.results import Result
from keyleash.store.wire import BatchMode
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class Permission(Result):
    """The answer of a guard to whether it would allow a command; true if it would.

    Attributes:
        denial: The denial that the command would get; None if it is allowed.
    """

    denial: LeashError | None = None

    @property
    def allowed(self) -> bool:
        """Return whether the command is allowed."""
        return self.denial is None

    def __bool__(self) -> bool:
        return self.allowed

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as an object for JSON."""
        denial = self.denial and json_object(self.denial, "code", "details", "help")
        return {"allowed": self.allowed, "denial": denial}


def ask_permission(caller: Caller, words: Words) -> Flow:
    """Ask the guard whether it would allow a command.

    Raises:
        LeashError: It would not, or the token has ended.
    """
    yield from caller.guard()
    yield from caller.reply_to(_question(caller.session, split_words(words)))


def _question(session: Session, words: Words) -> Call:
    """Return the call that asks about a command, as the client would make it."""
    guard = session.guard
    assert guard is not None  # noqa: S101 - the caller looks it up first
    name, arguments = upper(words[0]), words[1:]
    role, second = role_of(name), upper(arguments[0]) if arguments else ""
    call = Call([words], BatchMode.CHECK)
    if name == "WATCH":
        call.commands = [("TOUCH", *arguments)]
    elif (
        role is Role.TRANSACTION
        or (role is Role.INFO and "INFO" in (name, second))
        or (name == "DBSIZE" and "SCAN" in callable_commands(guard.grants, session.table))
        or (role is Role.SUBSCRIPTION and "UNSUB" in name)
        or (role is Role.CLIENT and second in OF_THE_CONNECTION)
        or (role is Role.CLUSTER and session.is_topology(words))
        or (name == "SCRIPT" and reply_about(guard, second, arguments[1:]) is not None)
    ):
        # The client answers them, as long as the token is valid.
        call.commands = []
    elif role is Role.SUBSCRIPTION:
        call.commands = [(name, channel) for channel in arguments] or [words]
    elif role is Role.KEYS and len(words) == 2:
        call.commands = [("SCAN", "0", "MATCH", arguments[0])]
    elif role is Role.SCRIPT:
        script = script_call_of(name, arguments)
        if script and guard.may_run(script.digest):
            call.script = script
        elif script and script.digest in LOCK_SCRIPTS and script.keys:
            change: Words = ("PEXPIRE", script.keys[0], "1")
            call.commands = [("DEL", script.keys[0]) if script.digest == RELEASE else change]
        elif digest := unapproved_script(name, arguments):
            call.commands = [(f"{name}:{digest}",)]
    return call
