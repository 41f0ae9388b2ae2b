"""Rules that no recorded call needed, and rules about which the log does not say enough."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyleash.addons.learn.backtest import Outcome, Replay
from keyleash.addons.learn.calls import CallLog, RecordedCall
from keyleash.addons.learn.unused import Unused, find_unused
from keyleash.addons.policy_tests.invariants import may_name
from keyleash.commands import known_table
from keyleash.errors import PolicyError
from keyleash.policy import Policy, parse_policy
from support.thorough import FACTOR

DAY_MS = 86_400_000
HEAD = "version: 1\nidentities:\n  one:\n    kind: machine\n"


class Recorded(CallLog):
    """A log of some calls; from time 0 on, with reads."""

    def __init__(self, *calls: RecordedCall) -> None:
        super().__init__("a log", None)
        self.calls = calls
        self.until_ms = 0
        self.hole_ms = self.gap_ms = 0
        self.has_reads = True
        self.is_cut = self.is_torn = False

    def _calls(self) -> Iterator[RecordedCall]:
        for name in ("one", "idle"):
            coverage = self.covered(name)
            coverage.since_ms, coverage.is_cut = 0, self.is_cut
            coverage.reads_since_ms = 0 if self.has_reads else None
            coverage.until_ms, self.gaps_ms[name] = self.until_ms, self.gap_ms
            if self.hole_ms:
                self.note_hole(name, "a hole", self.hole_ms)
        if self.is_torn:
            self.not_understood.add("line 1", "not a complete line")
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


def test_what_leaves_no_event_is_undecided() -> None:
    """EXISTS needs any class, and is no change; a subscription may have begun before the log."""
    grants = "{allow: [write], keys: [k, 'w:*']}, {allow: [subscribe], channels: ['c:*']}"
    log = Recorded(call("SET", b"k"))
    assert verdicts(unused(log, grants)) == dict.fromkeys(("w:*", "c:*", "subscribe"), "unused")
    log.gap_ms = 200_000
    unread = dict.fromkeys(("w:*", "c:*", "subscribe"), "reads are not recorded")
    assert verdicts(unused(log, grants)) == unread
    log.has_reads = False
    assert verdicts(unused(log, grants)) == unread
    log.has_reads, log.gap_ms, log.is_cut = True, 0, True
    older = "a subscription may be older than the log"
    assert verdicts(unused(log, grants)) == {"w:*": "unused", "c:*": older, "subscribe": older}
    log.is_torn = True
    assert {*verdicts(unused(log, grants)).values()} == {"the log lacks calls"}
    only = "{allow: [subscribe], channels: ['c:*']}"
    log.is_torn, log.calls = False, ()
    assert verdicts(unused(log, only)) == {"one": older}
    log.has_reads = False
    assert verdicts(unused(log, only)) == {"one": "reads are not recorded"}


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
    grants = '{allow: [write], keys: ["a:{x}:b", "b:*"%s]}'

    assert verdicts(unused(log, grants % ', "a:*"')) == {"a:{x}:b": "masked keys", "b:*": "unused"}
    grants = grants.replace("[write]", "[write, delete]")
    found = {"a:{x}:b": "masked keys", "b:*": "unused", "write": "masked keys", "delete": "unused"}
    assert verdicts(unused(log, grants % "")) == found


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


POLLS = ', except: ["@blocking"]'


@pytest.mark.parametrize(
    ("grants", "narrowed"),
    [
        ('{allow: [read], keys: ["b:*"]}, {allow: [read, write], keys: ["b:*", "c"]}',) * 2,
        (
            '{allow: [read, write], keys: ["b:*"]},'
            ' {allow: [read], keys: ["b:*"], values: {max_bytes: 1kb}}',
        )
        * 2,
        (
            '{allow: [read], keys: ["b:*"]}, {allow: [read, write], keys: ["b:*"],'
            " scripts: [redis-py-lock]}, {allow: [delete], keys: [d]}",
            '{allow: [read], keys: ["b:*"]}, {allow: [read, write], keys: ["b:*"],'
            " scripts: [redis-py-lock]}",
        ),
    ],
    ids=["part", "values", "script"],
)
def test_a_grant_that_would_become_as_another_stays(grants: str, narrowed: str) -> None:
    """A policy has no rule twice; all else that is unused is removed."""
    log = Recorded(
        call("GET", b"b:1"), call("GET", b"c"), call("GET", b"b:1", script="redis-py-lock")
    )
    log.is_capture = True

    assert unused(log, grants).document == f"{HEAD}    grants: [{narrowed}]\n"


def test_a_key_and_a_channel_of_one_text_are_two_patterns() -> None:
    """The one that calls used stays."""
    grants = '{allow: [write, publish], keys: ["e:*"], channels: ["e:*", f]}'
    log = Recorded(call("SET", b"e:1"), call("PUBLISH", b"f"))

    assert 'keys: ["e:*"], channels: [f]}' in unused(log, grants).document


def some(numbers: random.Random, items: tuple[str, ...], most: int) -> str:
    return ", ".join(map(repr, numbers.sample(items, numbers.randint(1, most))))


def random_grant(numbers: random.Random) -> str:
    keys = some(numbers, ("a:*", "a:{x}", "b:*", "b:{x}:s", "c"), 3)
    classes = some(numbers, ("read", "write", "delete", "scan"), 3)
    channels = ""
    if numbers.random() < 0.3:
        classes += ", publish"
        channels = f", channels: [{some(numbers, ('a:*', 'x'), 1)}]"
    rest = numbers.choice(("", POLLS, ", values: {max_bytes: 1kb}", ", scripts: [redis-py-lock]"))
    return f"{{allow: [{classes}], keys: [{keys}]{channels}{rest}}}"


def random_call(numbers: random.Random) -> RecordedCall:
    commands = ("GET", "SET", "DEL", "COPY", "EXISTS", "LPOP", "RENAME", "SCAN", "PUBLISH")
    keys = numbers.choices((b"a:1", b"a:2:3", b"b:1:s", b"b:2", b"c"), k=2)
    command = numbers.choice(commands)
    keys = keys[: 2 if command in ("COPY", "RENAME") else 1]
    return call(command, *keys, script=numbers.choice(("", "", "redis-py-lock")))


def test_a_valid_policy_always_gives_a_valid_narrowed_one() -> None:
    """It allows every recorded call that the policy allows, and no other call."""
    numbers, parsed = random.Random(1), 0
    log = Recorded()
    while parsed < 400 * FACTOR:
        texts = [
            ", ".join(random_grant(numbers) for _ in range(numbers.randint(1, 4))) for _ in range(2)
        ]
        try:
            old, now = (
                parse_policy(f"{HEAD}    grants: [{text}]\n", file="p.yaml", commands=None)
                for text in texts
            )
        except PolicyError:
            continue
        parsed += 1
        made = [random_call(numbers) for _ in range(numbers.choice((3, 10, 40)))]
        judge = Replay(now, log=log)
        log.calls = tuple(x for x in made if judge.outcome(x)[0] is not Outcome.DENIED)
        log.is_capture, log.until_ms, log.policies = numbers.random() < 0.5, 30 * DAY_MS, []
        if numbers.random() < 0.5:
            log.policies = [(28 * DAY_MS, now), (0, old)]

        document = unused(log, texts[1]).document

        narrowed = Replay(parse_policy(document, file="n.yaml", commands=known_table()), log=log)
        for recorded in log.calls:
            assert narrowed.outcome(recorded)[0] is not Outcome.DENIED, (recorded, document)


def test_what_patterns_of_sort_may_need_is_undecided() -> None:
    """Only a call with its arguments says which keys it read."""
    grants = (
        f"{{allow: [read, write], keys: [l]{POLLS}}}, {{allow: [read], keys: [y]{POLLS}}},"
        f' {{allow: [read], keys: ["w_*", "x_*"]{POLLS}}}'
    )
    push, words = call("RPUSH", b"l"), (b"SORT", b"l", b"BY", b"w_*", b"GET", b"#")
    lost = "SORT or an index may have needed it"

    found = unused(Recorded(push, call("SORT", b"l")), grants)
    shown = unused(Recorded(push, call("SORT", b"l", argv=words)), grants)
    plain = unused(Recorded(push, call("SORT", b"l", argv=words[:2])), grants)

    rest = {"y": "unused"}
    assert verdicts(found) == {"w_*": lost, "x_*": lost, "read": lost} | rest
    assert verdicts(shown) == {"x_*": "unused", "read": "unused"} | rest
    assert verdicts(plain) == {"w_*": "unused", "x_*": "unused", "read": "unused"} | rest


def test_keys_that_an_index_may_show_are_undecided() -> None:
    """Its prefixes are on the server; an index with a filter needs no keys."""
    grants = f'{{allow: [read], indexes: [%s], keys: ["d:*", e]{POLLS}}}'
    grants += f', {{allow: [read, write], keys: ["f:*"]{POLLS}}}'
    search, lost = call("FT.SEARCH", b"i"), "SORT or an index may have needed it"
    filtered = "{name: i, where: {agent: one}}"

    found = verdicts(unused(Recorded(search), grants % "i"))

    assert found == {"d:*": lost, "e": "unused", "f:*": lost, "read": lost, "write": "unused"}
    assert "d:*" in verdicts(unused(Recorded(search), grants % filtered))
    assert set(verdicts(unused(Recorded(search), grants % filtered)).values()) == {"unused"}


def test_a_rule_is_unused_only_if_the_time_after_a_hole_is_enough() -> None:
    """Its calls may be what is missing."""
    log = Recorded(call("SET", b"a:1"))
    grants = '{allow: [write], keys: ["a:*", "b:*"]}'
    log.until_ms, log.hole_ms = 30 * DAY_MS, 5 * DAY_MS

    assert verdicts(unused(log, grants)) == {"b:*": "only since 1970-01-06 00:00:00Z"}
    log.hole_ms = 2 * DAY_MS
    assert verdicts(unused(log, grants)) == {"b:*": "unused"}
