"""Digests depend on the meaning of a policy only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from keyleash.commands import OperationClass
from keyleash.errors import Problem, Span
from keyleash.limits import Budget, Counter, Period, Rate, Subject, SubjectKind
from keyleash.policy import Deny, Grant, Identity, Policy, parse_pattern
from keyleash.policy.canonical import canonical, identity_digest, policy_digest
from keyleash.policy.model import (
    AuditRules,
    Breaker,
    ClusterRules,
    Delegation,
    Idempotency,
    IdentityKind,
    KeyState,
    TokenRules,
    TtlRule,
    ValueRules,
    Values,
)

Parse = Callable[[str], Policy]

EXAMPLE = (Path(__file__).parents[2] / "examples/agents.yaml").read_text("utf-8")

REWRITTEN = """\
# The same four identities in another order and style, with explicit defaults.
identities:
    human-admin:
        token:
            idle: 900s
            max_ttl: 480m
            ttl: 60m
        grants:
          - keys: ['*']
            allow: [scan, delete, write, read]
        kind: human
        on_denials: off
    agent-recovery: {on_denials: {suspend: 600s, threshold: 50/minute},
      budget: {requests: {limit: 5000/day, timezone: UTC}}, kind: machine,
      rate: {writes: {limit: 60/minute, per: identity}},
      grants: [{keys: ["agents:recovery:*"], allow: [write], except: []}]}
    agent-runner:
        audit: {before_images: {max_bytes: 65536b}}
        budget:
            writes: {timezone: Europe/Berlin, limit: 20000/day}
            requests: 50000/day
        rate: {writes: {burst: 60, limit: 600/minute}}
        deny:
          - keys: ["agents:jobs:{job_id}:lock"]
        grants:
          - keys:
              - agents:jobs:{job_id}:state
              - agents:jobs:{job_id}:result
            allow: [write, read]
        kind: machine
    agent-reader:
        audit: {retain: 100000}
        kind: machine
        grants: [{allow: [read], keys: ["agents:context:*"]}]
        budget: {requests: 200000/day}
        rate: {requests: 3000/minute}
defaults:
  token: {ttl: 12h, max_ttl: 72h, rotate_after: 1w}
  on_denials: {threshold: 50/minute, suspend: 10m}
version: 1
"""

GRANT = Grant((OperationClass.READ,), (parse_pattern("a:{x}"),), ("GET", "SET"), ("HGET",))
RATE = Rate(Counter.WRITES, 5, 1_000_000, 2, Subject(SubjectKind.CAPTURE, "x"))
BUDGET = Budget(Counter.READS, 5, Period.DAY, "UTC", Subject())
IDENTITY = Identity(
    "a",
    IdentityKind.MACHINE,
    (GRANT,),
    (Deny((parse_pattern("a:b"),)),),
    (RATE, replace(RATE, counter=Counter.READS)),
    (BUDGET, replace(BUDGET, counter=Counter.WRITES)),
    TokenRules(1, 2, 3, 4),
    AuditRules(5),
)

CHANGES = {
    "name": [replace(IDENTITY, name="b")],
    "kind": [replace(IDENTITY, kind=IdentityKind.HUMAN)],
    "grants": [
        replace(IDENTITY, grants=(replace(GRANT, **change),))
        for change in (
            {"allow": (OperationClass.WRITE,)},
            {"keys": (parse_pattern("a:{{x}}"),)},
            {"keys": (parse_pattern("a:*"),)},
            {"only": ("GET",)},
            {"only": ()},
            {"only": None},
            {"except_": ()},
            {"channels": (parse_pattern("a:b"),)},
            {"channels": (parse_pattern("a:*"),)},
            {"keys": (), "channels": GRANT.keys},
            {"indexes": (parse_pattern("a:b"),)},
            {"image_bytes": 0},
            {"values": ValueRules(max_bytes=1024)},
            {"values": ValueRules(max_bytes=64 * 1024 * 1024)},
            {"values": ValueRules(max_elements=1024)},
            {"values": ValueRules(ttl=TtlRule(1024))},
            {"values": ValueRules(ttl=TtlRule(max_s=1024))},
            {"values": ValueRules(only=KeyState.ABSENT)},
            {"image_bytes": 1024},
        )
    ],
    "deny": [replace(IDENTITY, deny=())],
    "rates": [
        replace(IDENTITY, rates=(replace(RATE, **change),))
        for change in (
            {"counter": Counter.READS},
            {"limit": 6},
            {"period_us": 2_000_000},
            {"burst": None},
            {"subject": Subject()},
            {"subject": Subject(SubjectKind.CAPTURE, "y")},
        )
    ],
    "budgets": [
        replace(IDENTITY, budgets=(replace(BUDGET, **change),))
        for change in (
            {"limit": 6},
            {"period": Period.MONTH},
            {"timezone": "Europe/Berlin"},
            {"subject": Subject(SubjectKind.TOKEN)},
        )
    ],
    "token": [
        replace(IDENTITY, token=replace(IDENTITY.token, **dict[str, Any]({field.name: 9})))
        for field in fields(TokenRules)
        if field.compare
    ],
    "delegate": [
        replace(IDENTITY, delegate=replace(IDENTITY.delegate, **dict[str, Any]({field.name: 9})))
        for field in fields(Delegation)
    ],
    "audit": [
        replace(IDENTITY, audit=replace(IDENTITY.audit, **change))
        for change in (
            {"retain": 6},
            {"retain": None, "retain_s": 5},
            {"retain": None, "hard_max": 5},
            {"reads": True},
            {"values": Values.LENGTH},
            {"values": Values.FULL},
            {"mask_keys": (parse_pattern("a:*"),)},
            {"mask_keys": (parse_pattern("a:{x}"),)},
            {"image_bytes": 1024},
        )
    ],
    "durability": [
        replace(IDENTITY, durability=replace(IDENTITY.durability, **change))
        for change in ({"wait_replicas": 1}, {"timeout_ms": 100})
    ],
    "cluster": [replace(IDENTITY, cluster=ClusterRules(lease_s)) for lease_s in (1, 9, 11, 300)],
    "idempotency": [
        replace(IDENTITY, idempotency=Idempotency(*numbers))
        for numbers in ((3600,), (60,), (3600, 100))
    ],
    "on_denials": [
        replace(IDENTITY, on_denials=Breaker(*numbers))
        for numbers in (
            (50, "minute", 600),
            (51, "minute", 600),
            (50, "hour", 600),
            (50, "minute", 60),
        )
    ],
    "work": [replace(IDENTITY, work=1_000), replace(IDENTITY, work=1_000_000)],
    "search_ms": [replace(IDENTITY, search_ms=5), replace(IDENTITY, search_ms=500)],
    "key_bytes": [replace(IDENTITY, key_bytes=100), replace(IDENTITY, key_bytes=10_000)],
    "strings": [replace(IDENTITY, strings=1_000), replace(IDENTITY, strings=1_000_000)],
}


def test_rewritten_document_has_the_same_digests(parse: Parse) -> None:
    """Comments, order, quotes, units and explicit defaults do not change the meaning."""
    before, after = parse(EXAMPLE), parse(REWRITTEN)

    assert policy_digest(before) == policy_digest(after)
    for identity in before.identities:
        twin = after.identity(identity.name)
        assert twin is not None
        assert canonical(identity) == canonical(twin)


@pytest.mark.parametrize(
    "written",
    [
        "retain: 30d",
        "retain: {until: exported, hard_max: 100000}",
        "reads: true",
        "values: length",
        'mask_keys: ["agents:*"]',
        "before_images: {max_bytes: 1b}",
    ],
)
def test_each_audit_field_of_the_defaults_changes_every_digest(parse: Parse, written: str) -> None:
    """A guard depends on the audit rules."""
    without = EXAMPLE.replace("    audit: {before_images: {max_bytes: 64kb}}\n", "")
    changed = parse(without.replace("audit: {retain: 100000}", f"audit: {{{written}}}"))

    for identity, other in zip(parse(without).identities, changed.identities, strict=True):
        assert identity_digest(identity) != identity_digest(other)


@pytest.mark.parametrize(
    "written", ["reads: false", "values: none", "mask_keys: []", "before_images: off"]
)
def test_explicit_default_of_audit_leaves_the_digest(parse: Parse, written: str) -> None:
    """An explicit default does not change the meaning."""
    explicit = EXAMPLE.replace("audit: {retain", f"audit: {{{written}, retain")

    assert explicit != EXAMPLE
    assert policy_digest(parse(explicit)) == policy_digest(parse(EXAMPLE))


def test_every_field_of_the_model_has_a_change() -> None:
    """A new field of the model must be added to `CHANGES`."""
    assert set(CHANGES) == {field.name for field in fields(Identity) if field.compare}


@pytest.mark.parametrize("field", CHANGES)
def test_change_of_meaning_changes_the_digest(field: str) -> None:
    """Each change has a digest of its own."""
    digests = [identity_digest(identity) for identity in (IDENTITY, *CHANGES[field])]

    assert len(set(digests)) == len(digests)
    assert policy_digest(Policy((IDENTITY,))) != policy_digest(Policy((CHANGES[field][0],)))


def test_order_without_meaning_leaves_the_digest(parse: Parse) -> None:
    """Limits, `only` and identities are sets."""
    turned = replace(
        IDENTITY,
        rates=IDENTITY.rates[::-1],
        budgets=IDENTITY.budgets[::-1],
        grants=(replace(GRANT, only=("SET", "GET")),),
    )
    other = replace(IDENTITY, name="b")

    assert identity_digest(turned) == identity_digest(IDENTITY)
    assert policy_digest(Policy((IDENTITY, other))) == policy_digest(Policy((other, turned)))


def test_warnings_leave_the_digest() -> None:
    """Missing commands of a server are not part of the policy."""
    warning = Problem("absent-command", "the server has no `SET`", Span("p", 1, 1), "remove it")

    assert policy_digest(Policy((IDENTITY,), (warning,))) == policy_digest(Policy((IDENTITY,)))


def test_accepted_findings_leave_the_digest(parse: Parse) -> None:
    """Guards do not depend on accepted findings."""
    accepting = parse(EXAMPLE)
    silent = parse(re.sub(r"\n    accept: .*", "", EXAMPLE))

    assert accepting.identities[1].accepted
    assert not silent.identities[1].accepted
    assert policy_digest(accepting) == policy_digest(silent)


def test_canonical_text_is_one_line_of_json_without_places(parse: Parse) -> None:
    """It does not depend on the file's name, and fields at their default are left out."""
    text = canonical(parse(EXAMPLE).identities[0])

    assert "\n" not in text
    assert "p.yaml" not in text
    assert json.loads(text)["grants"] == [{"allow": ["read"], "keys": ["agents:context:*"]}]


def test_rules_for_values_allow_more_if_one_of_them_is_looser() -> None:
    """`plan` reports such a change as one that widens."""
    strict = ValueRules(64, 10, TtlRule(60, 600), KeyState.ABSENT)
    looser = (
        replace(strict, max_bytes=65),
        replace(strict, max_elements=None),
        replace(strict, ttl=TtlRule(60, 601)),
        replace(strict, ttl=TtlRule(61, 600)),
        replace(strict, ttl=None),
        replace(strict, only=None),
    )
    assert all(rules.allows_more_than(strict) for rules in looser)
    assert not any(strict.allows_more_than(rules) for rules in looser)
    assert not strict.allows_more_than(strict)
