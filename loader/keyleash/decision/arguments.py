"""What is asked of the arguments of a call that are no keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.keys import is_option
from keyleash.decision.command import Argv, Command
from keyleash.decision.matching import matches
from keyleash.decision.trace import ArgumentStep, Aspect, Match, Trace
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Grant, Literal


def judge_arguments(command: Command, spec: CommandSpec, argv: Argv, trace: Trace) -> Decision:
    """What is asked of arguments that are no keys."""
    refusal = refused_argument(spec, argv)
    if refusal is not None:
        aspect, value = refusal
        trace.append(ArgumentStep(aspect, value, code=ReplyCode.COMMAND_REFUSED))
        return refused(ReplyCode.COMMAND_REFUSED, command=spec.name.encode() + b" " + value)
    if spec.scans:
        glob = glob_of(argv)
        granted = tuple(grants_of_glob(command.grants, glob))
        verdict = ALLOWED if granted else refused(ReplyCode.KEY_NOT_GRANTED, key=glob)
        trace.append(ArgumentStep(Aspect.GLOB, glob, granted, code=verdict.code))
        return verdict
    if spec.channel is not None and len(argv) > spec.channel:
        channel = argv[spec.channel]
        granted = tuple(grants_of_channel(command.grants, channel))
        verdict = ALLOWED if granted else refused(ReplyCode.CHANNEL_NOT_GRANTED, channel=channel)
        trace.append(ArgumentStep(Aspect.CHANNEL, channel, granted, code=verdict.code))
        return verdict
    return ALLOWED


def refused_argument(spec: CommandSpec, argv: Argv) -> tuple[Aspect, bytes] | None:
    """The argument for which the command is refused, or None."""
    too_wide = wide_integer(argv) if spec.name in ("BITFIELD", "BITFIELD_RO") else None
    if too_wide is not None:
        return Aspect.INTEGER, too_wide
    option = refused_option(spec, argv) or unknown_option(spec, argv)
    return None if option is None else (Aspect.OPTION, option)


def refused_option(spec: CommandSpec, argv: Argv) -> bytes | None:
    """An option that reaches keys which nobody can place: the last of those there are."""
    words = {"COPY": (3, ["DB"]), "SORT": (2, ["BY", "GET"]), "SORT_RO": (2, ["BY", "GET"])}
    start, options = words.get(spec.name, (0, []))
    found = [word for word in options if any(is_option(one, word) for one in argv[start:])]
    return found[-1].encode() if found else None


def unknown_option(spec: CommandSpec, argv: Argv) -> bytes | None:
    """What stands before STREAMS and is no option of XREAD or XREADGROUP."""
    options = {"XREAD": {"COUNT": 1, "BLOCK": 1}}
    options["XREADGROUP"] = {**options["XREAD"], "GROUP": 2, "NOACK": 0, "CLAIM": 1}
    if spec.name not in options:
        return None
    at = 1
    while at < len(argv) and not is_option(argv[at], "STREAMS"):
        known = [n for word, n in options[spec.name].items() if is_option(argv[at], word)]
        if not known:
            return argv[at]
        at += 1 + known[0]
    return None


def glob_of(argv: Argv) -> bytes:
    """What SCAN lists: the last MATCH among the pairs of options."""
    pairs = zip(argv[2::2], argv[3::2], strict=False)
    return ([b"*"] + [glob for word, glob in pairs if is_option(word, "MATCH")])[-1]


def grants_of_glob(grants: Sequence[Grant], glob: bytes) -> Iterator[Match[Grant]]:
    """The patterns granted for scanning in which a glob lies."""
    start = re.split(rb"[*?\[\\]", glob, maxsplit=1)[0]
    for grant in grants:
        for pattern in grant.keys if OperationClass.SCAN in grant.allow else ():
            first = pattern.parts[0]
            literal = first.text if isinstance(first, Literal) else b""
            if (
                glob == literal
                if len(pattern.parts) == 1 and literal
                else start.startswith(literal)
            ):
                yield Match(grant, pattern)


def grants_of_channel(grants: Sequence[Grant], channel: bytes) -> Iterator[Match[Grant]]:
    """The patterns of channels that match."""
    for grant in grants:
        for pattern in grant.channels:
            if matches(pattern, channel):
                yield Match(grant, pattern)


def wide_integer(argv: Argv) -> bytes | None:
    """The last type of a BITFIELD that a Lua number cannot hold, or None."""
    wide = None
    for argument in argv[2:]:
        width = re.match(rb"[iu](\d+)", argument)
        if width is not None and int(width[1]) > 53:
            wide = argument
    return wide
