"""The data commands and keys of an ACL user: those that its guard may run, and no others.

Commands that need the same permissions on the same keys share a selector, because servers try all
selectors for every command that a guard runs. ACLs know only reading and writing: where a policy
gives `write` and `delete` on different keys, a command that needs both is allowed on all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import permutations, product

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.facts import MODULE_KEYS, SUBSCRIPTIONS, UNFLAGGED_NEEDS
from keyleash.commands.spec import Bound, Waits
from keyleash.commands.work import ANY_SIZE, READS, SIZE_BY_TYPE, WORK
from keyleash.commands.writes import READ_FORMS, Writes, written_by
from keyleash.compiler.ir import Governing, Guard
from keyleash.fence.acl import Selector, channel_rules, key_rules
from keyleash.policy.keysets import covers
from keyleash.policy.model import Grant, Pattern
from keyleash.policy.patterns import is_open

READ = OperationClass.READ
WRITING = frozenset({OperationClass.WRITE, OperationClass.DELETE})

Patterns = tuple[Pattern, ...]
"""In the order of the policy, which servers preserve: the first match ends their search."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The keys and channels that a command may use.

    Attributes:
        read, write, channels: Patterns that it may read, change and use as channels; None if it
            does not.
    """

    read: Patterns | None = None
    write: Patterns | None = None
    channels: Patterns | None = None

    def joined(self, other: Reach) -> Reach | None:
        """Return one reach for both commands, or None if one would get more than it needs."""
        pairs = (
            (self.read, other.read), (self.write, other.write), (self.channels, other.channels),
        )  # fmt: skip
        if any(item is not None and two is not None and {*item} != {*two} for item, two in pairs):
            return None
        return Reach(*(two if item is None else item for item, two in pairs))


REREAD: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("INCR", "INCRBY", "DECR", "DECRBY"), ("GET",)),
    "HINCRBY": ("HGET",),
}
"""Commands that a guard runs after these, to read replies that exceed a Lua number."""

BEFORE_BLOCKING: Mapping[Waits, tuple[str, ...]] = {
    Waits.ANY_KEY: ("EXISTS",),
    Waits.FIRST_KEY: ("EXISTS",),
    Waits.BLOCK: ("XINFO GROUPS", "XINFO CONSUMERS", "XPENDING", "XRANGE"),
}
"""Commands that it runs before a command that would block."""

READ_IMAGES = (
    "TYPE", "GETRANGE", "STRLEN", "GET", "DUMP", "MEMORY USAGE", "PEXPIRETIME", "HGETALL",
    "SMEMBERS", "ZRANGE", "HPEXPIRETIME", "HLEN", "SCARD", "ZCARD",
)  # fmt: skip
"""Commands that it runs on keys whose before-images it stores."""

SIZE_OF_VALUE = tuple(dict.fromkeys(("TYPE", *SIZE_BY_TYPE.values())))
"""Commands with which it reads the size of a key of any type, also under rules for values."""

READ_SIZES: Mapping[str, tuple[str, ...]] = {
    **{
        name: SIZE_OF_VALUE if work.size == ANY_SIZE else (work.size,)
        for name, work in WORK.items()
        if work.size is not None
    },
    **dict.fromkeys(("APPEND", "BITOP", *READS), ("STRLEN",)),
    **dict.fromkeys(("HMGET", "HGETEX", "HGETDEL"), ("HSTRLEN",)),
}
"""Commands with which it reads the sizes of keys, by the command of the agent."""

MEASURES = frozenset(
    name
    for name, work in WORK.items()
    if work.size is not None or work.bound in (Bound.PATHS, Bound.SAMPLES)
)
"""Commands before which it may read the memory usage of keys."""

COUNTS: Mapping[str, tuple[str, ...]] = {
    name: ("ZLEXCOUNT", "ZCOUNT")
    for name, work in WORK.items()
    if work.bound is Bound.RANGE and work.size == "ZCARD"
}
"""Commands with which it counts the elements in a range, by the command of the agent."""

INSPECT: Mapping[str, tuple[str, ...]] = {
    # Only for a user with rights on all keys: others are denied patterns.
    **dict.fromkeys(("SORT", "SORT_RO"), ("HSTRLEN",)),
    "XCLAIM": ("XRANGE",),
    **dict.fromkeys(("XRANGE", "XREVRANGE"), ("XRANGE", "XREVRANGE")),
    "XREAD": ("XRANGE",),
    **dict.fromkeys(("TS.RANGE", "TS.REVRANGE"), ("TS.INFO",)),
    "XREADGROUP": ("XINFO STREAM", "XINFO GROUPS", "XRANGE"),
    **dict.fromkeys(
        ("XPENDING", "XINFO CONSUMERS", "XINFO GROUPS"), ("XINFO STREAM", "XINFO GROUPS")
    ),
}
"""Commands that it runs on readable keys if the size is not sufficient."""

MEASURE_VALUES: Mapping[Writes, tuple[str, ...]] = {
    Writes.FLOAT: ("STRLEN",),
    Writes.SET: ("SISMEMBER",),
    **dict.fromkeys((Writes.PAIRS, Writes.FIELDS, Writes.FIELD_NUMBER), ("HEXISTS",)),
    Writes.FIELD_FLOAT: ("HEXISTS", "HSTRLEN"),
    **dict.fromkeys((Writes.RESULT, Writes.WHOLE, Writes.PAYLOAD), ("MEMORY USAGE",)),
}
"""Commands with which it checks values, by what the command of the agent writes."""

READ_VALUES: Mapping[Writes, tuple[str, ...]] = {
    Writes.FLOAT: ("GET",),
    Writes.FIELD_FLOAT: ("HGET",),
    **dict.fromkeys((Writes.SCORES, Writes.PLACES, Writes.MEMBER), ("ZSCORE",)),
    Writes.MOVED: ("LINDEX",),
    Writes.RESULT: tuple(READ_FORMS.values()),
    Writes.WHOLE: ("LRANGE", "SMEMBERS", "HGETALL", "ZRANGE", "XRANGE"),
}
"""Commands that it runs on readable keys for the same; without them, it counts all as new."""

READ_INDEX = "FT.INFO"
"""The command with which it reads the prefixes of an index."""

UNSUBSCRIBE: Mapping[str, str] = {
    name: name.replace("SUBSCRIBE", "UNSUBSCRIBE") for name in SUBSCRIPTIONS
}
"""Commands that a client runs in addition to these."""

HELPERS = frozenset(
    {*READ_IMAGES}.union(
        *REREAD.values(),
        *BEFORE_BLOCKING.values(),
        *READ_SIZES.values(),
        *COUNTS.values(),
        *INSPECT.values(),
        *MEASURE_VALUES.values(),
        *READ_VALUES.values(),
        SIZE_OF_VALUE,
        ("PTTL", "PEXPIRE", READ_INDEX),
        UNSUBSCRIBE.values(),
    )
)
"""All helper commands; every other command on data is the agent's."""


def data_selectors(
    guard: Guard, left_out: Collection[str], helpers: Collection[str]
) -> tuple[Selector, ...]:
    """Return the selectors of an identity's data.

    Args:
        left_out: Commands to leave out, in upper case.
        helpers: The `HELPERS` that the server has.

    Raises:
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
    """
    groups: list[tuple[Reach, list[str]]] = []
    for name, reach in _granted(guard, left_out, helpers):
        for place, (known, names) in enumerate(groups):
            joined = known.joined(reach)
            if joined is not None:
                groups[place] = (joined, names)
                if name not in names:
                    names.append(name)
                break
        else:
            groups.append((reach, [name]))
    return tuple(
        Selector(
            tuple(sorted(name.lower().replace(" ", "|") for name in names)),
            key_rules(reach.read or (), reach.write or ()),
            channel_rules(reach.channels or ()),
        )
        for reach, names in groups
    )


def _granted(
    guard: Guard, left_out: Collection[str], helpers: Collection[str]
) -> list[tuple[str, Reach]]:
    """Return every command of the user and its reach, the most specific first."""
    usages = list(_usages(guard, left_out))
    needed = [item for spec, grants in usages for item in _helpers_of(spec, grants)]
    needed += [item for spec, grants in usages for item in _helpers_of_values(guard, spec, grants)]
    if imaged := imaged_patterns(guard):
        needed += [(name, Reach(read=imaged)) for name in READ_IMAGES]
    found = [(spec.name, _reach(spec, grants)) for spec, grants in usages]
    found += [item for item in needed if item[0] in helpers]
    if found:
        # Clients watch keys themselves.
        found.append(("WATCH", _any_reach(guard.identity.grants)))

    def unspecified(entry: tuple[str, Reach]) -> tuple[int, str]:
        reach = entry[1]
        return [reach.read, reach.write, reach.channels].count(None), entry[0]

    # A command that only reads then joins the selector of one that reads the same and writes.
    return sorted(found, key=unspecified)


def _usages(guard: Guard, left_out: Collection[str]) -> Iterator[tuple[CommandSpec, list[Grant]]]:
    """Yield each command that uses keys or channels, and the grants that allow it."""
    for usage in guard.usages:
        spec = usage.spec
        grants = [guard.identity.grants[i] for i in usage.admitting or usage.grants]
        is_named = spec.channel is not None or spec.index is not None
        if spec.name in left_out or spec.scans or not (spec.keys or is_named):
            continue
        given = {cls for grant in grants for cls in grant.allow}
        # A variant of the command may need less: BITFIELD … GET.
        has_variant = spec.variant is not None and given.issuperset(spec.variant.needs)
        if usage.missing is None or has_variant:
            yield spec, grants


def _helpers_of(spec: CommandSpec, grants: Sequence[Grant]) -> Iterator[tuple[str, Reach]]:
    """Yield the commands that a guard or a client runs in addition to a command."""
    if spec.index is not None:
        yield READ_INDEX, _reach(spec, grants)
    if spec.name in ("FT.SEARCH", "FT.AGGREGATE"):
        yield "FT.SEARCH", _reach(spec, grants)
        opens = tuple(filter(is_open, patterns_for(grants, {READ})))
        yield from ((helper, Reach(read=opens)) for helper in ("HLEN", "MEMORY USAGE"))
    if spec.subscribes:
        yield UNSUBSCRIBE[spec.name], _reach(spec, grants)
    of_module = spec.name in MODULE_KEYS
    readable = _reach(spec, grants) if of_module else Reach(read=patterns_for(grants, {READ}))
    before = BEFORE_BLOCKING[spec.waits] if spec.waits else ()
    for helper in (*REREAD.get(spec.name, ()), *before, *INSPECT.get(spec.name, ())):
        # Any permission on a key includes whether it exists.
        yield helper, _any_reach(grants) if helper == "EXISTS" else readable
    measuring = ("MEMORY USAGE",) if spec.name in MEASURES else ()
    for helper in (*READ_SIZES.get(spec.name, ()), *COUNTS.get(spec.name, ()), *measuring):
        # The user thereby learns the size of keys that it may write and not read.
        yield helper, Reach(read=patterns_for(grants, {READ, *WRITING}))


def _helpers_of_values(
    guard: Guard, spec: CommandSpec, grants: Sequence[Grant]
) -> Iterator[tuple[str, Reach]]:
    """Yield the commands that a guard runs to check rules for values."""
    kinds, written = Governing.of(guard.value_plans), written_by(spec)
    if written is None or not kinds.governs(spec):
        return
    measured = Reach(read=patterns_for(grants, {READ, *WRITING}))
    for helper in (*SIZE_OF_VALUE, *MEASURE_VALUES.get(written.how, ())):
        yield helper, measured
    for helper in READ_VALUES.get(written.how, ()):
        yield helper, Reach(read=patterns_for(grants, {READ}))
    if kinds.ttl:
        yield "PTTL", measured
        yield "PEXPIRE", Reach(write=patterns_for(grants, WRITING))


def _reach(spec: CommandSpec, grants: Sequence[Grant]) -> Reach:
    if spec.channel is not None:
        giving = [grant for grant in grants if spec.channel_class in grant.allow]
        return Reach(channels=_distinct(channel for grant in giving for channel in grant.channels))
    if spec.index is not None:
        # Search before 8 checks the name as a key that is written, later ones the prefixes.
        giving = [grant for grant in grants if spec.index in grant.allow]
        names = _distinct(index for grant in giving for index in grant.indexes)
        opens = filter(is_open, patterns_for(grants, {READ}))
        return Reach(read=_distinct((*names, *opens)), write=names)
    needs = spec.possible_needs
    if not needs:
        return _any_reach(grants)
    if spec.name in MODULE_KEYS:
        # Servers want both permissions on the keys of modules.
        pattern_lists = [patterns_for(grants, {cls}) for cls in needs]
        return Reach(read=reduce(_both, pattern_lists), write=reduce(_both, pattern_lists))
    reach = Reach(
        read=patterns_for(grants, {READ}) if READ in needs else None,
        write=patterns_for(grants, WRITING & needs) if WRITING & needs else None,
    )
    if READ in UNFLAGGED_NEEDS.get(spec.name, ()):
        # The server does not know that it reads, so writing requires reading here.
        return replace(reach, write=_both(reach.read or (), reach.write or ()))
    return reach


def _any_reach(grants: Sequence[Grant]) -> Reach:
    return Reach(read=patterns_for(grants, {READ}), write=patterns_for(grants, WRITING))


def patterns_for(grants: Iterable[Grant], classes: Collection[OperationClass]) -> Patterns:
    """Return the key patterns of grants that allow one of *classes*."""
    return _distinct(
        pattern
        for grant in grants
        if not set(classes).isdisjoint(grant.allow)
        for pattern in grant.keys
    )


def _distinct(patterns: Iterable[Pattern]) -> Patterns:
    return tuple(dict.fromkeys(patterns))


def _both(first: Iterable[Pattern], second: Iterable[Pattern]) -> Patterns:
    return _distinct(
        narrow
        for pair in product(first, second)
        for narrow, wide in permutations(pair)
        if covers(wide, narrow)
    )


def imaged_patterns(guard: Guard) -> Patterns:
    """Return the patterns of keys whose before-images a guard may store."""
    if not any(usage.missing is None and usage.spec.mutates for usage in guard.usages):
        return ()
    default = guard.identity.audit.image_bytes
    return _distinct(
        pattern
        for grant in guard.identity.grants
        if not {READ, *WRITING}.isdisjoint(grant.allow)
        and (default if grant.image_bytes is None else grant.image_bytes)
        for pattern in grant.keys
    )
