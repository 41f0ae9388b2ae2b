"""Lint rules about names, grants and deny rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby, islice
from typing import Any

from keyleash.commands import CHANNEL_CLASSES, OperationClass, known_table
from keyleash.commands.facts import CONTROL_PREFIX, NAMED_ONLY, is_unchecked, why_unknown
from keyleash.limits import SECOND_US, Limit, Rate, SubjectKind
from keyleash.limits.calendar import PERIOD_US
from keyleash.policy.keysets import KeySet, Segment, Shape, covers, segments_of, shape_of
from keyleash.policy.lint.findings import Finding
from keyleash.policy.lua import RESP3, Sandboxed
from keyleash.policy.model import (
    AnySuffix,
    Grant,
    Identity,
    IdentityKind,
    Literal,
    Pattern,
    Policy,
    ValueRules,
    capture_in,
)
from keyleash.policy.problems import listing, quote, some


def bare_wildcard(identity: Identity) -> Iterator[Finding]:
    """Find each granted pattern `*`."""
    for grant in identity.grants:
        for thing, patterns in (("key", grant.keys), ("channel", grant.channels)):
            help = f"name the {thing}s of its job, such as `agents:jobs:*`;"
            help += f" grant all {thing}s to human identities only"
            for pattern in patterns:
                if pattern.parts == (AnySuffix(),):
                    yield Finding(f"a machine is granted every {thing}", pattern.span, help)


def control_keys(identity: Identity) -> Iterator[Finding]:
    """Find granted patterns of keyleash's own keys, which guards deny whatever the grants."""
    for pattern in (pattern for grant in identity.grants for pattern in grant.keys):
        first = pattern.parts[0]
        if isinstance(first, Literal) and first.text.startswith(CONTROL_PREFIX.encode()):
            message = f"keys that begin with `{CONTROL_PREFIX}` are denied to all tokens"
            yield Finding(message, pattern.span, "remove the pattern: they belong to keyleash")


def script_builds_keys(identity: Identity) -> Iterator[Finding]:
    """Find approved scripts that may put the name of a key together."""
    help = "check that grants have these keys, which callers do not declare"
    building = [script for script in identity.scripts if script.text.built_keys]
    for name, group in groupby(building, lambda script: script.name):
        first, *rest = scripts = [*group]
        places = [f"{line}:{column}" for line, column in first.text.built_keys]
        message = f"the script {quote(first.file)} puts names of keys together, at"
        message += f" {listing(places, 3)}"
        if rest:
            files = listing((script.file for script in scripts), 3)
            message = f"{len(scripts)} scripts of {quote(name)} put names of keys together: {files}"
        yield Finding(message, first.span, help)


def script_cannot_work(identity: Identity) -> Iterator[Finding]:
    """Find approved scripts whose calls fail whatever the grants."""
    for script in identity.scripts:
        if failing := failing_calls(script.text):
            yield Finding(
                f"the script {quote(script.file)} makes calls that fail: {some(failing, 3)}",
                script.span,
                "remove these calls from the script, do not approve it, or accept the finding if"
                " nothing calls it",
            )


def failing_calls(text: Sandboxed) -> list[str]:
    """Return the calls of a script that fail whatever the grants, each with its place and why."""
    return [
        f"{quote(name)} at {line}:{column} ({reason})"
        for name, line, column in text.places
        if (reason := _why_failing(name))
    ]


def _why_failing(call: str) -> str | None:
    """Return why a call of a script fails whatever the grants; None if it may work."""
    if call == RESP3:
        return "guards run scripts under RESP2"
    name = "SCAN" if call == "KEYS" else call
    specs = [spec for spec in known_table() if spec.name.partition(" ")[0] == name]
    if any(spec.refused is None for spec in specs):
        return None
    if not specs:
        # The server of the policy may have a module that the table lacks.
        return None if "." in call and not is_unchecked(call) else why_unknown(call)
    return specs[0].refused


def covered_grant(identity: Identity) -> Iterator[Finding]:
    """Find grants whose removal changes nothing that is allowed, counted or recorded."""
    counted = {
        limit.subject.capture
        for limit in identity.limits
        if limit.subject.kind is SubjectKind.CAPTURE
    }
    granted = {cls: _GrantedKeys(identity.grants, cls) for cls in OperationClass}
    removed: set[int] = set()
    # From the end, without those already found: of two identical grants, the first one stays.
    for number, grant in reversed([*enumerate(identity.grants)]):
        # Its bounds hold on its keys whichever grant allows a call; scripts are the identity's.
        has_bounds = grant.image_bytes is not None or grant.values != ValueRules()
        if has_bounds or grant.scripts or grant.indexes:
            continue

        @cache
        def may_cover(other: int, number: int = number, grant: Grant = grant) -> bool:
            is_left = other != number and other not in removed
            return is_left and _has_commands_of(identity.grants[other], grant)

        needed = [(cls, pattern) for cls in grant.allow for pattern in _patterns(grant, cls)]
        if not all(granted[cls].cover(pattern, counted, may_cover) for cls, pattern in needed):
            continue
        removed.add(number)
        # A grant without patterns is covered by any other one.
        candidates: Iterable[int] = range(len(identity.grants))
        for cls, pattern in needed[:1]:
            candidates = granted[cls].covering(pattern)
        alone = (
            identity.grants[other]
            for other in candidates
            if may_cover(other) and _covers_alone(identity.grants[other], needed)
        )
        yield _covered(grant, next(alone, None))


class _GrantedKeys:
    """The patterns that some grants give for a class, with the numbers of the grants."""

    def __init__(self, grants: Sequence[Grant], cls: OperationClass) -> None:
        numbered = [
            (number, pattern)
            for number, grant in enumerate(grants)
            if cls in grant.allow
            for pattern in _patterns(grant, cls)
        ]
        self._numbers = [number for number, _ in numbered]
        self._keys = KeySet(pattern for _, pattern in numbered)

    def covering(self, pattern: Pattern) -> Iterator[int]:
        """Return the grants with a pattern that covers *pattern*, in order."""
        return (self._numbers[place] for place in self._keys.covering(pattern))

    def cover(
        self, pattern: Pattern, counted: set[str | None], may_cover: Callable[[int], bool]
    ) -> bool:
        """Return whether the grants that *may_cover* give all keys of *pattern*."""
        # A limit counts by these captures, so a wider pattern must have them too.
        captures = counted.intersection(pattern.captures)
        return self._keys.covers(
            pattern,
            lambda place: (
                may_cover(self._numbers[place])
                and captures.issubset(self._keys.patterns[place].captures)
            ),
        )


def _patterns(grant: Grant, cls: OperationClass) -> tuple[Pattern, ...]:
    return grant.channels if cls in CHANNEL_CLASSES else grant.keys


def _has_commands_of(wide: Grant, narrow: Grant) -> bool:
    """Return whether *wide* applies to every command that *narrow* applies to."""
    if not set(wide.except_) <= set(narrow.except_):
        return False
    if wide.only is not None:
        return narrow.only is not None and set(narrow.only) <= set(wide.only)
    # Commands of modules, whose names have a dot, and some others must be named.
    return not any("." in name or name in NAMED_ONLY for name in narrow.only or ())


def _covers_alone(wide: Grant, needed: Iterable[tuple[OperationClass, Pattern]]) -> bool:
    return all(
        cls in wide.allow and any(covers(item, pattern) for item in _patterns(wide, cls))
        for cls, pattern in needed
    )


def _covered(grant: Grant, alone: Grant | None) -> Finding:
    if alone is None:
        by = "other grants together allow all of it"
    else:
        by = f"the grant on line {alone.span.line} covers it" if alone.span else "another covers it"
    pattern = next(iter((*grant.keys, *grant.channels)), None)
    subject = f"the grant on {quote(pattern.source)}" if pattern else "the grant"
    return Finding(f"{subject} adds nothing: {by}", grant.span, "remove it, or narrow the other")


def grants_restore(identity: Identity) -> Iterator[Finding]:
    """Find grants that allow RESTORE."""
    for grant in identity.grants:
        if grant.allows_restore:
            yield Finding(
                f"{quote(identity.name)} may RESTORE any payload, and a corrupt one can crash"
                " the server",
                grant.span,
                "remove `RESTORE` from `only`, or keep the server up to date with"
                " `sanitize-dump-payload yes` and accept this finding",
            )


def idle_deny(identity: Identity) -> Iterator[Finding]:
    """Find denied patterns that share no key with a granted one."""
    granted = KeySet(identity.granted_keys)
    for pattern in identity.denied_keys:
        if not granted.overlaps(pattern):
            yield Finding(
                f"no grant has a key in common with the denied pattern {quote(pattern.source)}",
                pattern.span,
                "correct its spelling, or remove it: what no grant allows is denied anyway",
            )


def index_prefix_open(identity: Identity) -> Iterator[Finding]:
    """Find readable patterns of an identity with indexes whose `*` starts within a segment."""
    reading = [grant for grant in identity.grants if OperationClass.READ in grant.allow]
    has_indexes = any(grant.indexes for grant in identity.grants)
    for pattern in (key for grant in reading if has_indexes for key in grant.keys):
        start = segments_of(pattern.parts)[0][-1].before
        if start and pattern.parts[-1] == AnySuffix():
            yield Finding(
                f"an index may have all keys of {quote(pattern.source)}, also of longer names",
                pattern.span,
                f"make the index with a prefix that ends with `:`, and grant"
                f" `{pattern.source[:-1]}:*`; or accept it if a library writes no `:`",
            )


def index_cannot_work(identity: Identity) -> Iterator[Finding]:
    """Find indexes of which every search is denied, whatever the server has."""
    reading = [grant for grant in identity.grants if OperationClass.READ in grant.allow]
    has_open = any(key.parts[-1] == AnySuffix() for grant in reading for key in grant.keys)
    for grant in identity.grants:
        for index in grant.indexes:
            captures = [name for _, value in index.where if (name := capture_in(value))]
            if not (index.where or has_open):
                message = "no readable pattern of keys ends with `*`, as a prefix needs"
                help = "add the keys of its documents to `keys` of a `read` grant"
            elif captures and not identity.token.bound:
                message = f"no token has a value for `{{{captures[0]}}}`, as bound tokens are off"
                help = "add `token: {bound: true}` to the identity"
            else:
                continue
            yield Finding(f"{quote(index.source)} cannot be searched: {message}", index.span, help)


Segments = tuple[Segment, ...]


def missing_delimiter(policy: Policy) -> Iterator[tuple[Identity, Finding]]:
    """Find patterns that lack a `:` of another one, or whose `*` matches longer names."""
    for thing in ("key", "channel"):
        places = list(_places(policy, thing))
        joined: dict[tuple[Segments, bool], Pattern] = {}
        names: dict[Segments, dict[bytes, Pattern]] = {}
        for _, pattern, segments, is_open in places:
            for place, name in enumerate(segments[:-1]):
                shorter = _joined(segments, is_open, place)
                if shorter is not None:
                    joined.setdefault((shorter, is_open), pattern)
                if name.after is None and name.before:
                    names.setdefault(segments[:place], {}).setdefault(name.before, pattern)
        for identity, pattern, segments, is_open in places:
            start = segments[-1].before
            longer = names.get(segments[:-1], {}) if is_open and start else {}
            matched = next((item for name, item in longer.items() if name.startswith(start)), None)
            if other := joined.get((segments, is_open)):
                message = f"differs from {_named(other)} only in a missing `:`"
                help = "write both the same way, or give one of them another name"
            elif matched:
                message = f"also matches names that begin like {_named(matched)}"
                help = f"end it at a `:`, as in `{pattern.source[:-1]}:*`"
            else:
                continue
            message = f"the {thing} pattern {quote(pattern.source)} {message}"
            yield identity, Finding(message, pattern.span, help)


def _places(policy: Policy, thing: str) -> Iterator[tuple[Identity, Pattern, Segments, bool]]:
    """Yield each pattern with its segments, without the names of captures."""
    for identity in policy.identities:
        for rule in (*identity.grants, *(identity.deny if thing == "key" else ())):
            for pattern in getattr(rule, f"{thing}s"):
                segments, is_open = segments_of(pattern.parts)
                unnamed = tuple(Segment(before, after) for before, after, _ in segments)
                yield identity, pattern, unnamed, is_open


def _named(pattern: Pattern) -> str:
    return quote(pattern.source) + (f" on line {pattern.span.line}" if pattern.span else "")


def _joined(segments: Segments, is_open: bool, place: int) -> Segments | None:
    """Return the segments without the `:` after *place*, if that makes a pattern."""
    first, second = segments[place : place + 2]
    if first.after is None:
        joined = Segment(first.before + second.before, second.after)
    elif second.after is None and not (is_open and place == len(segments) - 2):
        joined = Segment(first.before, first.after + second.before)
    else:
        return None
    return (*segments[:place], joined, *segments[place + 2 :])


WORDS = {
    IdentityKind.HUMAN: frozenset(
        {"human", "humans", "person", "people", "admin", "oncall", "staff", "interactive"}
    ),
    IdentityKind.MACHINE: frozenset(
        {"agent", "agents", "bot", "bots", "worker", "workers", "cron", "ci", "daemon", "machine"}
    ),
}
"""Words of a name that show its kind; ambiguous ones, such as `support`, are left out."""

MAX_PER_MINUTE = 600
MAX_PER_DAY = 100_000
"""More than a person at a prompt does, pasted scripts included."""

_DAY_US = 86_400 * SECOND_US


def mixed_duties(identity: Identity) -> Iterator[Finding]:
    """Find names with a word of the other kind, and limits of people that only machines need."""
    other = IdentityKind.HUMAN if identity.kind is IdentityKind.MACHINE else IdentityKind.MACHINE
    for word in islice(sorted(WORDS[other].intersection(identity.name.split("-"))), 1):
        yield Finding(
            f"the {identity.kind} identity {quote(identity.name)} is named after a {other}'s duty,"
            f" {quote(word)}",
            identity.span,
            "give machines and people an identity each, and name them after who acts",
        )
    if identity.kind is IdentityKind.MACHINE:
        return
    for limit in identity.limits:
        if _is_machine_paced(limit):
            yield Finding(
                f"`{limit.name}` gives the human identity {quote(identity.name)} a pace"
                " that no person needs",
                limit.span,
                "give what runs at such a pace a machine identity of its own, and write at most"
                f" {MAX_PER_MINUTE}/minute or {MAX_PER_DAY}/day here",
            )


def _is_machine_paced(limit: Limit) -> bool:
    if isinstance(limit, Rate):
        return limit.limit * 60 * SECOND_US > MAX_PER_MINUTE * limit.period_us
    return limit.limit * _DAY_US > MAX_PER_DAY * PERIOD_US[limit.period]


Commands = tuple[frozenset[str] | None, frozenset[str]]
Scope = tuple[frozenset[tuple[OperationClass, Commands, Shape]], frozenset[Shape], frozenset[Any]]


def same_scope(policy: Policy) -> Iterator[tuple[Identity, Finding]]:
    """Find identities whose grants and deny rules mean the same as those of an earlier one."""
    firsts: dict[tuple[str, Scope], Identity] = {}
    for identity in policy.identities:
        # A machine and a person may have the same scope, but must not share an identity.
        first = firsts.setdefault((identity.kind, _scope(identity)), identity)
        if first is not identity:
            where = f" on line {first.span.line}" if first.span else ""
            message = f"{quote(identity.name)} may do the same as {quote(first.name)}{where}"
            help = "give each only what its job needs, or merge the two"
            yield identity, Finding(message, identity.span, help)


def _scope(identity: Identity) -> Scope:
    """Return what is allowed, independent of grants' order and division and of capture names."""
    by_class: dict[tuple[OperationClass, Commands], list[Pattern]] = {}
    for grant in identity.grants:
        only = None if grant.only is None else frozenset(grant.only)
        for cls in grant.allow:
            patterns = by_class.setdefault((cls, (only, frozenset(grant.except_))), [])
            patterns += _patterns(grant, cls)
    denied = [*filter(KeySet(identity.granted_keys).overlaps, identity.denied_keys)]
    return (
        frozenset(
            (cls, commands, shape)
            for (cls, commands), patterns in by_class.items()
            for shape in _widest(patterns)
        ),
        frozenset(_widest(denied)),
        frozenset(
            (cls, index.where, shape_of(index))
            for grant in identity.grants
            for cls in grant.allow
            for index in grant.indexes
        ),
    )


def _widest(patterns: list[Pattern]) -> set[Shape]:
    """Return the shapes of the patterns that no other one covers."""
    distinct = {shape_of(pattern): pattern for pattern in patterns}
    keys = KeySet(distinct.values())
    return {
        shape
        for place, (shape, pattern) in enumerate(distinct.items())
        if all(wide == place for wide in keys.covering(pattern))
    }
