"""Rules that no recorded call needed, and rules about which the log does not say enough."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from keyleash.learn.calls import CallLog, RecordedCall
from keyleash.learn.unused import Unused, find_unused
from keyleash.policy import Policy, parse_policy
from keyleash.policy_tests.invariants import may_name

DAY_MS = 86_400_000
HEAD = "version: 1\nidentities:\n  one:\n    kind: machine\n"


class Recorded(CallLog):
    """A log of some calls; from time 0 on, with reads."""

    def __init__(self, *calls: RecordedCall) -> None:
        super().__init__("a log", None)
        self.calls = calls
        self.until_ms = 0

    def _calls(self) -> Iterator[RecordedCall]:
        for name in ("one", "idle"):
            coverage = self.covered(name)
            coverage.since_ms = coverage.reads_since_ms = 0
            coverage.until_ms = self.until_ms
        yield from self.calls


def call(command: str, *keys: bytes, **facts: Any) -> RecordedCall:
    return RecordedCall("one", 1_000_000, command, keys, "token", **facts)


def unused(log: CallLog, grants: str, rest: str = "") -> Unused:
    return find_unused(log, f"{HEAD}    grants: [{grants}]\n{rest}", "p.yaml")


def verdicts(found: Unused) -> dict[str, str]:
    return {rule.rule: rule.undecided or "unused" for rule in found.rules}


def test_a_queue_that_was_always_empty_is_not_unused() -> None:
    """A poll without a result leaves no event; a grant that excludes polling is decided."""
    grants = '{allow: [read, delete], keys: ["q:*", "r:*"]%s}, {allow: [write], keys: ["o:*"]}'
    log = Recorded(call("LPOP", b"q:1"))
    capture = Recorded(*log.calls)
    capture.is_capture = True

    lost = "polls without a result are not recorded"
    assert verdicts(unused(log, grants % "")) == {"r:*": lost, "o:*": lost, "write": lost}
    decided = dict.fromkeys(("r:*", "o:*", "write"), "unused")
    assert verdicts(unused(log, grants % ', except: ["@blocking"]')) == decided
    assert verdicts(unused(capture, grants % "")) == decided
    assert verdicts(unused(Recorded(), grants % "")) == {"one": lost}


def policy_text(*keys: str, classes: str = "write") -> str:
    return f"{HEAD}    grants: [{{allow: [{classes}], keys: [{', '.join(map(repr, keys))}]}}]\n"


def policy(*keys: str, classes: str = "write, delete") -> Policy:
    return parse_policy(policy_text(*keys, classes=classes), file="p.yaml", commands=None)


def test_a_rule_is_unused_only_from_when_it_was_active() -> None:
    """A pattern and a class of a week are undecided in a log of a month, and stay."""
    log = Recorded(call("SET", b"a:1"))
    log.wanted_ms, log.until_ms = 0, 30 * DAY_MS
    log.policies = [
        (28 * DAY_MS, policy("a:*", "b:*", "c:*")),
        (10 * DAY_MS, policy("a:*", "b:*", classes="write")),
        (0, policy("a:*", "b:*", "d:*", classes="write, delete")),
    ]

    found = unused(log, '{allow: [write, delete], keys: ["a:*", "b:*", "c:*", "d:*"]}')

    since = "only since 1970-01-29 00:00:00Z"
    absent = "it is not in the active policy"
    assert verdicts(found) == {"b:*": since, "c:*": since, "d:*": absent, "delete": absent}
    assert [rule.since_ms for rule in found.rules[:2]] == [28 * DAY_MS] * 2
    assert "c:*" in found.document


def test_a_log_that_is_younger_than_what_is_wanted_decides_nothing() -> None:
    """A log of a day says nothing about a month, and one of 29 days does."""
    log = Recorded(call("SET", b"a:1"))
    grants = '{allow: [write], keys: ["a:*", "b:*"]}'
    log.wanted_ms, log.until_ms = -29 * DAY_MS, DAY_MS

    assert verdicts(unused(log, grants)) == {"b:*": "only since 1970-01-01 00:00:00Z"}
    log.wanted_ms, log.until_ms = -DAY_MS, 29 * DAY_MS
    assert verdicts(unused(log, grants)) == {"b:*": "unused"}


def test_an_identity_that_a_test_names_stays(tmp_path: Path) -> None:
    """The policy would not load without it."""
    file = tmp_path / "p.yaml"
    idle = "  idle:\n    kind: machine\n    grants: [{allow: [publish], channels: [x]}]\n"
    document = f"{policy_text('a:*')}{idle}tests: [t.yaml]\n"
    log = Recorded(call("SET", b"a:1"))

    used = Recorded(call("PUBLISH", b"y"))
    rule = "policy: p.yaml\ninvariants: [{name: n, identity: %s, may_only: [publish, write]}]\n"

    def found() -> Unused:
        return find_unused(log, document, str(file), (), partial(may_name, str(file)))

    lost = found()
    (tmp_path / "t.yaml").write_text(rule % "idle")
    named = found()
    (tmp_path / "t.yaml").write_text(rule % "one")
    emptied = find_unused(used, policy_text("a:*"), str(file), (), lambda *_: True).document
    free = found()

    assert verdicts(lost)["idle"] == verdicts(named)["idle"] == "a test names it"
    assert verdicts(free)["idle"] == "unused"
    assert "one:" in emptied
    assert ["idle" in item.document for item in (named, free)] == [True, False]


def test_a_masked_key_may_need_a_pattern() -> None:
    """Only patterns that no key with its visible beginning matches are unused."""
    log = Recorded(call("SET", b"a:#" + b"0" * 40))
    grants = '{allow: [write], keys: ["a:{x}:b", "b:*", "a:*"]}'

    assert verdicts(unused(log, grants)) == {"a:{x}:b": "masked keys", "b:*": "unused"}


def test_denied_calls_are_calls() -> None:
    """An identity or a token that only had denied calls is not unused."""
    log = Recorded(call("SET", b"b:1", code="KEY_NOT_GRANTED"))
    document = policy_text("a:*")

    found = find_unused(log, document, "p.yaml", [("one", "token"), ("one", "other")])

    denied = "its calls were denied"
    assert verdicts(found) == {"one": denied, "token": denied, "other": "unused"}


def test_a_pattern_may_be_for_keys_of_a_script_that_ran() -> None:
    """Its event has no KEYS; a capture has them."""
    grants = '{allow: [write], keys: ["q:*", "cfg:*"], scripts: [redis-py-lock]}'
    grants += ', {allow: [write], keys: ["x:*"]}'
    ran = call("SET", b"q:1", script="redis-py-lock")
    capture = Recorded(call("EVALSHA", b"cfg:1", script="redis-py-lock"), ran)
    capture.is_capture = True

    lost = "it may be a key of a script"
    assert verdicts(unused(Recorded(ran), grants)) == {"cfg:*": lost, "x:*": lost, "write": lost}
    assert verdicts(unused(capture, grants)) == {"x:*": "unused", "write": "unused"}
    assert "cfg:*" in verdicts(unused(Recorded(call("SET", b"q:1")), grants))
