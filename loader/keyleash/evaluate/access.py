"""Decide which rule a call needs, and whether grants match its keys."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.commands.facts import INDEXES, NO_SEARCH
from keyleash.commands.keys import (
    KeyUse,
    behind_option,
    is_option,
    is_variant,
    patterns_of,
    refused_option,
)
from keyleash.commands.refusals import why_argument, why_refused
from keyleash.commands.spec import DATA_CLASSES, OptionKey, StreamKeys, Subscribes
from keyleash.errors import ReplyCode
from keyleash.evaluate.restricted import (
    judge_restricted_arguments,
    judge_restricted_pattern,
    literal_start,
)
from keyleash.evaluate.trace import (
    ALLOWED,
    ArgumentStep,
    Aspect,
    ClassStep,
    CommandStep,
    Decision,
    KeyStep,
    Match,
    Rule,
    Trace,
    refused,
)
from keyleash.policy import Grant, Identity, Pattern, match, overlaps
from keyleash.policy.model import Literal
from keyleash.policy.patterns import beginning, ending, is_open, keys_under, may_start_with
from keyleash.store.keyspace import CONTROL_PREFIX
from keyleash.store.restrictions import Restrictions

Argv = Sequence[bytes]
CONTROL = CONTROL_PREFIX.encode()
"""The beginning of keyleash's own keys."""


@dataclass(frozen=True, slots=True)
class RuledCommand:
    """
    The command of a call.

    Attributes:
        name: The name in denials, with the sub-command if a grant applies to one of the container.
        spec: Its row in the table, or None.
        grants: The grants whose `only` and `except` include it.
    """

    name: bytes
    spec: CommandSpec | None
    grants: tuple[Grant, ...]


def look_up(identity: Identity, table: CommandTable, argv: Argv) -> RuledCommand:
    """Return the command of a call, and the grants that apply to it."""
    name = argv[0] if argv else b""
    spec = named(table, argv)
    if splits(identity, table, name.decode("latin-1")):
        name += b" " + b"".join(argv[1:2]).upper()
    grants = (grant for grant in identity.grants if spec and grant.applies_to(spec))
    return RuledCommand(name, spec, tuple(grants))


def judge_command(command: RuledCommand, table: CommandTable, trace: Trace) -> Decision:
    """Check that a guard can run the command, and that some grant applies to it."""
    spec, verdict, why = command.spec, ALLOWED, ""
    if spec is None or spec.refused is not None or not command.grants:
        verdict = refused(ReplyCode.COMMAND_REFUSED, command=command.name)
        name = command.name.decode("latin-1")
        # Here the table is that of the server, where there is one.
        why = NO_SEARCH if spec is None and name in INDEXES else why_refused(table, name)
    trace.append(CommandStep(command.name, command.grants, why, code=verdict.code))
    return verdict


def judge_classes(command: RuledCommand, spec: CommandSpec, argv: Argv, trace: Trace) -> Decision:
    """Check that some grant for the command gives each class that the call needs."""
    for needed in needs_of_call(spec, argv):
        if stores(spec, argv) and needed is OperationClass.WRITE:
            # Checked on that key alone, once it is known.
            continue
        giving = tuple(grant for grant in command.grants if needed in grant.allow)
        if not giving:
            trace.append(ClassStep(needed, code=ReplyCode.CLASS_NOT_GRANTED))
            return refused(ReplyCode.CLASS_NOT_GRANTED, class_=needed, command=command.name)
        trace.append(ClassStep(needed, giving))
    return ALLOWED


def named(table: CommandTable, argv: Argv) -> CommandSpec | None:
    """Return the row of a call with a command in upper case, and a sub-command in any case."""
    name = argv[0] if argv else b""
    # Two words that are sent as one argument are not the name of a command.
    return table.find(argv) if name and name == name.upper() and b" " not in name else None


def splits(identity: Identity, table: CommandTable, container: str) -> bool:
    """Return whether denials name the sub-command: some grant applies to one of the container."""
    return container in table.containers and any(
        spec.refused is None and any(grant.applies_to(spec) for grant in identity.grants)
        for spec in table
        if spec.name.startswith(container + " ")
    )


def needs_of_call(spec: CommandSpec, argv: Argv) -> tuple[OperationClass, ...]:
    """Return the classes that the call needs on one key or another."""
    needs = {*spec.needs}
    if spec.variant is not None and is_variant(spec.variant, argv):
        needs = {*spec.variant.needs}
    if stores(spec, argv):
        needs.add(OperationClass.WRITE)
    return tuple(item for item in OperationClass if item in needs)


def stores(spec: CommandSpec, argv: Argv) -> bool:
    """Return whether an option makes a command that reads store its result."""
    return any(
        True for key in spec.keys if isinstance(key, OptionKey) for _ in behind_option(key, argv)
    )


def as_sent(words: Sequence[str | bytes]) -> list[bytes]:
    """Return the arguments as a client sends them: the name, of one or two words, in upper case."""
    name, *arguments = words or [""]
    first, *rest = os.fsencode(name).split() or [b""]
    return [first.upper(), *rest, *map(os.fsencode, arguments)]


def matches_of(rules: Iterable[Rule], key: bytes) -> Iterator[Match[Rule]]:
    """Yield the key patterns of some rules that match."""
    for rule in rules:
        for pattern in rule.keys:
            captures = match(pattern, key)
            if captures is not None:
                yield Match(rule, pattern, captures)


def matches(pattern: Pattern, key: bytes) -> bool:
    """Return whether *key* matches *pattern*."""
    return match(pattern, key) is not None


def too_long(identity: Identity, name: bytes) -> Decision:
    """Return the denial of a key, channel or index with a long name."""
    limit = identity.key_bytes
    return refused(ReplyCode.KEY_TOO_LONG, key=name, bytes=len(name), limit=limit)


def judge_arguments(
    identity: Identity,
    command: RuledCommand,
    spec: CommandSpec,
    argv: Argv,
    trace: Trace,
    restrictions: Restrictions | None,
) -> Decision:
    """Check the arguments that are not keys."""
    refusal = refused_argument(spec, argv)
    if refusal is not None:
        aspect, value = refusal
        why = why_argument(spec, value.decode("latin-1"))
        trace.append(ArgumentStep(aspect, value, why=why, code=ReplyCode.COMMAND_REFUSED))
        return refused(ReplyCode.COMMAND_REFUSED, command=spec.name.encode() + b" " + value)
    if spec.scans:
        aspect, code, detail = Aspect.GLOB, ReplyCode.KEY_NOT_GRANTED, "key"
        glob = glob_of(argv)
        arguments = [(glob, tuple(grants_of_glob(command.grants, glob)))]
    else:
        aspect, code, detail = Aspect.CHANNEL, ReplyCode.CHANNEL_NOT_GRANTED, "channel"
        arguments = [
            (channel, tuple(grants_of_channel(command.grants, spec, channel)))
            for channel in channels_of(spec, argv)
        ]
    for argument, granted in arguments:
        verdict = ALLOWED if granted else refused(code, **{detail: argument})
        if aspect is Aspect.CHANNEL and len(argument) > identity.key_bytes:
            verdict = too_long(identity, argument)
        trace.append(ArgumentStep(aspect, argument, granted, code=verdict.code))
        if verdict.allowed:
            verdict = judge_restricted_arguments(
                restrictions, command.grants, command.name, spec, argument, trace
            )
        if not verdict.allowed:
            return verdict
    return ALLOWED


def channels_of(spec: CommandSpec, argv: Argv) -> Argv:
    """Return the channels of a call, or its pattern of channels."""
    first = len(argv) if spec.channel is None else spec.channel
    return argv[first : None if spec.counts else first + 1]


def refused_argument(spec: CommandSpec, argv: Argv) -> tuple[Aspect, bytes] | None:
    """Return the argument for which the command is denied, or None."""
    too_wide = wide_integer(argv) if spec.name in ("BITFIELD", "BITFIELD_RO") else None
    if too_wide is not None:
        return Aspect.INTEGER, too_wide
    refused_word = refused_option(spec, argv)
    option = refused_word.encode() if refused_word else unknown_option(spec, argv)
    if spec.subscribes and len(argv) > 2:
        option = argv[2]
    return None if option is None else (Aspect.OPTION, option)


def unknown_option(spec: CommandSpec, argv: Argv) -> bytes | None:
    """Return the argument before STREAMS that is no option of the command."""
    streams = next((key for key in spec.keys if isinstance(key, StreamKeys)), None)
    if streams is None:
        return None
    at = 1
    while at < len(argv) and not is_option(argv[at], "STREAMS"):
        counts = [count for word, count in streams.options if is_option(argv[at], word)]
        if not counts:
            return argv[at]
        at += 1 + counts[0]
    return None


def glob_of(argv: Argv) -> bytes:
    """Return the glob of a SCAN: the last MATCH among the pairs of options."""
    pairs = zip(argv[2::2], argv[3::2], strict=False)
    return ([b"*"] + [glob for word, glob in pairs if is_option(word, "MATCH")])[-1]


def grants_of_glob(grants: Sequence[Grant], glob: bytes) -> Iterator[Match[Grant]]:
    """Yield the patterns granted for scanning that allow a glob."""
    start = literal_start(glob)
    for grant in grants:
        for pattern in grant.keys if OperationClass.SCAN in grant.allow else ():
            prefix = beginning(pattern)
            is_literal = pattern.parts == (Literal(prefix),)
            if glob == prefix if is_literal else start.startswith(prefix):
                yield Match(grant, pattern)


def grants_of_channel(
    grants: Sequence[Grant], spec: CommandSpec, channel: bytes
) -> Iterator[Match[Grant]]:
    """Yield the channel patterns that allow a channel, or a pattern of PSUBSCRIBE."""
    start = literal_start(channel) if spec.subscribes is Subscribes.PATTERN else channel
    for grant in grants:
        for pattern in grant.channels if spec.channel_class in grant.allow else ():
            # With its end open it matches whatever a wildcard stands for.
            covers = start == channel or is_open(pattern)
            if covers and matches(pattern, start):
                yield Match(grant, pattern)


def wide_integer(argv: Argv) -> bytes | None:
    """Return the last type of a BITFIELD that a Lua number cannot hold, or None."""
    wide = None
    for argument in argv[2:]:
        width = re.match(rb"[iu](\d+)", argument)
        if width is not None and int(width[1]) > 53:
            wide = argument
    return wide


def judge_key(identity: Identity, command: RuledCommand, use: KeyUse, trace: Trace) -> Decision:
    """Check the deny rules, then each class that the key needs."""
    key, is_control = use.key, is_control_key(identity, use.key)
    denied_by = tuple(matches_of(identity.deny, key))
    granted_by = tuple(matches_of(command.grants, key))
    granted = {item for match in granted_by for item in match.rule.allow}
    missing = next((needed for needed in use.needs if needed not in granted), None)
    data = [grant for grant in identity.grants if DATA_CLASSES & {*grant.allow}]
    verdict = ALLOWED
    if len(key) > identity.key_bytes:
        verdict, missing = too_long(identity, key), None
    elif is_control or denied_by:
        verdict, missing = refused(ReplyCode.KEY_DENIED, key=key), None
    elif missing and any(matches_of(data, key)):
        by = {} if any(match.rule in data for match in granted_by) else {"by": "command"}
        verdict = refused(
            ReplyCode.CLASS_NOT_GRANTED, class_=missing, command=command.name, key=key, **by
        )
    elif missing or not granted_by:
        verdict, missing = refused(ReplyCode.KEY_NOT_GRANTED, key=key), None
    step = KeyStep(key, use.needs, denied_by, granted_by, missing, is_control, code=verdict.code)
    trace.append(step)
    return verdict


def judge_patterns(
    identity: Identity,
    command: RuledCommand,
    spec: CommandSpec,
    argv: Argv,
    trace: Trace,
    restrictions: Restrictions | None,
) -> Decision:
    """Check that a granted pattern covers each pattern of the call, and that no denied one may."""
    for pattern in patterns_of(spec, argv):
        before, star, after = pattern.partition(b"*")
        if not star:
            continue
        suffix, arrow, field = after.partition(b"->")
        suffix = suffix if arrow and field else after
        granted = tuple(grants_of_keys_from(command.grants, before))
        verdict = ALLOWED
        if not granted or b"\0" in pattern:
            verdict = refused(ReplyCode.KEY_NOT_GRANTED, key=pattern)
        elif any(_may_meet(item, before, suffix) for item in _excluded(identity)):
            verdict = refused(ReplyCode.KEY_DENIED, key=pattern)
        trace.append(ArgumentStep(Aspect.PATTERN, pattern, granted, code=verdict.code))
        if verdict.allowed:
            verdict = judge_restricted_pattern(restrictions, command.grants, pattern, before, trace)
        if not verdict.allowed:
            return verdict
    return ALLOWED


def grants_of_keys_from(
    grants: Sequence[Grant], start: bytes, cls: OperationClass = OperationClass.READ
) -> Iterator[Match[Grant]]:
    """Yield the patterns with a class that match every key that begins with *start*."""
    for grant in grants:
        for pattern in grant.keys if cls in grant.allow else ():
            if is_open(pattern) and matches(pattern, start):
                yield Match(grant, pattern)


def _excluded(identity: Identity) -> Iterator[Pattern]:
    """Yield the denied patterns that some granted pattern with an open end meets."""
    opens = [item for item in identity.granted_keys if is_open(item)]
    for item in (keys_under(CONTROL), *identity.denied_keys):
        if any(overlaps(granted, item) for granted in opens):
            yield item


def _may_meet(denied: Pattern, before: bytes, after: bytes) -> bool:
    """Return whether the literal ends of a denied pattern fit to keys with such ends."""
    first, last = beginning(denied), ending(denied)
    begins = first.startswith(before) or before.startswith(first)
    return begins and (last.endswith(after) or after.endswith(last))


def is_control_key(identity: Identity, key: bytes) -> bool:
    """Return whether a key is one of keyleash's own, if a grant can reach such keys."""
    return key.startswith(CONTROL) and any(
        may_start_with(pattern, CONTROL) for pattern in identity.granted_keys
    )
