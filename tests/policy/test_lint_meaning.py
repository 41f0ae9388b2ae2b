"""Rules that lint reports as redundant: without them the evaluator decides the same."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from keyleash.commands import CHANNEL_CLASSES, OperationClass, load_table
from keyleash.errors import ReplyCode, Span
from keyleash.evaluate.evaluate import decide
from keyleash.evaluate.state import ModelState
from keyleash.limits import SECOND_US, Budget, Counter, Period, Rate
from keyleash.policy import Deny, Grant, Identity, Policy, parse_pattern
from keyleash.policy.lint.grant_rules import covered_grant, idle_deny, same_scope
from keyleash.policy.lint.limit_rules import unreachable_budget
from keyleash.policy.model import IdentityKind
from support.thorough import thorough

TABLE = load_table()
KEYS = [
    key.replace("?", "\udcff").encode("utf-8", "surrogateescape")
    for key in (
        *("a", ":", "?", "a:", "a?", "?a", "aa", "::", "a:a", "a:?", "?:a", "?:?"),
        *("a?:", "a?:a", "::a", "a::?", "?:?:a"),
    )
]
"""A key of each kind, where `?` is a byte that no pattern contains."""
CALLS = [
    (call, declared)
    for key in KEYS
    for call, declared in (
        ([b"GET", key], [key]),
        ([b"SET", key, b"x"], [key]),
        ([b"INCR", key], [key]),
        ([b"GETDEL", key], [key]),
        ([b"EXISTS", key], [key]),
        ([b"SCAN", b"0", b"MATCH", key], []),
        ([b"PUBLISH", key, b"x"], []),
    )
]
PATTERNS = st.sampled_from(
    [
        "*",
        "a",
        "a*",
        "a{x}",
        "{x}a",
        "{x}",
        "a:*",
        "a{x}:*",
        "{x}:*",
        "a:{x}",
        "::*",
        ":",
        "{x}:{y}",
    ]
)


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    """A grant on patterns that often cover each other; its place is its number."""
    classes = draw(st.sets(st.sampled_from([*OperationClass]), min_size=1))
    listed = st.lists(PATTERNS, min_size=1, max_size=3, unique=True)
    narrowed = draw(st.sampled_from([None, None, ("GET", "SET", "SCAN"), ("SET", "@read")]))
    return Grant(
        tuple(cls for cls in OperationClass if cls in classes),
        tuple(parse_pattern(item) for item in draw(listed)) if classes - CHANNEL_CLASSES else (),
        only=narrowed,
        except_=draw(st.sampled_from([(), (), ("GET",)])),
        channels=tuple(parse_pattern(item) for item in draw(listed))
        if classes & CHANNEL_CLASSES
        else (),
    )


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    found = draw(st.lists(grants(), min_size=1, max_size=5))
    denied = draw(st.lists(PATTERNS, max_size=2, unique=True))
    return Identity(
        "one",
        IdentityKind.MACHINE,
        tuple(replace(item, span=Span("p", line, 1)) for line, item in enumerate(found)),
        tuple(Deny((parse_pattern(item, Span("p", line, 1)),)) for line, item in enumerate(denied)),
    )


def allowed(identity: Identity) -> list[bool]:
    """Return whether each of the calls is allowed."""
    return [
        decide(identity, TABLE, call, declared, ModelState(), 0).allowed for call, declared in CALLS
    ]


@thorough(30)
@given(identity=identities())
def test_identity_may_do_the_same_without_its_covered_grants(identity: Identity) -> None:
    """All grants found may be removed together."""
    lines = {item.span.line for item in covered_grant(identity) if item.span}
    left = tuple(grant for grant in identity.grants if grant.span and grant.span.line not in lines)

    assert allowed(identity) == allowed(replace(identity, grants=left))


@thorough(30)
@given(identity=identities())
def test_identity_may_do_the_same_without_its_idle_deny_rules(identity: Identity) -> None:
    """The code of a denial may change, but no denied call becomes allowed."""
    lines = {item.span.line for item in idle_deny(identity) if item.span}
    spans = [(deny, deny.keys[0].span) for deny in identity.deny]
    left = tuple(deny for deny, span in spans if span and span.line not in lines)

    assert allowed(identity) == allowed(replace(identity, deny=left))


@thorough(30)
@given(first=identities(), other=identities())
def test_identities_with_the_same_scope_may_do_the_same(first: Identity, other: Identity) -> None:
    """The scope does not depend on the order and division of rules."""
    turned = replace(
        first,
        name="turned",
        grants=tuple(
            replace(
                grant,
                allow=(cls,),
                keys=() if cls in CHANNEL_CLASSES else grant.keys[::-1],
                channels=grant.channels if cls in CHANNEL_CLASSES else (),
            )
            for grant in reversed(first.grants)
            for cls in grant.allow
        ),
        deny=first.deny[::-1],
    )
    found = [*same_scope(Policy((first, turned, replace(other, name="other"))))]

    assert found[0][0].name == "turned"
    assert len(found) == 1 or allowed(first) == allowed(other)


@thorough(30)
@given(
    limit=st.integers(1, 4),
    period_s=st.sampled_from([1, 7, 60, 3600]),
    burst=st.sampled_from([None, None, 1, 3, 9]),
    budget=st.integers(1, 300),
    start_s=st.integers(0, 59),
)
def test_unreachable_budget_is_never_exhausted(
    limit: int, period_s: int, burst: int | None, budget: int, start_s: int
) -> None:
    """Calls come half a second apart, over two windows."""
    identity = Identity(
        "one",
        IdentityKind.MACHINE,
        (Grant((OperationClass.READ,), (parse_pattern("a"),)),),
        rates=(Rate(Counter.READS, limit, period_s * SECOND_US, burst),),
        budgets=(Budget(Counter.REQUESTS, budget, Period.MINUTE),),
    )
    counted = replace(identity, budgets=(replace(identity.budgets[0], counter=Counter.READS),))
    state = ModelState()
    start_us = 1_790_000_000 // 60 * 60 * SECOND_US + start_s * SECOND_US
    codes = {
        decide(counted, TABLE, [b"GET", b"a"], [b"a"], state, start_us + tick * SECOND_US // 2).code
        for tick in range(240)
    }

    # A rate of reads does not bound a budget of requests.
    assert not [*unreachable_budget(identity)]
    if [*unreachable_budget(counted)]:
        assert ReplyCode.BUDGET_EXHAUSTED not in codes
