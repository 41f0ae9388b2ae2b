"""Generated policies: an invariant is broken exactly if some call of some key breaks it.

Every key of a small alphabet is tried, by the evaluator's own rules; each example that is reported
is decided by the evaluator as a whole.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from keyleash.addons.policy_tests.invariants import broken_by
from keyleash.addons.policy_tests.model import Invariant, InvariantRule
from keyleash.commands import CommandTable, OperationClass, keys_of, load_table
from keyleash.commands.keys import KeyUse
from keyleash.errors import Span
from keyleash.evaluate.access import grants_of_channel, judge_key, look_up, matches
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.state import ModelState
from keyleash.policy import Identity, Policy
from keyleash.policy.diff.call_shapes import forms_of
from proofs.property.test_diff import (
    grants,
    identity,
    is_special_glob_granted,
    patterns,
    patterns_of,
    shown,
)
from support.thorough import thorough

POLICIES = 400
NAMED = ("GET", "SET", "COPY", "INCR", "SCAN", "PING", "SORT", "DEL", "PSUBSCRIBE", "SUBSCRIBE")
_BY_FORMS = {forms_of(spec): spec for spec in load_table() if spec.refused is None}
"""A command for each way to need classes."""
TABLE = CommandTable(
    load_table().servers,
    {spec.name: spec for spec in _BY_FORMS.values()}
    | {name: load_table().commands[name] for name in NAMED},
)
KEYS = [
    b":".join(segments)
    for length in (1, 2)
    for segments in itertools.product((b"a", b"b", b"ab", b"axb", b"", b"keyleash"), repeat=length)
]
NAMES = ("one", "two", "three")
SPAN = Span("tests", 1, 1)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    pool = draw(st.lists(patterns(), min_size=2, max_size=5, unique=True))
    return Policy(
        tuple(
            replace(
                identity(
                    draw(st.lists(grants(pool), min_size=1, max_size=2)),
                    draw(st.lists(st.sampled_from(pool), max_size=1)),
                ),
                name=name,
            )
            for name in NAMES[: draw(st.integers(1, 3))]
        )
    )


@st.composite
def invariants(draw: st.DrawFn) -> Invariant:
    rule = draw(st.sampled_from([*InvariantRule]))
    classes = draw(st.lists(st.sampled_from([*OperationClass]), min_size=1, max_size=3))
    some = st.lists(patterns(), min_size=1, max_size=2).map(patterns_of)
    fields = draw(st.sampled_from([(), (), ("keys",), ("channels",), ("keys", "channels")]))
    names = st.lists(st.sampled_from(NAMES), max_size=1)
    return Invariant(
        name="",
        rule=rule,
        classes=tuple(classes),
        names=("one",) if rule is InvariantRule.MAY_ONLY else tuple(draw(names)),
        scope={field: draw(some) for field in fields},
        excepted=draw(some) if draw(st.booleans()) else (),
        span=SPAN,
        names_span=SPAN,
    )


def uses(identity: Identity) -> dict[tuple[str, bytes], set[OperationClass]]:
    """Return the classes that calls of an identity use on each key and channel."""
    found: dict[tuple[str, bytes], set[OperationClass]] = defaultdict(set)
    for spec in TABLE:
        command = look_up(identity, TABLE, spec.name.encode().split())
        if not command.grants:
            continue
        for channel in KEYS if spec.channel_class is not None else ():
            if any(grants_of_channel(command.grants, spec, channel)):
                found["channels", channel].add(spec.channel_class or OperationClass.READ)
        for form in forms_of(spec) if spec.channel is None and not spec.scans else ():
            allowed = [
                {
                    key
                    for key in KEYS
                    if judge_key(identity, command, KeyUse(key, needs), []).allowed
                }
                for needs in form.needs
            ]
            for needs, keys in zip(form.needs, allowed, strict=True) if all(allowed) else ():
                for key in keys:
                    found["keys", key].update(needs)
    for key in KEYS:
        if shown(identity, key):
            found["keys", key].add(OperationClass.SCAN)
    return found


def breaches(invariant: Invariant, policy: Policy) -> Iterator[tuple[str, ...]]:
    """Yield the identities that break an invariant on some key of the alphabet."""
    is_only = invariant.rule is InvariantRule.MAY_ONLY
    classes = {*OperationClass} - {*invariant.classes} if is_only else {*invariant.classes}
    users: dict[str, set[tuple[str, bytes]]] = {}
    for item in policy.identities:
        if (item.name in invariant.names) is is_only:
            users[item.name] = {
                (field, key)
                for (field, key), used in uses(item).items()
                if used & classes and is_about(invariant, field, key)
            }
    if invariant.rule is InvariantRule.NO_TWO_MAY:
        pairs = itertools.combinations(users, 2)
        yield from ((mine, other) for mine, other in pairs if users[mine] & users[other])
    else:
        yield from ((name,) for name, found in users.items() if found)


def is_about(invariant: Invariant, field: str, key: bytes) -> bool:
    patterns = invariant.scope.get(field, ())
    is_within = not invariant.scope or any(matches(pattern, key) for pattern in patterns)
    return is_within and not any(matches(pattern, key) for pattern in invariant.excepted)


def assert_proved(help: str, invariant: Invariant, policy: Policy) -> tuple[str, ...]:
    """Check that the examples in a help break the invariant; return the names of their callers."""
    names = []
    common: set[bytes] | None = None
    is_only = invariant.rule is InvariantRule.MAY_ONLY
    for line in re.findall("`(keyleash explain [^`]*)`", help):
        name, *words = shlex.split(line)[2:]
        caller = policy.identity(name)
        argv = [word.encode() for word in words[words.index("--") + 1 :]]
        spec = TABLE.find(argv)
        assert caller is not None
        assert spec is not None
        used = keys_of(spec, argv)
        # A pattern cannot name a channel with wildcards, which counts as one that it receives.
        is_pattern = spec.name == "PSUBSCRIBE" and {*argv[1]} & {*b"?["}
        assert (
            is_pattern
            or decide(caller, TABLE, argv, [use.key for use in used], ModelState(), 0).allowed
        )
        classes = {*OperationClass} - {*invariant.classes} if is_only else {*invariant.classes}
        about = {use.key for use in used if classes & {*use.needs}}
        about = {key for key in about if is_about(invariant, "keys", key)}
        if spec.scans:
            about = {argv[3]} if shown(caller, argv[3]) else set()
        elif spec.channel_class is not None:
            about = {argv[1]} if is_about(invariant, "channels", argv[1]) else set()
        common = about if common is None else common & about
        names.append(name)
    assert common, help
    return tuple(names)


def test_invariants_are_broken_exactly_by_the_calls_that_break_them() -> None:
    """No call of any key breaks an invariant that holds, and every example is such a call."""
    counts: Counter[tuple[str, bool]] = Counter()

    @thorough(POLICIES)
    @given(policies(), invariants())
    def compare(policy: Policy, invariant: Invariant) -> None:
        if any(map(is_special_glob_granted, policy.identities)):
            # All that may be scanned counts as shown by such a glob.
            return
        problems = broken_by(invariant, policy, TABLE, "p.yaml")
        reported = {assert_proved(problem.help, invariant, policy) for problem in problems}
        found = {*breaches(invariant, policy)}
        assert found <= reported, found - reported
        counts[invariant.rule, bool(reported)] += 1

    compare()

    assert len(counts) == 2 * len(InvariantRule), counts
