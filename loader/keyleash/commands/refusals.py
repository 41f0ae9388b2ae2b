"""The reason why a command is denied, for clients, `explain` and the audit log."""

from __future__ import annotations

from collections.abc import Mapping

from keyleash.commands.facts import (
    CONTAINER,
    INDEX_OPTIONS,
    INDEXES,
    MODULE_KEYS,
    NAMED_ONLY,
    NEEDS_ALL_KEYS,
    PATHS,
    PATTERNS,
    REFUSED_OPTIONS,
    SCANS,
    SCRIPTS,
    TOO_MANY_PATHS,
    why_unknown,
)
from keyleash.commands.spec import CommandSpec, CommandTable
from keyleash.errors import sentences

NO_SLOT = "on a cluster a call with an id needs a key, in whose slot it is remembered"
NO_MODE = {
    "renew": "the policy does not let agents renew their tokens",
    "delegate": "the policy does not let tokens delegate",
}


def with_reason(table: CommandTable, details: Mapping[str, str]) -> Mapping[str, str]:
    """Return the details of COMMAND_REFUSED with the command and the reason.

    Args:
        table: The commands that the guard was compiled for, or those that keyleash ships.
        details: Those that the guard returned.
    """
    mode = details.get("mode", "")
    if mode in NO_MODE:
        return {**details, "command": mode.upper(), "reason": NO_MODE[mode]}
    if details.get("once") == "key":
        return {**details, "reason": NO_SLOT}
    command, _, script = details.get("command", "").partition(":")
    if script or "script" in details:
        script = script.lower() or details["script"]
        reason = f"{sentences.UNAPPROVED} {script}"
        return {**details, "command": command or "EVALSHA", "script": script, "reason": reason}
    return {"command": command, "reason": why_refused(table, command), **details}


def why_refused(table: CommandTable, command: str) -> str:
    """Return the reason why a command is denied.

    Args:
        table: As for `with_reason`.
        command: In upper case; with its sub-command, or the argument for which it is denied, after
            a space.
    """
    name, _, argument = command.partition(" ")
    spec = table.get(command) or table.get(name)
    if spec is None:
        return why_option(argument) if argument and name in INDEXES else why_unknown(name)
    if argument and name in table.containers and spec.name != command:
        return f"{sentences.NO_SERVER_HAS} that sub-command"
    if spec.refused == CONTAINER and " " not in command:
        # A guard names a sub-command only of a container of which it knows some.
        return sentences.NO_SUB_COMMAND
    if spec.refused is not None:
        is_eval = spec.refused == SCRIPTS and spec.name.startswith("EVAL")
        return sentences.UNAPPROVED if is_eval else spec.refused
    if argument and spec.name != command:
        return why_argument(spec, argument)
    if spec.named_only:
        return sentences.NOT_NAMED if spec.name in NAMED_ONLY else sentences.NOT_CHECKED
    if spec.index is not None:
        return sentences.NO_INDEXES
    return sentences.NO_CHANNELS if spec.counts else sentences.LEFT_OUT


def why_argument(spec: CommandSpec, argument: str) -> str:
    """Return why an argument is denied that is no key."""
    if argument == PATHS:
        return TOO_MANY_PATHS
    if spec.name.startswith("BITFIELD"):
        return "a script would round such an integer"
    if spec.subscribes:
        return "a guard checks one channel at a time"
    if argument in spec.patterns:
        return NEEDS_ALL_KEYS
    if argument in spec.refused_if and spec.name in MODULE_KEYS:
        return f"with {argument} one call may take too much memory or time"
    if argument in spec.refused_if:
        return f"with {argument} it reaches keys beyond those that it names"
    word = argument.upper()
    if word not in REFUSED_OPTIONS and f" {word}=" in INDEX_OPTIONS.get(spec.name, ""):
        return f"`{argument}` needs other words after it, or another number of them"
    return why_option(argument)


def why_option(argument: str) -> str:
    """Return why an option is denied."""
    return REFUSED_OPTIONS.get(argument.upper(), f"a guard does not know `{argument}`")


def script_problem(name: str, count: bytes | None, words: int) -> str | None:
    """Return why a server rejects a call of EVAL or EVALSHA; None if it is well formed.

    Args:
        count: Its number of keys; None if it has none.
        words: How many words follow that number.
    """
    if count is None:
        return f"wrong number of arguments for '{name.lower()}' command"
    if not count.removeprefix(b"-").isdigit():
        return "value is not an integer or out of range"
    if count.startswith(b"-"):
        return "Number of keys can't be negative"
    # Longer numbers cost time to read.
    if len(count) > 9 or int(count) > words:
        return "Number of keys can't be greater than number of args"
    return None


def pattern_of(name: str, key: str) -> str:
    """Return `SCAN`, `SORT` or `FT` if a command denies *key* as a pattern; else an empty text."""
    if name in SCANS or name == "KEYS":
        return "SCAN"
    if name in INDEXES:
        return "FT"
    return "SORT" if name in PATTERNS and "*" in key else ""
