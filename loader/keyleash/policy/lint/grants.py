"""Lint rules about grants and denials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

from keyleash.commands import OperationClass
from keyleash.commands.facts import NAMED_ONLY
from keyleash.limits import SECOND_US, Limit, Rate, SubjectKind
from keyleash.limits.calendar import PERIOD_US
from keyleash.policy.keysets import covers
from keyleash.policy.lint.findings import LintFinding, finding_about
from keyleash.policy.model import (
    AnySuffix,
    Capture,
    Grant,
    Identity,
    IdentityKind,
    Pattern,
    PatternPart,
    Policy,
)
from keyleash.policy.pattern_tree import PatternTree, Segment, segments_of
from keyleash.policy.problems import quote

BARE_WILDCARD = "bare-wildcard"


def bare_wildcard(policy: Policy) -> Iterator[LintFinding]:
    """Find each `*` among the granted patterns of machine identities."""
    for identity in policy.identities:
        if identity.kind is not IdentityKind.MACHINE:
            continue
        for grant in identity.grants:
            for thing, patterns in (("key", grant.keys), ("channel", grant.channels)):
                for pattern in patterns:
                    if pattern.parts == (AnySuffix(),):
                        yield finding_about(
                            identity,
                            BARE_WILDCARD,
                            f"a machine is granted every {thing}",
                            pattern.span,
                            f"name the {thing}s of its job, such as `agents:jobs:*`;"
                            " what needs all of them is a person's work",
                        )


COVERED_GRANT = "covered-grant"


Place = tuple[OperationClass, Pattern]


def covered_grant(policy: Policy) -> Iterator[LintFinding]:
    """Find grants that could go, as far as what is allowed, counted and recorded is concerned."""
    for identity in policy.identities:
        yield from _covered(identity)


def _covered(identity: Identity) -> Iterator[LintFinding]:
    counted = {
        limit.subject.capture
        for limit in identity.limits
        if limit.subject.kind is SubjectKind.CAPTURE
    }
    trees: dict[OperationClass, PatternTree[int]] = {cls: PatternTree() for cls in OperationClass}
    for number, grant in enumerate(identity.grants):
        for cls, pattern in _places(grant):
            trees[cls].add(pattern, number)
    gone: set[int] = set()
    # From the end, and each of those found is gone: of two that say the same, one stays.
    for number, grant in reversed([*enumerate(identity.grants)]):

        @cache
        def is_other(other: int, number: int = number, grant: Grant = grant) -> bool:
            is_left = other != number and other not in gone
            return is_left and _narrows_less(identity.grants[other], grant)

        if not _sets_bounds(grant) and _is_covered(grant, trees, counted, is_other):
            gone.add(number)
            alone = _that_covers_alone(identity.grants, grant, trees, is_other)
            yield _finding(identity, grant, alone)


def _sets_bounds(grant: Grant) -> bool:
    """Return whether *grant* has bounds that hold on its keys whichever grant allows a call."""
    return grant.image_bytes is not None or grant.value_bytes is not None


def _is_covered(
    grant: Grant,
    trees: Mapping[OperationClass, PatternTree[int]],
    counted: set[str | None],
    is_other: Callable[[int], bool],
) -> bool:
    def covers_it(cls: OperationClass, pattern: Pattern) -> bool:
        captured = counted.intersection(pattern.captures)
        return trees[cls].covers(
            pattern,
            # A limit counts by what the pattern captures, so a wide one must capture it too.
            lambda wide: (
                is_other(wide.owner) and (not captured or captured <= set(wide.pattern.captures))
            ),
        )

    return all(covers_it(cls, pattern) for cls, pattern in _places(grant))


def _that_covers_alone(
    grants: Sequence[Grant],
    grant: Grant,
    trees: Mapping[OperationClass, PatternTree[int]],
    is_other: Callable[[int], bool],
) -> Grant | None:
    """The first of the others that allows all that *grant* does, if one does."""
    # A grant without patterns is covered by whichever other there is.
    candidates: Iterable[int] = range(len(grants))
    for cls, pattern in islice(_places(grant), 1):
        candidates = (wide.owner for wide in trees[cls].that_cover(pattern))
    return next(
        (
            grants[candidate]
            for candidate in candidates
            if is_other(candidate) and _covers_alone(grants[candidate], grant)
        ),
        None,
    )


def _places(grant: Grant) -> Iterator[Place]:
    for cls in grant.allow:
        for pattern in _patterns(grant, cls):
            yield cls, pattern


def _patterns(grant: Grant, cls: OperationClass) -> tuple[Pattern, ...]:
    return grant.channels if cls is OperationClass.PUBLISH else grant.keys


def _narrows_less(wide: Grant, narrow: Grant) -> bool:
    """Whether *wide* holds for every command that *narrow* holds for."""
    if not set(wide.except_) <= set(narrow.except_):
        return False
    if wide.only is not None:
        return narrow.only is not None and set(narrow.only) <= set(wide.only)
    # Commands of modules, whose names have a dot, and some others must be named.
    return not any("." in name or name in NAMED_ONLY for name in narrow.only or ())


def _finding(identity: Identity, grant: Grant, alone: Grant | None) -> LintFinding:
    if alone is None:
        by = "other grants together allow all of it"
    else:
        by = f"the grant on line {alone.span.line} covers it" if alone.span else "another covers it"
    patterns = (*grant.keys, *grant.channels)
    what = f"the grant on {quote(patterns[0].source)}" if patterns else "the grant"
    return finding_about(
        identity,
        COVERED_GRANT,
        f"{what} adds nothing: {by}",
        grant.span,
        "remove it, or narrow the other",
    )


def _covers_alone(wide: Grant, narrow: Grant) -> bool:
    return all(
        cls in wide.allow and any(covers(item, pattern) for item in _patterns(wide, cls))
        for cls, pattern in _places(narrow)
    )


GRANTS_RESTORE = "grants-restore"


def grants_restore(policy: Policy) -> Iterator[LintFinding]:
    """Find grants that allow RESTORE."""
    for identity in policy.identities:
        for grant in identity.grants:
            if grant.allows_restore:
                yield finding_about(
                    identity,
                    GRANTS_RESTORE,
                    f"{quote(identity.name)} may RESTORE any payload, and a corrupt one can crash"
                    " the server",
                    grant.span,
                    "remove `RESTORE` from `only`, or keep the server up to date with"
                    " `sanitize-dump-payload yes` and accept this finding",
                )


IDLE_DENY = "idle-deny"


def idle_deny(policy: Policy) -> Iterator[LintFinding]:
    """Find denied patterns that have no key in common with any granted one."""
    for identity in policy.identities:
        granted = granted_keys(identity)
        for deny in identity.deny:
            for pattern in deny.keys:
                if not granted.overlaps(pattern):
                    yield finding_about(
                        identity,
                        IDLE_DENY,
                        f"no grant has a key in common with the denied pattern"
                        f" {quote(pattern.source)}",
                        pattern.span,
                        "correct its spelling, or remove it: what no grant allows is refused"
                        " anyway",
                    )


def granted_keys(identity: Identity) -> PatternTree[None]:
    """The key patterns of all grants of an identity."""
    return PatternTree((pattern, None) for grant in identity.grants for pattern in grant.keys)


MISSING_DELIMITER = "missing-delimiter"

Segments = tuple[Segment, ...]


def missing_delimiter(policy: Policy) -> Iterator[LintFinding]:
    """Find patterns that are another one less a `:`, and a `*` that reaches into other names."""
    for thing in ("key", "channel"):
        places = list(_ends_without_delimiter(policy, thing))
        neighbours = _Neighbours([pattern for _, pattern in places])
        for identity, pattern in places:
            lacking = neighbours.that_has_one_more(pattern)
            entered = None if lacking else neighbours.that_is_entered(pattern)
            if lacking:
                message = f"differs from {_named(lacking)} in a missing `:` alone"
                help = "write both alike, or give one of them another name"
            elif entered:
                message = f"takes in what begins like {_named(entered)} too"
                help = f"end it at a `:`, as in `{pattern.source[:-1]}:*`"
            else:
                continue
            source = quote(pattern.source)
            message = f"the {thing} pattern {source} {message}"
            yield finding_about(identity, MISSING_DELIMITER, message, pattern.span, help)


def _ends_without_delimiter(policy: Policy, thing: str) -> Iterator[tuple[Identity, Pattern]]:
    for identity in policy.identities:
        rules = (*identity.grants, *(identity.deny if thing == "key" else ()))
        for rule in rules:
            for pattern in getattr(rule, f"{thing}s"):
                yield identity, pattern


def _named(pattern: Pattern) -> str:
    return quote(pattern.source) + (f" on line {pattern.span.line}" if pattern.span else "")


class _Neighbours:
    """All patterns of a document, by what others would look like that lack a `:`."""

    def __init__(self, patterns: list[Pattern]) -> None:
        self._joined: dict[tuple[Segments, bool], Pattern] = {}
        self._names: dict[Segments, dict[bytes, Pattern]] = {}
        for pattern in patterns:
            segments, is_open = _form(pattern)
            for place in range(len(segments) - 1):
                joined = _joined(segments, is_open, place)
                if joined is not None:
                    self._joined.setdefault((joined, is_open), pattern)
                name = segments[place]
                if name.capture is None and name.before:
                    names = self._names.setdefault(segments[:place], {})
                    names.setdefault(name.before, pattern)

    def that_has_one_more(self, pattern: Pattern) -> Pattern | None:
        """One that would be *pattern* if it had one `:` less."""
        return self._joined.get(_form(pattern))

    def that_is_entered(self, pattern: Pattern) -> Pattern | None:
        """One with a whole segment that begins as the last one of *pattern*, which goes on."""
        (*before, last), is_open = _form(pattern)
        if not is_open or not last.before:
            return None
        names = self._names.get(tuple(before), {})
        return next((item for name, item in names.items() if name.startswith(last.before)), None)


def _form(pattern: Pattern) -> tuple[Segments, bool]:
    """Its segments, whatever captures are called."""
    segments, is_open = segments_of(pattern.parts)
    return tuple(
        segment if segment.capture is None else replace(segment, capture="") for segment in segments
    ), is_open


def _joined(segments: Segments, is_open: bool, place: int) -> Segments | None:
    """The same without the `:` after the segment at *place*, if that makes a pattern."""
    one, two = segments[place : place + 2]
    if one.capture is None:
        joined = Segment(one.before + two.before, two.after, two.capture)
    elif two.capture is None and not (is_open and place == len(segments) - 2):
        joined = Segment(one.before, one.after + two.before, one.capture)
    else:
        return None
    return (*segments[:place], joined, *segments[place + 2 :])


MIXED_DUTIES = "mixed-duties"

WORDS = {
    IdentityKind.HUMAN: frozenset(
        {"human", "humans", "person", "people", "admin", "oncall", "staff", "interactive"}
    ),
    IdentityKind.MACHINE: frozenset(
        {"agent", "agents", "bot", "bots", "worker", "workers", "cron", "ci", "daemon", "machine"}
    ),
}
"""Words of a name that say who acts. What could be either's, such as `support`, says nothing."""

MAX_PER_MINUTE = 600
MAX_PER_DAY = 100_000
"""More than a person at a prompt does, pasted scripts included."""

_DAY_US = 86_400 * SECOND_US


def mixed_duties(policy: Policy) -> Iterator[LintFinding]:
    """Find names that tell of the other kind, and people who are given a machine's pace."""
    for identity in policy.identities:
        yield from _by_name(identity)
        if identity.kind is IdentityKind.HUMAN:
            yield from _by_pace(identity)


def _by_name(identity: Identity) -> Iterator[LintFinding]:
    other = IdentityKind.HUMAN if identity.kind is IdentityKind.MACHINE else IdentityKind.MACHINE
    told = sorted(WORDS[other].intersection(identity.name.split("-")))
    if told:
        yield finding_about(
            identity,
            MIXED_DUTIES,
            f"the {identity.kind} identity {quote(identity.name)} is named after a {other}'s duty,"
            f" {quote(told[0])}",
            identity.span,
            "give machines and people an identity each, and name them after who acts",
        )


def _by_pace(identity: Identity) -> Iterator[LintFinding]:
    for limit in identity.limits:
        if _is_machine_paced(limit):
            yield finding_about(
                identity,
                MIXED_DUTIES,
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


SAME_SCOPE = "same-scope"

Form = tuple[PatternPart, ...]
Commands = tuple[frozenset[str] | None, frozenset[str]]
Scope = tuple[frozenset[tuple[OperationClass, Commands, Form]], frozenset[Form]]


def same_scope(policy: Policy) -> Iterator[LintFinding]:
    """Find identities whose grants and deny rules mean the same as those of an earlier one."""
    firsts: dict[tuple[str, Scope], Identity] = {}
    for identity in policy.identities:
        # A machine and a person may share a scope; what they must not share is an identity.
        first = firsts.setdefault((identity.kind, _scope(identity)), identity)
        if first is not identity:
            where = f" on line {first.span.line}" if first.span else ""
            yield finding_about(
                identity,
                SAME_SCOPE,
                f"{quote(identity.name)} may do the same as {quote(first.name)}{where}",
                identity.span,
                "give each only what its job needs, or make one of the two",
            )


def _scope(identity: Identity) -> Scope:
    """What may be done, however it is divided among grants and whatever captures are called."""
    by_class: dict[tuple[OperationClass, Commands], list[Pattern]] = {}
    for grant in identity.grants:
        for cls in grant.allow:
            patterns = grant.channels if cls is OperationClass.PUBLISH else grant.keys
            by_class.setdefault((cls, _commands(grant)), []).extend(patterns)
    granted = granted_keys(identity)
    denied = [
        pattern for deny in identity.deny for pattern in deny.keys if granted.overlaps(pattern)
    ]
    return (
        frozenset(
            (cls, commands, form)
            for (cls, commands), patterns in by_class.items()
            for form in _widest(patterns)
        ),
        frozenset(_widest(denied)),
    )


def _commands(grant: Grant) -> Commands:
    return None if grant.only is None else frozenset(grant.only), frozenset(grant.except_)


def _widest(patterns: list[Pattern]) -> set[Form]:
    """The patterns that no other covers, without the names of their captures."""
    distinct = {_form_same_scope(pattern): pattern for pattern in patterns}
    tree = PatternTree((pattern, form) for form, pattern in distinct.items())
    return {
        form
        for form, pattern in distinct.items()
        if all(wide.owner is form for wide in tree.that_cover(pattern))
    }


def _form_same_scope(pattern: Pattern) -> Form:
    return tuple(Capture("") if isinstance(part, Capture) else part for part in pattern.parts)
