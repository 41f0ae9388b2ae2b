"""What is asked of the arguments of a call that are no keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.keys import is_option
from keyleash.decision.command import Argv
from keyleash.decision.matching import matches
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Grant, Literal


def judge_arguments(spec: CommandSpec, argv: Argv, grants: Sequence[Grant]) -> Decision:
    """What is asked of arguments that are no keys; *grants* are those for the command."""
    if spec.name in ("BITFIELD", "BITFIELD_RO"):
        too_wide = wide_integer(argv)
        if too_wide is not None:
            return refused(ReplyCode.COMMAND_REFUSED, command=spec.name.encode() + b" " + too_wide)
    option = refused_option(spec, argv) or unknown_option(spec, argv)
    if option is not None:
        return refused(ReplyCode.COMMAND_REFUSED, command=spec.name.encode() + b" " + option)
    if spec.scans and not may_scan(grants, glob_of(argv)):
        return refused(ReplyCode.KEY_NOT_GRANTED, key=glob_of(argv))
    if spec.channel is not None and len(argv) > spec.channel:
        channel = argv[spec.channel]
        if not any(matches(one, channel) for grant in grants for one in grant.channels):
            return refused(ReplyCode.CHANNEL_NOT_GRANTED, channel=channel)
    return ALLOWED


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


def may_scan(grants: Sequence[Grant], glob: bytes) -> bool:
    """Whether a glob lies where keys are granted for scanning."""
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
                return True
    return False


def wide_integer(argv: Argv) -> bytes | None:
    """The last type of a BITFIELD that a Lua number cannot hold, or None."""
    wide = None
    for argument in argv[2:]:
        width = re.match(rb"[iu](\d+)", argument)
        if width is not None and int(width[1]) > 53:
            wide = argument
    return wide
