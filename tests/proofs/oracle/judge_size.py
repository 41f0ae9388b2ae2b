"""Check the work of a call, and the length that it gives to strings.

Both depend on the values of keys, which `Sizes` reads from a server. Without a server, every key
counts as absent, and no work is estimated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyleash.commands import CommandSpec
from keyleash.commands import work as bounds
from keyleash.commands.facts import PATHS, TOO_MANY_PATHS
from keyleash.commands.keys import is_option
from keyleash.commands.spec import ELEMENTS, Bound, Join, Lengthening
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import Argv, matches
from keyleash.evaluate.trace import ALLOWED, ArgumentStep, Aspect, Decision, Step, Trace, refused
from keyleash.policy import Grant, Identity

if TYPE_CHECKING:
    from proofs.oracle.data import Sizes

_LARGEST = 10**15
"""The largest number that a denial names."""

_MOST_OF_PATHS = (
    (rb"(?s).", bounds.PATH_BYTES),
    (rb"\.\.|\?", 1),
    (rb",", bounds.PATH_LISTS),
    (rb"[.\[]", bounds.PATH_STEPS),
    *((rb"[\[,:][\s-]*[0-9]{19}", 0), (rb"=~", 0), (rb"\0", 0), (rb"(?s)\A.+\$.*\?|\?.*\$", 0)),
)
"""The parts of a JSON path, and how many of each it may have."""

_FILLS = (Lengthening.RANGE, Lengthening.BIT, Lengthening.FIELDS)
"""Those of which the server fills strings up to a length that the call names."""
_INTEGER = re.compile(rb"\s*[+-]?\d+\s*")


@dataclass(frozen=True, slots=True)
class SizeStep(Step):
    """
    The size of a call; recorded only if it is too large.

    Attributes:
        unit: `work`, in units of about 0.1 µs, or `bytes` of a string.
        amount: The size, in that unit.
        limit: The largest size that is allowed.
        key: The key of the string.
        grant: The grant whose `values` set the limit; None for the default, and for work.
    """

    unit: str
    amount: float
    limit: int
    key: bytes = b""
    grant: Grant | None = None


def judge_size(
    identity: Identity, spec: CommandSpec, argv: Argv, keys: Argv, sizes: Sizes | None, trace: Trace
) -> Decision:
    """Deny a call that makes a string too long, selects too much, or is too much work."""
    if selects_too_much(spec, argv):
        why, code, value = TOO_MANY_PATHS, ReplyCode.COMMAND_REFUSED, PATHS.encode()
        trace.append(ArgumentStep(Aspect.OPTION, value, why=why, code=code))
        return refused(code, command=spec.name.encode() + b" " + value)
    sent, is_echo = sum(map(len, argv[1:])), not (keys or spec.channel or spec.index)
    work = sent * (bounds.ECHO_BYTE_WORK if is_echo else bounds.BYTE_WORK)
    work = work if sent > bounds.PLAIN_BYTES else 0.0
    how = spec.lengthens and spec.lengthens.how
    for key, length in _lengths(spec, argv, keys, sizes):
        grant = bounding_grant(identity, key)
        bound = value_bound(grant)
        if how in ELEMENTS:
            if grant:
                continue  # `judge_values` checks them
            bound = bounds.DEFAULT_ELEMENT_BYTES
        if how is Lengthening.NAMES:
            grant, bound = None, identity.key_bytes
        if length > bound:
            code = ReplyCode.VALUE_TOO_LARGE
            trace.append(SizeStep("bytes", length, bound, key, grant, code=code))
            return refused(code, key=key, bytes=_shown(length), limit=bound)
        if how in _FILLS and length > bounds.PLAIN_BYTES:
            work += max(0, length - (sizes.length(key) if sizes else 0)) * bounds.BYTE_WORK
    if sizes is not None and spec.work is not None:
        work += sizes.work(spec, argv, keys, identity.work - work, identity.string_units)
    if work <= identity.work:
        return ALLOWED
    return refused_work(work, identity, spec, trace)


def refused_work(work: float, identity: Identity, spec: CommandSpec, trace: Trace) -> Decision:
    """Return the denial of a call that is too much work."""
    code = ReplyCode.WORK_TOO_LARGE
    trace.append(SizeStep("work", work, identity.work, code=code))
    return refused(code, command=spec.name, work=_shown(work), limit=identity.work)


def selects_too_much(spec: CommandSpec, argv: Argv) -> bool:
    """Return whether what the JSON paths of a call select may multiply, or grow deep."""
    if spec.work is None or spec.work.bound is not Bound.PATHS:
        return False
    step = {"JSON.GET": 1, "JSON.MSET": 3}.get(spec.name, len(argv))
    at = max(2, len(argv) - 1) if spec.name == "JSON.MGET" else spec.work.place
    while at < len(argv):
        path, value = argv[at], b""
        if spec.work.join is Join.PRODUCT:
            value = b"".join(argv[at + 1 : at + max(2, step - 1)])
        is_deep = b".." in path and re.search(rb"[\[{]", value)
        is_spread = re.search(rb"\.\.|[*?:,]", path) and len(value) > bounds.SPREAD_BYTES
        counts = ((len(re.findall(part, path)), most) for part, most in _MOST_OF_PATHS)
        if is_deep or is_spread or any(count > most for count, most in counts):
            return True
        at += step
    return False


def bounding_grant(identity: Identity, key: bytes) -> Grant | None:
    """Return the grant with the smallest bound on strings under *key*; None if none has one."""
    bounding = (
        grant
        for grant in identity.grants
        if grant.values.max_bytes is not None and any(matches(item, key) for item in grant.keys)
    )
    return min(bounding, key=value_bound, default=None)


def value_bound(grant: Grant | None) -> int:
    """Return the length in bytes that one call may give a string, as *grant* bounds it."""
    return (grant and grant.values.max_bytes) or bounds.DEFAULT_VALUE_BYTES


def _shown(number: float) -> int:
    return math.ceil(min(number, _LARGEST))


def _lengths(
    spec: CommandSpec, argv: Argv, keys: Argv, sizes: Sizes | None
) -> Iterator[tuple[bytes, float]]:
    """Yield keys, and the length that the call gives each string."""
    if spec.lengthens is None or not keys:
        return
    at = spec.lengthens.place
    words = [*argv[at:], b"", b""]

    def length(key: bytes) -> int:
        return 0 if sizes is None else sizes.length(key)

    match spec.lengthens.how:
        case Lengthening.ARGUMENT:
            yield keys[0], len(words[0])
        case Lengthening.PAIRS:
            yield from zip(keys, map(len, argv[at::2]), strict=False)
        case Lengthening.APPEND:
            yield keys[0], length(keys[0]) + len(words[0])
        case Lengthening.RANGE:
            yield keys[0], _number(words[0]) + len(words[1])
        case Lengthening.BIT:
            yield keys[0], _number(words[0]) // 8 + 1
        case Lengthening.FIELDS:
            yield keys[0], math.ceil(_last_bit(argv[at:]) / 8)
        case Lengthening.LONGEST:
            yield keys[0], max(map(length, keys[1:]), default=0)
        case Lengthening.COPY:
            yield keys[-1], length(keys[0])
        case Lengthening.ELEMENTS | Lengthening.NAMES:
            yield keys[0], max(map(len, argv[at:]), default=0)
        case Lengthening.ENTRY:
            yield keys[0], sum(map(len, argv[at:]))


def _number(word: bytes) -> int:
    return int(word) if _INTEGER.fullmatch(word) else 0


def _last_bit(operations: Argv) -> int:
    """Return where the last integer ends that a BITFIELD may set, in bits."""
    last, at = 0, 0
    while at < len(operations):
        words = [*operations[at : at + 3], b"", b""]
        is_other = is_option(words[0], "OVERFLOW"), is_option(words[0], "GET")
        width = re.match(rb"[A-Za-z](\d+)", words[1])
        offset = re.match(rb"(#?)(\d+)", words[2])
        if offset and not any(is_other):
            bits = int(width[1]) if width else 0
            last = max(last, int(offset[2]) * (bits if offset[1] else 1) + bits)
        at += 2 if is_other[0] else 3 if is_other[1] else 4
    return last
