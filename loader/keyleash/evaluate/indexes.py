"""Decide whether a call may use its search index, whose documents it does not name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.facts import LISTS_INDEXES
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import CONTROL, Argv, RuledCommand, grants_of_keys_from, matches
from keyleash.evaluate.restricted import refused_by_token
from keyleash.evaluate.state import ModelState, Sizes
from keyleash.evaluate.trace import ALLOWED, ArgumentStep, Aspect, Decision, Match, Trace, refused
from keyleash.policy import Grant, Identity
from keyleash.policy.patterns import beginning, bound_pattern, is_open, may_start_with
from keyleash.store.live_table import reply_mapping
from keyleash.store.restrictions import Restrictions

_WIDTHS = {
    **dict.fromkeys(("ON", "LANGUAGE", "LANGUAGE_FIELD", "SCORE", "SCORE_FIELD"), 2),
    **dict.fromkeys(("PAYLOAD_FIELD", "FILTER", "INDEXALL"), 2),
    **dict.fromkeys(("MAXTEXTFIELDS", "NOOFFSETS", "NOHL", "NOFIELDS", "NOFREQS"), 1),
    "SKIPINITIALSCAN": 1,
}
"""The options of FT.CREATE with their numbers of words; two more have a count."""


def judge_index(
    identity: Identity,
    command: RuledCommand,
    spec: CommandSpec,
    argv: Argv,
    state: ModelState,
    trace: Trace,
) -> Decision:
    """Check the name of the index, and that the caller may read all keys with its prefixes."""
    restrictions, cls = state.restrictions, spec.index
    if cls is None:
        return ALLOWED
    if restrictions is not None and cls not in restrictions.allow:
        code = ReplyCode.CLASS_NOT_GRANTED
        return refused_by_token(trace, code, class_=cls, command=command.name)
    if spec.name == LISTS_INDEXES or len(argv) < 2:
        return ALLOWED
    verdict = _judge_name(command, cls, argv[1], restrictions, trace)
    if not verdict.allowed:
        return verdict
    prefixes: Sequence[bytes] | bytes | None
    prefixes = _created(argv) if spec.name == "FT.CREATE" else _stored(argv[1], state.sizes)
    if isinstance(prefixes, bytes):
        step = ArgumentStep(Aspect.OPTION, prefixes, code=ReplyCode.COMMAND_REFUSED)
        trace.append(step)
        return refused(ReplyCode.COMMAND_REFUSED, command=command.name + b" " + prefixes)
    deletes = spec.name == "FT.DROPINDEX" and len(argv) > 2
    for prefix in prefixes or ():
        verdict = _judge_prefix(identity, spec, prefix, deletes, restrictions, trace)
        if not verdict.allowed:
            break
    return verdict


def _judge_name(
    command: RuledCommand,
    cls: OperationClass,
    name: bytes,
    restrictions: Restrictions | None,
    trace: Trace,
) -> Decision:
    giving = [grant for grant in command.grants if cls in grant.allow]
    found = [(grant, item) for grant in giving for item in grant.indexes if matches(item, name)]
    granted = tuple(Match(*item) for item in found) if b"\0" not in name else ()
    verdict = ALLOWED if granted else refused(ReplyCode.INDEX_NOT_GRANTED, index=name)
    trace.append(ArgumentStep(Aspect.INDEX, name, granted, code=verdict.code))
    if verdict.allowed and restrictions is not None:
        bound = (bound_pattern(item, restrictions.bind) for _, item in found)
        if not any(item is not None and matches(item, name) for item in bound):
            return refused_by_token(trace, ReplyCode.INDEX_NOT_GRANTED, index=name)
    return verdict


def _created(argv: Argv) -> Sequence[bytes] | bytes:
    """Return the prefixes of an FT.CREATE, or the option for which it is denied."""
    prefixes: list[bytes] = []
    at = 2
    while at < len(argv) and (word := argv[at].decode("latin-1").upper()) != "SCHEMA":
        width = _WIDTHS.get(word)
        if word in ("PREFIX", "STOPWORDS"):
            count = argv[at + 1] if at + 1 < len(argv) else b""
            width = int(count) + 2 if re.fullmatch(rb"[0-9]{1,3}", count) else None
        if width is None or at + width > len(argv):
            return argv[at]
        if word == "PREFIX":
            named = argv[at + 2 : at + width]
            if any(b"\0" in prefix for prefix in named):
                return argv[at]
            prefixes += named or [b""]
        at += width
    return prefixes or [b""]


def _stored(name: bytes, sizes: Sizes | None) -> Sequence[bytes] | None:
    """Return the prefixes of an index; None if there is none, or no server to ask."""
    reply = None if sizes is None else sizes.ask(("FT.INFO",), [name], ())
    if reply is None:
        return None
    definition = reply_mapping(reply_mapping(reply).get("index_definition", ()))
    return list(definition.get("prefixes", ())) or [b""]


def _judge_prefix(
    identity: Identity,
    spec: CommandSpec,
    prefix: bytes,
    deletes: bool,
    restrictions: Restrictions | None,
    trace: Trace,
) -> Decision:
    admitting = [grant for grant in identity.grants if grant.admits(spec)]
    needed = (OperationClass.READ, *([OperationClass.DELETE] if deletes else ()))
    by_class = [tuple(grants_of_keys_from(admitting, prefix, cls)) for cls in needed]
    verdict, shown = ALLOWED, prefix + b"*"
    if not all(by_class):
        verdict = refused(ReplyCode.KEY_NOT_GRANTED, key=shown)
    elif any(_begin_alike(start, prefix) for start in _excluded(identity)):
        verdict = refused(ReplyCode.KEY_DENIED, key=shown)
    trace.append(ArgumentStep(Aspect.PREFIX, shown, by_class[-1], code=verdict.code))
    if verdict.allowed and restrictions is not None:
        keys = restrictions.keys
        is_within = keys is None or any(
            is_open(key) and prefix.startswith(beginning(key)) for key in keys
        )
        if not is_within or not all(_is_bound(item, restrictions, prefix) for item in by_class):
            return refused_by_token(trace, ReplyCode.KEY_NOT_GRANTED, key=shown)
    return verdict


def _is_bound(granted: Sequence[Match[Grant]], restrictions: Restrictions, prefix: bytes) -> bool:
    bound = (bound_pattern(item.pattern, restrictions.bind) for item in granted)
    return any(item is not None and matches(item, prefix) for item in bound)


def _excluded(identity: Identity) -> Iterator[bytes]:
    """Yield the literal beginnings of denied patterns, and of control keys if a grant has some."""
    granted = (key for grant in identity.grants for key in grant.keys)
    if any(may_start_with(key, CONTROL) for key in granted):
        yield CONTROL
    yield from (beginning(key) for deny in identity.deny for key in deny.keys)


def _begin_alike(first: bytes, second: bytes) -> bool:
    """Return whether one text begins with the other."""
    return first.startswith(second) or second.startswith(first)
