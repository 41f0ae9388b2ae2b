"""The difference of two policies, for each kind of rule."""

from __future__ import annotations

from dataclasses import fields

import pytest

from keyleash.commands import CommandSpec, load_table
from keyleash.commands.facts import INDEXES
from keyleash.policy import Identity, Policy, parse_policy
from keyleash.policy.diff.changes import IdentityDiff, PolicyChange
from keyleash.policy.diff.compare import PolicyDiff, diff_policies
from keyleash.policy.diff.diff_text import describe_identities
from keyleash.policy.diff.limit_changes import breaker_changes
from keyleash.policy.model import Breaker

TABLE = load_table()
BASE = """\
version: 1
identities:
  agent:
    kind: machine
    grants:
      - {allow: [read, write], keys: ["ws:{workspace}:*"]}
    deny: [{keys: ["ws:{workspace}:lock"]}]
    rate: {requests: 60/minute, writes: {limit: 10/second, burst: 5}}
    budget: {writes: {limit: 100/day, per: "{workspace}"}}
    token: {ttl: 1h, idle: 10m}
    audit: {retain: {until: exported, hard_max: 1000}}
"""


def diff(old: str, new: str) -> PolicyDiff:
    """From the base to the base with words replaced."""
    assert old in BASE
    return diff_policies(read(BASE), read(BASE.replace(old, new)), TABLE, ("keyleash:",))


def read(text: str) -> Policy:
    return parse_policy(text, file="p.yaml", commands=TABLE)


def only(found: PolicyDiff) -> tuple[IdentityDiff, PolicyChange]:
    (identity,) = found.identities
    (change,) = identity.changes
    return identity, change


BREAKER = "on_denials: {threshold: 5/hour, suspend: 1m}"


@pytest.mark.parametrize(
    ("old", "new", "widens", "narrows"),
    [
        ("60/minute", "61/minute", True, False),
        ("60/minute", "59/minute", False, True),
        ("60/minute", "3600/hour", True, False),
        ("60/minute", "1/second", False, True),
        ("60/minute", "{limit: 60/minute, per: token}", True, False),
        ("60/minute", "{limit: 60/minute, burst: 60}", True, False),
        ("requests: 60/minute, ", "", True, False),
        ("rate: {", "rate: {reads: 5/second, ", False, True),
        ("burst: 5", "burst: 6", True, False),
        ("100/day, per: ", "100/month, per: ", False, True),
        (', per: "{workspace}"', "", False, True),
        ("100/day", "100/day, timezone: Asia/Tokyo", True, True),
        ("ttl: 1h", "ttl: 2h", True, False),
        ("ttl: 1h, ", "ttl: 1h, max_ttl: 1d, ", False, True),
        (", idle: 10m", "", True, False),
        ("idle: 10m", "idle: 5m", False, True),
        ("ttl: 1h, ", "ttl: 1h, rotate_after: 1d, ", False, False),
        ("ttl: 1h, ", "ttl: 1h, bound: true, ", False, False),
        ("hard_max: 1000", "hard_max: 2000", True, False),
        (
            "kind: machine",
            "kind: machine\n    on_denials: {threshold: 5/hour, suspend: 1m}",
            False,
            True,
        ),
        ("kind: machine", "kind: human", False, False),
        ("audit: {", "audit: {reads: true, ", False, False),
        ("audit: {", "audit: {source: true, ", False, False),
        ('deny: [{keys: ["ws:{workspace}:lock"]}]', "", True, False),
        ('"ws:{workspace}:lock"', '"ws:{workspace}:lock", "ws:a:*"', False, True),
        ('"ws:{workspace}:lock"', '"ws:{workspace}:lock", "elsewhere:*"', False, False),
        ("allow: [read, write]", "allow: [read, write, delete]", True, False),
        ("allow: [read, write]", "allow: [read]", False, True),
        ("    deny:", '      - {allow: [delete], keys: ["ws:a:lock"]}\n    deny:', False, False),
    ],
)
def test_change_of_one_rule_is_marked(old: str, new: str, widens: bool, narrows: bool) -> None:
    """Limits are compared by allowed calls, grants and deny rules by allowed keys."""
    identity, change = only(diff(old, new))

    assert (change.widens, change.narrows) == (widens, narrows)
    assert (identity.widens, identity.narrows) == (widens, narrows)


def test_policy_that_no_longer_allows_bound_tokens_narrows() -> None:
    """It denies all bound tokens; one that allows them adds no access by itself."""
    bound = read(BASE.replace("idle: 10m", "idle: 10m, bound: true"))

    _, change = only(diff_policies(bound, read(BASE), TABLE, ("keyleash:",)))

    assert (change.rule, change.widens, change.narrows) == ("token.bound", False, True)


DELEGATE = "{depth: 2, children: 10, max_ttl: 30m}"


@pytest.mark.parametrize(
    ("after", "widens", "narrows"),
    [
        ("{depth: 0}", False, True),
        ("{depth: 0, children: 30, max_ttl: 2h}", False, True),
        ("{depth: 1, children: 10, max_ttl: 30m}", False, True),
        ("{depth: 2, children: 20, max_ttl: 10m}", True, True),
    ],
)
def test_bounds_of_children_are_compared_only_where_both_policies_delegate(
    after: str, widens: bool, narrows: bool
) -> None:
    """Removing delegation narrows, and adding it widens, with any other fields."""
    old, new = (
        read(BASE.replace("idle: 10m}", f"idle: 10m, bound: true}}\n    delegate: {rules}"))
        for rules in (DELEGATE, after)
    )
    for before, other, marks in ((old, new, (widens, narrows)), (new, old, (narrows, widens))):
        (identity,) = diff_policies(before, other, TABLE, ("keyleash:",)).identities
        assert (identity.widens, identity.narrows) == marks


@pytest.mark.parametrize(
    ("before", "after", "widens", "narrows"),
    [
        (Breaker(50, "minute", 600), None, True, False),
        (Breaker(50, "minute", 600), Breaker(49, "minute", 600), False, True),
        (Breaker(50, "minute", 600), Breaker(50, "minute", 599), True, False),
        (Breaker(50, "minute", 600), Breaker(50, "hour", 600), False, True),
        (Breaker(50, "minute", 600), Breaker(51, "hour", 600), True, True),
    ],
)
def test_breaker_that_suspends_less_widens(
    before: Breaker | None, after: Breaker | None, widens: bool, narrows: bool
) -> None:
    """A higher threshold allows calls during which the identity was suspended before."""
    for old, new, marks in ((before, after, (widens, narrows)), (after, before, (narrows, widens))):
        (change,) = breaker_changes(old, new)
        assert (change.widens, change.narrows) == marks
    assert list(breaker_changes(before, before)) == []


def test_limit_per_capture_widens_where_keys_are_no_longer_captured() -> None:
    """The limit is unchanged but counts fewer calls."""
    wide = '["ws:{workspace}:jobs:*"]}\n      - {allow: [read, write], keys: ["ws:*"]}'
    (identity,) = diff('["ws:{workspace}:*"]}', wide).identities

    marked = [change for change in identity.changes if change.part == "budget"]
    assert [change.widens for change in marked] == [True]


def test_new_and_removed_identities_are_marked_by_access_only() -> None:
    """A limit of a new identity neither widens nor narrows."""
    found = diff("  agent:", "  other:")

    other, agent = found.identities
    assert (other.name, other.widens, other.narrows) == ("other", True, False)
    assert (agent.name, agent.widens, agent.narrows) == ("agent", False, True)
    assert not any(change.widens for change in other.changes if change.part in ("rate", "budget"))


def test_rules_in_another_order_are_a_change_without_effect() -> None:
    """The digest differs, so the change is reported."""
    grants = ['{allow: [read], keys: ["a:*"]}', '{allow: [write], keys: ["b:*"]}']
    head = "version: 1\nidentities: {agent: {kind: machine, grants: ["
    before, after = (read(f"{head}{', '.join(some)}]}}}}") for some in (grants, grants[::-1]))

    identity, change = only(diff_policies(before, after, TABLE))

    assert change.part == "order"
    assert (identity.widens, identity.narrows) == (False, False)


SEARCHES = TABLE.extended(
    {
        name: CommandSpec(name, -2, (), (), index=cls)
        for name, cls in INDEXES.items()
        if name != "FT._LIST"
    }
)
GRANT = '{allow: [read, write], keys: ["ws:{workspace}:*"]}'


@pytest.mark.parametrize(
    ("before", "after", "widens", "call"),
    [
        ("", ", indexes: [ix]", True, "FT.AGGREGATE `ix`"),
        (", indexes: [ix]", "", False, ""),
        (", indexes: [ix]", ", indexes: ['ix*']", True, "FT.AGGREGATE `ix"),
        (", indexes: [ix], except: [FT.SEARCH]", ", indexes: [ix]", True, "FT.SEARCH `ix`"),
        (", indexes: [{name: ix, where: {a: x}}]", ", indexes: [ix]", True, "FT.AGGREGATE `ix`"),
        (
            ", indexes: [{name: ix, where: {a: x}}]",
            ", indexes: [{name: ix, where: {a: y}}]",
            True,
            "FT.AGGREGATE `a=y of ix`",
        ),
        (
            ", indexes: [{name: 'ix*', where: {a: x}}]",
            ", indexes: [{name: ix, where: {b: y, a: x}}]",
            False,
            "may no longer",
        ),
        (
            ", indexes: [{name: ix, where: {b: y, a: x}}]",
            ", indexes: [{name: ix, where: {a: x}}]",
            True,
            "FT.AGGREGATE `a=x of ix`",
        ),
    ],
)
def test_searches_of_more_indexes_widen(before: str, after: str, widens: bool, call: str) -> None:
    """A policy that gives more searches needs `--allow-widening`."""
    texts = [BASE.replace(GRANT, GRANT[:-1] + more + "}") for more in (before, after)]
    old, new = (parse_policy(text, file="p", commands=SEARCHES) for text in texts)
    found = diff_policies(old, new, SEARCHES, ("keyleash:",))

    assert found.widens is widens
    assert call in found.describe()


def test_every_field_of_an_identity_is_compared() -> None:
    """A new field of the model must be compared, or its changes are not reported."""
    compared = {"name", "kind", "grants", "deny", "rates", "budgets", "token", "audit"}
    compared |= {"delegate", "durability", "cluster", "on_denials", "idempotency", "work"}
    compared |= {"strings", "search_ms", "key_bytes"}
    assert {field.name for field in fields(Identity) if field.compare} == compared


def test_first_delegation_widens_by_its_depth_alone() -> None:
    """A shorter `max_ttl` than the default narrows nothing where no token delegated."""
    head = "version: 1\nidentities: {a: {kind: machine, token: {bound: true},"
    head += " grants: [{allow: [read], keys: [a]}]"
    switched = ", delegate: {depth: 1, max_ttl: 10m, children: 900}"
    off, on = read(f"{head}}}}}"), read(f"{head}{switched}}}}}")
    longer = read(f"{head}{switched.replace('10m', '20m')}}}}}")

    def marks(before: Policy, after: Policy) -> dict[str, tuple[bool, bool]]:
        identity = diff_policies(before, after, TABLE).identities[0]
        return {item.name: (item.widens, item.narrows) for item in identity.changes}

    found = marks(off, on)
    assert found.pop("depth") == (True, False)
    assert set(found.values()) == {(False, False)}
    (identity,) = diff_policies(off, on, TABLE).identities
    added = {item.name: item.before for item in identity.changes if item.part == "delegate"}
    assert added == {"depth": 0, "max_ttl_s": None, "children": None}
    assert "    + delegate.max_ttl 10m" in describe_identities([identity], full=True)
    assert set(marks(on, off).values()) == {(False, True), (False, False)}
    assert marks(on, longer) == {"max_ttl_s": (True, False)}
