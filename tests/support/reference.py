"""
What a guard decides, as a small model in Python, written from the design and not from the Lua.

One order, always: command and class → declared keys → deny and grants per key → limits.
All limits are looked at before any is taken, so a refused call changes nothing.

    state = ModelState()
    decision = decide(identity, table, [b"GET", b"a:1"], [b"a:1"], state, now_us)
    assert decision.allowed
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from keyleash.commands import CommandSpec, CommandTable, OperationClass, keys_of
from keyleash.commands.keys import is_option
from keyleash.errors import ReplyCode
from keyleash.policy import (
    SECOND_US,
    AnySuffix,
    Budget,
    Capture,
    Counter,
    Grant,
    Identity,
    Limit,
    Literal,
    Pattern,
    Period,
    Rate,
    SubjectKind,
)

CONTROL_PREFIX = b"keyleash:"
MAX_ARGUMENTS = 7_000
SHOWN_BYTES = 128
"""How much of a value a refusal repeats."""

Argv = Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed, or refused with a code and details; never true or false by itself."""

    code: ReplyCode | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> bool:
        return self.code is None

    def __bool__(self) -> bool:
        raise TypeError("a decision is neither true nor false; ask for `.allowed`")


ALLOWED = Decision()


def refused(code: ReplyCode, **details: bytes | str | int) -> Decision:
    """A refusal; `class_` stands for the detail that Python cannot name."""
    return Decision(code, {name.rstrip("_"): _shown(value) for name, value in details.items()})


def _shown(value: bytes | str | int) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return raw[:SHOWN_BYTES].decode("utf-8", "surrogateescape")


def decide(
    identity: Identity,
    table: CommandTable,
    argv: Argv,
    declared: Argv,
    state: ModelState,
    now_us: int,
    token_id: str = "",
) -> Decision:
    """
    Say what the guard of *identity* must do with a call of a live token.

    Args:
        identity: Whose rules hold.
        table: The commands.
        argv: The command, name first.
        declared: The keys that the caller declares.
        state: What the limits have counted; an allowed call is counted in it.
        now_us: The server's clock.
        token_id: Whose calls a limit `per: token` counts.
    """
    if len(argv) > MAX_ARGUMENTS:
        return refused(ReplyCode.ARGS_TOO_MANY, arguments=len(argv))
    name = argv[0] if argv else b""
    spec = named(table, argv)
    if splits(identity, table, name.decode("latin-1")):
        name += b" " + b"".join(argv[1:2]).upper()
    if spec is None or spec.refused is not None:
        return refused(ReplyCode.COMMAND_REFUSED, command=name)
    grants = [grant for grant in identity.grants if lets_through(grant, spec)]
    if not grants:
        return refused(ReplyCode.COMMAND_REFUSED, command=name)
    for needed in needs_of_call(spec, argv):
        if stores(spec, argv) and needed is OperationClass.WRITE:
            # Asked of that key alone, when it is known.
            continue
        if not any(needed in grant.allow for grant in grants):
            return refused(ReplyCode.CLASS_NOT_GRANTED, class_=needed, command=name)
    verdict = judge_arguments(spec, argv, grants)
    if not verdict.allowed:
        return verdict
    uses = keys_of(spec, argv)
    if [use.key for use in uses] != list(declared):
        return refused(ReplyCode.KEYS_MISMATCH)
    for use in uses:
        verdict = judge_key(identity, grants, use.key, use.needs, name)
        if not verdict.allowed:
            return verdict
    keys = [use.key for use in uses]
    return take_limits(identity, needs_of_call(spec, argv), keys, state, now_us, token_id)


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


def named(table: CommandTable, argv: Argv) -> CommandSpec | None:
    """The row of a call whose command is in upper case; a sub-command may be in any."""
    name = argv[0].decode("latin-1") if argv else ""
    if name in table.containers and len(argv) > 1:
        name = f"{name} {argv[1].decode('latin-1').upper()}"
    elif " " in name:
        # As one word on the wire it is no command's name.
        return None
    return table.get(name)


def splits(identity: Identity, table: CommandTable, container: str) -> bool:
    """Whether a refusal names the sub-command too: the guard knows some of the container's."""
    return any(
        spec.refused is None and any(lets_through(grant, spec) for grant in identity.grants)
        for spec in table
        if spec.name.startswith(container + " ")
    )


def lets_through(grant: Grant, spec: CommandSpec) -> bool:
    """Whether `only` and `except` of a grant leave it in force for a command."""
    names = {spec.name, spec.name.split(" ")[0], *spec.categories}
    return (grant.only is None or bool(names & {*grant.only})) and not names & {*grant.except_}


def needs_of_call(spec: CommandSpec, argv: Argv) -> tuple[OperationClass, ...]:
    """The classes that the call needs on one key or another."""
    if spec.name == "BITFIELD" and only_gets(argv):
        return (OperationClass.READ,)
    needs = {*spec.needs}
    if spec.name == "SET" and any(is_option(word, "GET") for word in argv[3:]):
        needs.add(OperationClass.READ)
    if stores(spec, argv):
        needs.add(OperationClass.WRITE)
    return tuple(one for one in OperationClass if one in needs)


def stores(spec: CommandSpec, argv: Argv) -> bool:
    """Whether a command that reads also stores what it found, by its last option that says so."""
    starts = {"SORT": 2, "GEORADIUS": 6, "GEORADIUSBYMEMBER": 5}
    words = ["STORE"] if spec.name == "SORT" else ["STORE", "STOREDIST"]
    rest = argv[starts.get(spec.name, len(argv)) : -1]
    return any(is_option(one, word) for one in rest for word in words)


def only_gets(argv: Argv) -> bool:
    """Whether a BITFIELD only reads."""
    at = 2
    while at < len(argv):
        words = len(argv) - at
        if is_option(argv[at], "GET") and words > 2:
            at += 3
        elif is_option(argv[at], "OVERFLOW") and words > 1:
            at += 2
        else:
            return False
    return True


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
    start = re.match(rb"[^*?\[\\]*", glob)
    assert start is not None
    for grant in grants:
        for pattern in grant.keys if OperationClass.SCAN in grant.allow else ():
            first = pattern.parts[0]
            literal = first.text if isinstance(first, Literal) else b""
            if (
                glob == literal
                if len(pattern.parts) == 1 and literal
                else start[0].startswith(literal)
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


def judge_key(
    identity: Identity,
    grants: Sequence[Grant],
    key: bytes,
    needs: Sequence[OperationClass],
    command: bytes,
) -> Decision:
    """Deny rules first, then one class after the other; *grants* are those for the command."""
    if key.startswith(CONTROL_PREFIX) or any(
        matches(pattern, key) for deny in identity.deny for pattern in deny.keys
    ):
        return refused(ReplyCode.KEY_DENIED, key=key)
    matching = [grant for grant in grants if any(matches(one, key) for one in grant.keys)]
    if not matching:
        return refused(ReplyCode.KEY_NOT_GRANTED, key=key)
    for needed in needs:
        if not any(needed in grant.allow for grant in matching):
            return refused(ReplyCode.CLASS_NOT_GRANTED, class_=needed, command=command, key=key)
    return ALLOWED


def matches(pattern: Pattern, key: bytes) -> bool:
    return captured(pattern, key) is not None


def captured(pattern: Pattern, key: bytes) -> dict[str, bytes] | None:
    """What the captures of *pattern* hold, or None if *key* does not match."""
    found = _expression(pattern).fullmatch(key)
    return None if found is None else found.groupdict()


@cache
def _expression(pattern: Pattern) -> re.Pattern[bytes]:
    pieces = []
    for part in pattern.parts:
        match part:
            case Literal(text):
                pieces.append(re.escape(text))
            case Capture(name):
                pieces.append(b"(?P<%s>[^:]+)" % name.encode())
            case AnySuffix():
                pieces.append(b".*")
    return re.compile(b"".join(pieces), re.DOTALL)


# Limits.


class RingCount:
    """A plain rate: the call `limit` calls ago must be a whole period old."""

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.calls_us: deque[int] = deque(maxlen=limit.limit)
        self.expires_ms = 0

    def free_us(self, now_us: int) -> int:
        if len(self.calls_us) < self.limit.limit:
            return now_us
        return self.calls_us[0] + self.limit.period_us

    def take(self, now_us: int) -> None:
        self.calls_us.append(now_us)
        self.expires_ms = now_us // 1000 + self.limit.period_us // 1000


class GcraCount:
    """A rate with a burst: each call costs an interval; `burst` may be owed at once."""

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.interval_us = -(-limit.period_us // limit.limit)
        self.tolerance_us = ((limit.burst or 1) - 1) * self.interval_us
        self.tat_us = 0
        self.expires_ms = 0

    def free_us(self, now_us: int) -> int:
        return max(self.tat_us, now_us) - self.tolerance_us

    def take(self, now_us: int) -> None:
        self.tat_us = max(self.tat_us, now_us) + self.interval_us
        self.expires_ms = now_us // 1000 - (now_us - self.tat_us) // 1000


class BudgetCount:
    """So many calls until the calendar window ends; a clock that goes back opens no new one."""

    def __init__(self, limit: Budget) -> None:
        self.limit = limit
        self.ends_us = 0
        self.used = 0
        self.expires_ms = 0

    def free_us(self, now_us: int) -> int:
        if now_us >= self.ends_us or self.used < self.limit.limit:
            return now_us
        return self.ends_us

    def take(self, now_us: int) -> None:
        if now_us >= self.ends_us:
            self.ends_us = window_end_us(self.limit.period, self.limit.timezone, now_us)
            self.used = 0
        self.used += 1
        self.expires_ms = now_us // 1000 - (now_us - self.ends_us) // 1000


Count = RingCount | GcraCount | BudgetCount


def new_count(limit: Limit) -> Count:
    match limit:
        case Budget():
            return BudgetCount(limit)
        case Rate(burst=None):
            return RingCount(limit)
        case Rate():
            return GcraCount(limit)


def moved_count(old: Count, limit: Limit, now_us: int, *, known: bool) -> Count:
    """
    What *old* has counted, as a reload hands it to a limit of the same name.

    *known*: whether the old limit's period and time zone are, as they are for those of
    the identity itself; a record of a token or a segment does not hold them.
    """
    new = new_count(limit)
    new.expires_ms = old.expires_ms
    match old, new:
        case BudgetCount(), BudgetCount():
            # The window that is open ends when the new calendar says so.
            if now_us < old.ends_us:
                new.used = old.used
                new.ends_us = window_end_us(new.limit.period, new.limit.timezone, now_us)
                calendars = {(one.limit.period, one.limit.timezone) for one in (old, new)}
                if known and len(calendars) == 1:
                    # A clock that went back must not open a window again.
                    new.ends_us = max(new.ends_us, old.ends_us)
                new.expires_ms = now_us // 1000 - (now_us - new.ends_us) // 1000
        case RingCount(), RingCount():
            new.calls_us.extend(old.calls_us)
        case RingCount(), GcraCount():
            for at_us in old.calls_us:
                new.take(at_us)
            new.expires_ms = old.expires_ms
        case GcraCount(), GcraCount():
            # So many calls are owed as were, at the new price.
            owed = max(old.tat_us - now_us, 0) / old.interval_us
            new.tat_us = min(old.tat_us, now_us) + math.ceil(owed * new.interval_us)
        case GcraCount(), RingCount():
            # The most that it may have let through: evenly, up to where it is free again.
            periods = (new.limit.period_us, old.limit.period_us if known else math.inf)
            since_us = now_us - min(periods)
            at_us, made = old.tat_us, deque[int]()
            while at_us > since_us and len(made) < new.limit.limit:
                at_us -= old.interval_us
                made.appendleft(min(at_us, now_us))
            new.calls_us.extend(made)
    match new:
        case RingCount():
            new.expires_ms = now_us // 1000 + new.limit.period_us // 1000
        case GcraCount() if new.tat_us > now_us:
            new.expires_ms = now_us // 1000 - (now_us - new.tat_us) // 1000
    return new


def continued_count(old: Count, limit: Limit) -> Count:
    """The same numbers under a limit that differs in what it allows, not in how it counts."""
    new = new_count(limit)
    for name in vars(old).keys() & {"calls_us", "tat_us", "ends_us", "used", "expires_ms"}:
        setattr(new, name, getattr(old, name))
    return new


def way(limit: Limit) -> tuple[object, ...]:
    """What makes one limit count unlike another of its name, its number or burst aside."""
    match limit:
        case Budget():
            return (limit.period,)
        case Rate(burst=None):
            return limit.limit, limit.period_us
        case Rate():
            return 0, -(-limit.period_us // limit.limit)


@dataclass(slots=True)
class ModelState:
    """
    What was counted, by limit and subject.

    A reload moves what the identity itself has counted. Counters of a token or a
    segment are moved when they are next seen, if they have not expired by then.
    """

    counts: dict[tuple[str, bytes], Count] = field(default_factory=dict)

    def count(self, limit: Limit, subject: bytes, now_us: int) -> Count:
        found = self.counts.get((limit.name, subject))
        if found is None or (subject and found.expires_ms < now_us // 1000):
            found = new_count(limit)
        elif way(found.limit) != way(limit):
            found = moved_count(found, limit, now_us, known=False)
        elif found.limit != limit:
            found = continued_count(found, limit)
        self.counts[limit.name, subject] = found
        return found

    def reload(self, identity: Identity, now_us: int) -> None:
        """Another policy, in which *identity* has changed, became the active one."""
        shared = {
            limit.name: limit
            for limit in identity.limits
            if limit.subject.kind is SubjectKind.IDENTITY
        }
        for name, subject in [*self.counts]:
            if not subject and name in shared:
                old = self.counts[name, subject]
                self.counts[name, subject] = moved_count(old, shared[name], now_us, known=True)
            elif not subject:
                del self.counts[name, subject]


def take_limits(
    identity: Identity,
    needs: Sequence[OperationClass],
    keys: Sequence[bytes],
    state: ModelState,
    now_us: int,
    token_id: str,
) -> Decision:
    """Look at one limit after the other, then take all or none."""
    looked_at = []
    for limit in identity.limits:
        if not counts_towards(limit.counter, needs):
            continue
        for subject in subjects(identity, limit, keys, token_id):
            count = state.count(limit, subject, now_us)
            free_us = count.free_us(now_us)
            if free_us > now_us:
                return over_the_limit(limit, free_us, now_us)
            looked_at.append(count)
    for count in looked_at:
        count.take(now_us)
    return ALLOWED


def over_the_limit(limit: Limit, free_us: int, now_us: int) -> Decision:
    """Times are given in whole milliseconds, rounded up."""
    if isinstance(limit, Budget):
        resets_at_ms = -(-free_us // 1000)
        return refused(ReplyCode.BUDGET_EXHAUSTED, limit=limit.name, resets_at_ms=resets_at_ms)
    retry_after_ms = -(-(free_us - now_us) // 1000)
    return refused(ReplyCode.RATE_LIMITED, limit=limit.name, retry_after_ms=retry_after_ms)


def counts_towards(counter: Counter, needs: Sequence[OperationClass]) -> bool:
    classes = {
        Counter.READS: OperationClass.READ,
        Counter.WRITES: OperationClass.WRITE,
        Counter.DELETES: OperationClass.DELETE,
    }
    return counter is Counter.REQUESTS or classes[counter] in needs


def subjects(
    identity: Identity, limit: Limit, keys: Sequence[bytes], token_id: str
) -> Iterator[bytes]:
    """Whose counters a call moves, each once."""
    match limit.subject.kind:
        case SubjectKind.IDENTITY:
            yield b""
        case SubjectKind.TOKEN:
            yield token_id.encode()
        case SubjectKind.CAPTURE:
            name = limit.subject.capture
            assert name is not None
            segments = (segment(identity, name, key) for key in keys)
            yield from dict.fromkeys(one for one in segments if one is not None)


def segment(identity: Identity, name: str, key: bytes) -> bytes | None:
    """What the first granted pattern that has the capture and matches the key captures."""
    for grant in identity.grants:
        for pattern in grant.keys:
            found = captured(pattern, key) if name in pattern.captures else None
            if found is not None:
                return found[name]
    return None


# The calendar, asked of zoneinfo one instant at a time.


def window_end_us(period: Period, timezone: str, now_us: int) -> int:
    """The end of the calendar window that *now_us* is in."""
    zone = ZoneInfo(timezone)
    now_s = now_us // SECOND_US
    match period:
        case Period.DAY:
            return SECOND_US * _first_s(zone, now_s, _day)
        case Period.MONTH:
            return SECOND_US * _first_s(zone, now_s, _month)
        case Period.HOUR:
            return SECOND_US * _clock_reaches_s(zone, now_s, 3600)
        case Period.MINUTE:
            return SECOND_US * _clock_reaches_s(zone, now_s, 60)


def _day(local: datetime) -> date:
    return local.date()


def _month(local: datetime) -> date:
    return local.date().replace(day=1)


def _first_s(zone: ZoneInfo, now_s: int, label: Callable[[datetime], date]) -> int:
    """The first second at which the local day, or month, is a later one than now."""
    now = label(datetime.fromtimestamp(now_s, zone))
    before, after = now_s, now_s + 33 * 86_400
    while after - before > 1:
        middle = (before + after) // 2
        if label(datetime.fromtimestamp(middle, zone)) > now:
            after = middle
        else:
            before = middle
    return after


def _clock_reaches_s(zone: ZoneInfo, now_s: int, step_s: int) -> int:
    """The next second at which the clock on the wall comes to a multiple of *step_s*."""
    offset_s = _offset_s(zone, now_s)
    at_s = now_s + step_s - (now_s + offset_s) % step_s
    if _offset_s(zone, at_s - 1) == offset_s:
        return at_s
    at_s = now_s
    while True:
        offset_s = _offset_s(zone, at_s)
        at_s += 1
        # By the time of before a change or by that of after it: both may be a full hour.
        if (at_s + offset_s) % step_s == 0 or (at_s + _offset_s(zone, at_s)) % step_s == 0:
            return at_s


def _offset_s(zone: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, zone).utcoffset()
    return int((offset or timedelta()).total_seconds())


def instant_us(text: str) -> int:
    """An ISO instant in UTC as microseconds, for tests."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_US
