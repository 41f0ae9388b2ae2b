"""The findings of each lint rule, and similar policies without findings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyleash.policy import Policy
from keyleash.policy.lint import CODES, lint

Parse = Callable[[str], Policy]

READ = '[{allow: [read], keys: ["a:*"]}]'
HUMAN = "kind: human, token: {ttl: 1h, max_ttl: 8h, idle: 15m}"
LIMITS = "rate: {requests: 60/minute}, budget: {requests: 5000/day}"


def document(*identities: str, defaults: str = "{}") -> str:
    """Return a policy with each identity, `name: fields`, on its own line, from the fourth on."""
    lines = ["version: 1", f"defaults: {defaults}", "identities:"]
    for identity in identities:
        name, fields = identity.split(": ", 1)
        kind = "" if "kind:" in fields else "kind: machine, "
        lines.append(f"  {name}: {{{kind}{fields}}}")
    return "\n".join(lines)


def found(parse: Parse, *identities: str, defaults: str = "{}") -> list[tuple[str, int, str]]:
    """Return the code of each finding, its line, and the text of the line from its column on."""
    text = document(*identities, defaults=defaults)
    problems = lint(parse(text)).warnings
    lines = text.splitlines()
    return [
        (problem.code, problem.span.line, lines[problem.span.line - 1][problem.span.column - 1 :])
        for problem in problems
    ]


def codes(parse: Parse, *identities: str, defaults: str = "{}") -> list[str]:
    return [code for code, _, _ in found(parse, *identities, defaults=defaults)]


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ('a: grants: [{allow: [read], keys: ["*"]}]', ["bare-wildcard"]),
        ('a: grants: [{allow: [publish], channels: ["*"]}]', ["bare-wildcard"]),
        ('a: grants: [{allow: [read], keys: ["a*"]}]', []),
        ('a: grants: [{allow: [read], keys: ["{tenant}:*"]}]', []),
        (f'a: {HUMAN}, grants: [{{allow: [read], keys: ["*"]}}]', []),
    ],
)
def test_bare_wildcard_is_for_people(parse: Parse, identity: str, expected: list[str]) -> None:
    """A pattern with a literal or a capture is not a bare wildcard."""
    assert codes(parse, identity) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [("keyleash:*", ["control-keys"]), ("keyleash:{x}:y", ["control-keys"]), ("keyleash", [])],
)
def test_keys_of_keyleash_are_never_granted(parse: Parse, key: str, expected: list[str]) -> None:
    """At run time every such call is denied, by no rule of the policy."""
    assert codes(parse, f'a: {HUMAN}, grants: [{{allow: [read], keys: ["{key}"]}}]') == expected


@pytest.mark.parametrize(
    ("identity", "count"),
    [
        (f"agent-1: grants: {READ}", 0),
        (f"human-agent: grants: {READ}", 1),
        (f"administrator: grants: {READ}", 0),
        (f"support-agent: {HUMAN}, grants: {READ}", 1),
        (f"jo: {HUMAN}, grants: {READ}, rate: {{reads: 600/minute}}", 0),
        (f"jo: {HUMAN}, grants: {READ}, rate: {{reads: 11/second}}", 1),
        (f"jo: {HUMAN}, grants: {READ}, budget: {{reads: 100000/day, requests: 4000/hour}}", 0),
        (f"jo: {HUMAN}, grants: {READ}, budget: {{reads: 100001/day, requests: 5000/hour}}", 2),
        (f"jo: grants: {READ}, rate: {{reads: 100/second}}", 0),
    ],
)
def test_duties_are_mixed_by_name_and_by_pace(parse: Parse, identity: str, count: int) -> None:
    """Only whole words of a name count, and only limits of people."""
    assert codes(parse, identity) == ["mixed-duties"] * count


@pytest.mark.parametrize(
    ("identity", "defaults", "place"),
    [
        (f"a: grants: {READ}, token: {{ttl: 7d, max_ttl: 7d}}", "{}", None),
        (f"a: grants: {READ}, token: {{max_ttl: 8d}}", "{}", "8d}"),
        (f"a: grants: {READ}, token: {{ttl: 8d, max_ttl: 9d}}", "{}", "8d, max_ttl"),
        (f"a: grants: {READ}", "{token: {max_ttl: 8d}}", "a: {kind"),
        (f"a: kind: human, grants: {READ}, token: {{ttl: 1h, idle: 15m}}", "{}", "a: {kind"),
    ],
)
def test_life_of_tokens_is_judged_by_kind_at_its_place(
    parse: Parse, identity: str, defaults: str, place: str | None
) -> None:
    """The place is the field of the identity, or its name if the value is from the defaults."""
    findings = found(parse, identity, defaults=defaults)

    assert [code for code, _, _ in findings] == ["long-lived-token"] * (place is not None)
    assert all(there.startswith(place or "") for _, _, there in findings)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", ["no-rate", "no-budget"]),
        ("rate: {reads: 1/minute}, budget: {reads: 1/day}", ["no-rate", "no-budget"]),
        ("rate: {requests: 9/minute}, budget: {deletes: 9/day, writes: 9/day}", []),
        ("rate: {writes: 9/minute, deletes: 9/minute}, budget: {requests: 9/day}", []),
        ("rate: {writes: 9/minute}, budget: {requests: 9/day}", ["no-rate"]),
        ('rate: {requests: {limit: 9/minute, per: "{x}"}}, budget: {requests: 9/day}', ["no-rate"]),
        ("rate: {requests: {limit: 9/minute, per: token}}, budget: {requests: 9/day}", []),
    ],
)
def test_changes_must_count_towards_a_rate_and_a_budget(
    parse: Parse, fields: str, expected: list[str]
) -> None:
    """Every class that changes keys must count."""
    grants = '[{allow: [write], keys: ["a:{x}"]}, {allow: [write, delete], keys: ["b:*"]}]'
    audit = "audit: {retain: 30d}"

    assert codes(parse, f"a: grants: {grants}, {audit}, {fields}".rstrip(", ")) == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ('rate: {writes: {limit: 9/minute, per: "{x}"}}, budget: {requests: 9/day}', ["no-rate"]),
        ('rate: {requests: 9/minute}, budget: {reads: {limit: 9/day, per: "{x}"}}', ["no-budget"]),
        (
            'rate: {reads: {limit: 9/minute, per: "{x}"}, requests: {limit: 9/minute, per: token}}',
            [],
        ),
        ("rate: {writes: 9/minute}", []),
    ],
)
def test_limit_by_a_segment_needs_one_of_the_identity_beside_it(
    parse: Parse, limits: str, expected: list[str]
) -> None:
    """Callers make segments up, also in calls that only read."""
    needed = "" if "budget" in limits else ", budget: {requests: 9/day}"
    grants = '[{allow: [read, write], keys: ["a:{x}", "b:{x}:*"]}]'
    found = codes(parse, f"a: grants: {grants}, {limits}{needed}")

    assert [code for code in found if code in ("no-rate", "no-budget")][:1] == expected


def test_people_need_no_limits_but_an_idle_timeout(parse: Parse) -> None:
    """Tokens of people must expire when unused; limits are for machines."""
    grants = '[{allow: [write], keys: ["a:*"]}]'
    human = f"jo: kind: human, grants: {grants}, token: {{ttl: 1h, max_ttl: 8h}}"

    assert codes(parse, human) == ["no-idle-timeout"]
    assert codes(parse, human, defaults="{token: {idle: 10m}}") == []


@pytest.mark.parametrize(
    ("fields", "short"),
    [
        ("budget: {requests: 500/day}, audit: {retain: 499}", True),
        ("budget: {requests: 500/day}, audit: {retain: 500}", False),
        ("budget: {requests: 500/hour}, audit: {retain: 11999}", True),
        ("budget: {requests: 500/hour}, audit: {retain: 12000}", False),
        ("budget: {requests: 500/month}, audit: {retain: 500}", False),
        ("budget: {writes: 100/day, deletes: 50/day}, audit: {retain: 149}", True),
        ("budget: {writes: 100/day, deletes: 50/day}, audit: {retain: 150}", False),
        ("budget: {writes: 100/day, deletes: 50/day}, audit: {retain: 150, reads: true}", True),
        (
            "budget: {requests: 500/day}, audit: {retain: 999, before_images: {max_bytes: 1kb}}",
            True,
        ),
        ("budget: {requests: {limit: 5/day, per: token}}, audit: {retain: 9999}", True),
        ("budget: {requests: {limit: 5/day, per: token}}, audit: {retain: 10000}", False),
        ("budget: {requests: 5/day}, audit: {retain: 2d}", True),
        ("budget: {requests: 5/day}, audit: {retain: 3d}", False),
        ("budget: {requests: 5/day}, audit: {retain: {until: exported, hard_max: 1}}", False),
    ],
)
def test_audit_stream_of_deletes_must_outlive_a_day_and_a_token(
    parse: Parse, fields: str, short: bool
) -> None:
    """Before-images take a second entry, and a budget per token bounds nothing."""
    grants = '[{allow: [read, write, delete], keys: ["a:*"]}]'
    identity = f"a: grants: {grants}, rate: {{requests: 5/minute}}, {fields}"

    assert [code for code in codes(parse, identity) if code != "unreachable-budget"] == [
        "short-retention"
    ] * short


READ_AB = '{allow: [read], keys: ["a:b"]}'


@pytest.mark.parametrize(
    ("grants", "needless"),
    [
        ((READ_AB, '{allow: [read, write], keys: ["a:*"]}'), [0]),
        (('{allow: [read, write], keys: ["a:*"]}', READ_AB), [1]),
        ((READ_AB, '{allow: [write], keys: ["a:*"]}'), []),
        (('{allow: [read], keys: ["a:b", "c"]}', '{allow: [read, write], keys: ["a:*"]}'), []),
        # Of two equal grants, the later one.
        (
            ('{allow: [read], keys: ["a:{x}"]}', '{allow: [read], except: [GET], keys: ["a:{y}"]}'),
            [1],
        ),
        # Several together, each class from another.
        (
            (
                '{allow: [read], keys: ["a:{x}"]}',
                '{allow: [write], keys: ["a:*"]}',
                '{allow: [read, write], keys: ["a:b"]}',
            ),
            [2],
        ),
        # The other one does not apply to all of its commands.
        ((READ_AB, '{allow: [read, write], only: [GET], keys: ["a:*"]}'), []),
        ((READ_AB, '{allow: [read, write], except: [GET], keys: ["a:*"]}'), []),
        (
            (
                '{allow: [read], only: [GET], keys: ["a:b"]}',
                '{allow: [read, write], only: [GET, SET], keys: ["a:*"]}',
            ),
            [0],
        ),
        # It sets before-images.
        (
            (
                '{allow: [write], keys: ["a:b"], before_images: off}',
                '{allow: [read, write], keys: ["a:*"]}',
            ),
            [],
        ),
        # It bounds the length of values.
        (
            (
                '{allow: [write], keys: ["a:b"], values: {max_bytes: 64b}}',
                '{allow: [read, write], keys: ["a:*"], values: {max_bytes: 1kb}}',
            ),
            [],
        ),
        # The other does not cover its channels.
        (
            (
                '{allow: [read, publish], keys: ["a:b"], channels: [c]}',
                '{allow: [read, write, publish], keys: ["a:*"], channels: [d]}',
            ),
            [],
        ),
    ],
)
def test_grant_is_covered_if_it_could_go(
    parse: Parse, grants: tuple[str, ...], needless: list[int]
) -> None:
    """Its classes, commands, before-images, value lengths and channels are compared."""
    findings = found(parse, f"a: {LIMITS}, grants: [{', '.join(grants)}]")

    assert [code for code, _, _ in findings] == ["covered-grant"] * len(needless)
    assert all(
        there.startswith(grants[place])
        for (_, _, there), place in zip(findings, needless, strict=True)
    )


def test_grant_whose_capture_is_counted_by_is_not_covered_by_a_star(parse: Parse) -> None:
    """Without it the calls would not count towards the limit."""
    grants = '[{allow: [read], keys: ["a:{x}"]}, {allow: [read, scan], keys: ["a:*"]}]'

    assert codes(parse, f"a: grants: {grants}") == ["covered-grant"]
    rates = '{requests: 9/minute, reads: {limit: 9/minute, per: "{x}"}}'
    assert codes(parse, f"a: grants: {grants}, rate: {rates}") == []


def test_deny_rule_is_judged_pattern_by_pattern(parse: Parse) -> None:
    """A misspelt pattern is found at its place."""
    deny = '[{keys: ["a:b", "A:b"]}, {keys: ["{x}"]}]'

    assert found(parse, f"a: grants: {READ}, deny: {deny}") == [
        ("idle-deny", 4, '"A:b"]}, {keys: ["{x}"]}]}'),
        ("idle-deny", 4, '"{x}"]}]}'),
    ]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (READ, True),
        ('[{allow: [read], keys: ["a:*"]}, {allow: [read], only: [GET], keys: ["a:b"]}]', False),
        ('[{allow: [read], except: [GET], keys: ["a:*"]}]', False),
        ('[{allow: [read], keys: ["a:*"]}], deny: [{keys: ["a:b"]}]', False),
        ('[{allow: [read], keys: ["a:*"]}], deny: [{keys: ["b"]}]', True),
        ('[{allow: [read, scan], keys: ["a:*"]}]', False),
    ],
)
def test_scope_depends_on_allowed_calls_only(parse: Parse, other: str, same: bool) -> None:
    """Deny rules without effect, and limits, do not change the scope."""
    reported = codes(
        parse, f"one: grants: {READ}", f"two: grants: {other}, rate: {{reads: 9/minute}}"
    )

    assert ("same-scope" in reported) is same


def test_scope_is_the_same_with_other_names_and_another_division(parse: Parse) -> None:
    """Names of captures and the division into grants do not change the scope."""
    findings = found(
        parse,
        f'one: {LIMITS}, grants: [{{allow: [read, write], keys: ["a:{{x}}:s", "b"]}}]',
        f'two: {LIMITS}, grants: [{{allow: [read], keys: ["b", "a:{{y}}:s"]}},'
        ' {allow: [write], keys: ["a:{z}:s"]}, {allow: [write], keys: [b]}]',
        f'jo: {HUMAN}, grants: [{{allow: [read, write], keys: ["a:{{x}}:s", "b"]}}]',
    )

    assert [(code, line) for code, line, _ in findings] == [("same-scope", 5)]


@pytest.mark.parametrize(
    ("first", "second", "places"),
    [
        ("agents:job*", "agents:jobs:*", [4]),
        ("agents:jobs*", "agents:jobs:*", [4]),
        ("agents:jobs{id}:state", "agents:jobs:{job}:state", [4]),
        ("agents:jobs:{id}:state", "agents:{job}s:{id}state", []),
        ("a:{x}b", "a:{y}:b", [4]),
        ("ab", "a:b", [4]),
        ("agents:job*", "agents:jobs", []),
        ("agents:job:*", "agents:jobs:*", []),
        ("agents:job", "agents:jobs:*", []),
        ("agents:*", "agents:jobs:{id}", []),
        ("agents:job*", "agents:other:*", []),
        ("agents:{x}:job*", "agents:{y}:jobs:*", [4]),
        ("a::b", "a:b", [5]),
    ],
)
def test_missing_delimiter_is_found_at_the_pattern_that_lacks_it(
    parse: Parse, first: str, second: str, places: list[int]
) -> None:
    """The identities of the patterns and the names of captures do not matter."""
    findings = found(
        parse,
        f'one: grants: [{{allow: [read], keys: ["{first}"]}}]',
        f'two: grants: [{{allow: [scan], keys: ["{second}"]}}]',
    )

    assert [(code, line) for code, line, _ in findings] == [
        ("missing-delimiter", line) for line in places
    ]


def test_key_and_channel_patterns_are_not_compared(parse: Parse) -> None:
    """Keys and channels have separate names."""
    keys, channels = (
        '{allow: [read], keys: ["a:job*"]}',
        '{allow: [publish], channels: ["a:jobs:*"]}',
    )

    assert codes(parse, f"a: grants: [{keys}, {channels}]") == []


@pytest.mark.parametrize(
    ("limits", "unreachable"),
    [
        ("rate: {reads: 10/minute}, budget: {reads: 14401/day}", True),
        ("rate: {reads: 10/minute}, budget: {reads: 14400/day}", False),
        ("rate: {requests: 10/minute}, budget: {reads: 14401/day}", True),
        ("rate: {reads: 10/minute}, budget: {requests: 14401/day}", False),
        ("rate: {reads: 10/hour}, budget: {reads: 11/minute}", True),
        # A day on which the clock is put back has 25 hours.
        ("rate: {reads: 10/hour}, budget: {reads: {limit: 250/day, timezone: Asia/Tokyo}}", False),
        ("rate: {reads: 10/hour}, budget: {reads: {limit: 251/day, timezone: Asia/Tokyo}}", True),
        ("rate: {reads: {limit: 10/hour, burst: 5}}, budget: {reads: 245/day}", False),
        ("rate: {reads: {limit: 10/hour, burst: 5}}, budget: {reads: 246/day}", True),
        ("rate: {reads: {limit: 1/day, per: token}}, budget: {reads: 9/day}", False),
        (
            "rate: {reads: {limit: 1/day, per: token}},"
            " budget: {reads: {limit: 9/day, per: token}}",
            True,
        ),
        ("rate: {reads: 1/day}, budget: {reads: {limit: 9/day, per: token}}", True),
        # Calls do not bound bytes.
        ("rate: {requests: 1/day}, budget: {bytes_read: 9mb/day}", False),
        ("rate: {bytes_read: {limit: 1mb/day, burst: 1mb}}, budget: {bytes_read: 9mb/day}", True),
    ],
)
def test_budget_is_unreachable_if_a_rate_stops_all_of_its_calls_before(
    parse: Parse, limits: str, unreachable: bool
) -> None:
    """Counted in the budget's longest window, by a rate of at least its calls and subjects."""
    assert codes(parse, f"a: grants: {READ}, {limits}") == ["unreachable-budget"] * unreachable


@pytest.mark.parametrize(
    ("rules", "help"),
    [
        ("token: {idle: 40s}, cluster: {lease: 10s}", None),
        ("token: {idle: 39s}, cluster: {lease: 10s}", "token: {idle: 40s}` or more, or `cluster"),
        ("token: {idle: 3s}, cluster: {lease: 1s}", "token: {idle: 4s}` or more"),
        ("cluster: {lease: 5m}", None),
        # It may be for one server.
        ("token: {idle: 39s}", None),
    ],
)
def test_lease_is_long_beside_the_idle_timeout(parse: Parse, rules: str, help: str | None) -> None:
    """A token expires up to a lease too early, since the home does not see its calls meanwhile."""
    (found,) = lint(parse(document(f"a: grants: {READ}, {rules}"))).warnings or (None,)
    assert (found is None) == (help is None)
    assert found is None or (found.code == "long-lease" and str(help) in found.help)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("59/minute", "at most 1 call of `rate.reads`, so a call takes 2 more round trips"),
        ("60/minute", "at most 2 calls of `rate.reads`, so a call takes 1 more round trip"),
        ("90/minute", None),
        ("{limit: 600/minute, burst: 1}", "at most 1 call of `rate.reads`"),
        ("{limit: 600/minute, burst: 3}", None),
        ('{limit: 5/minute, per: "{id}"}, requests: 90/minute', None),
    ],
)
def test_rate_is_small_for_the_leases_of_a_cluster(
    parse: Parse, rate: str, message: str | None
) -> None:
    """On three primaries; a counter of a segment is beside its key, and needs no lease."""
    grants = '[{allow: [read], keys: ["a:{id}"]}]'
    rules = f"grants: {grants}, rate: {{reads: {rate}}}"
    (found,) = lint(parse(document(f"a: {rules}, cluster: {{lease: 1s}}"))).warnings or (None,)
    assert (found is None) == (message is None)
    assert found is None or (found.code == "small-rate" and str(message) in found.message)
    assert codes(parse, f"a: {rules}") == []


def test_defaults_make_a_policy_one_for_clusters(parse: Parse) -> None:
    """The place of the finding is where the lease is set."""
    own = f"a: grants: {READ}, token: {{idle: 30s}}"
    (warning,) = found(parse, own, defaults="{cluster: {lease: 20s}}")
    assert warning == ("long-lease", 2, "20s}}")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("token: {ttl: 2h, max_ttl: 2h, renew: true}", "live for `max_ttl` already"),
        ("token: {ttl: 1h, max_ttl: 2h, renew: true}", None),
        ("token: {ttl: 2h, max_ttl: 2h, renew: false}", None),
        (
            "token: {ttl: 10m, max_ttl: 1h, bound: true}, delegate: {depth: 1, max_ttl: 2h}",
            "`delegate.max_ttl` of `a` is longer than `1h`",
        ),
        ("token: {ttl: 10m, max_ttl: 1h, bound: true}, delegate: {depth: 1, max_ttl: 1h}", None),
        ("token: {ttl: 10m, max_ttl: 10m, bound: true}, delegate: {depth: 1}", None),
    ],
)
def test_life_is_unreachable_if_another_setting_ends_it_before(
    parse: Parse, rules: str, message: str | None
) -> None:
    """Nothing happens by such a renewal; no child outlives its parent."""
    report = lint(parse(document(f"a: grants: {READ}, {rules}")))
    messages = [item.message for item in report.warnings if item.code == "unreachable-life"]

    assert len(messages) == (message is not None)
    assert all(str(message) in item for item in messages)


@pytest.mark.parametrize(
    ("allow", "token", "why"),
    [
        ("[scan, delete]", "{flush: own}", None),
        ("[scan, delete]", "{publish_grants: false}", None),
        ("[scan, delete]", "{flush: own, publish_grants: false}", "cannot read what they may do"),
        ("[scan], keys: [k]}, {allow: [delete]", "{flush: own}", "both `scan` and `delete`"),
    ],
)
def test_flush_needs_one_grant_to_list_and_delete_and_agents_that_may_read_it(
    parse: Parse, allow: str, token: str, why: str | None
) -> None:
    """The connection looks at each grant alone, and at those that it can read."""
    report = lint(parse(document(f"a: grants: [{{allow: {allow}, keys: [k]}}], token: {token}")))
    messages = [str(item) for item in report.warnings if item.code == "idle-flush"]

    assert [str(why) in message for message in messages] == [True] * (why is not None)


def test_finding_is_accepted_in_its_identity_alone(parse: Parse) -> None:
    """A copy of the identity needs its own `accept`."""
    grants = '[{allow: [read], keys: ["*"]}]'
    accept = '{bare-wildcard: "a", same-scope: "b"}'
    report = lint(
        parse(document(f"two: grants: {grants}", f"one: grants: {grants}, accept: {accept}"))
    )

    assert [(finding.identity, finding.problem.code) for finding in report.findings] == [
        ("two", "bare-wildcard")
    ]
    assert [(item.identity, item.problem.code, item.reason) for item in report.accepted] == [
        ("one", "same-scope", "b"),
        ("one", "bare-wildcard", "a"),
    ]


def test_needless_accept_suggests_a_similar_code(parse: Parse) -> None:
    """A misspelt code accepts nothing, and the finding about it cannot be accepted."""
    accept = '{no-rates: "x", idle-deny: "y", needless-accept: "z"}'
    report = lint(parse(document(f"a: grants: {READ}, accept: {accept}")))

    assert [
        (finding.problem.message, finding.problem.help[:22]) for finding in report.findings
    ] == [
        ("unknown finding `no-rates`", "did you mean `no-rate`"),
        ("there is no `idle-deny` to accept here", "remove it"),
        ("unknown finding `needless-accept`", "the findings are `bare"),
    ]


@pytest.mark.parametrize(
    ("grant", "token", "message"),
    [
        ("keys: ['k:*'], indexes: [i]", "", None),
        ("indexes: [i]", "", "no readable pattern of keys ends with `*`"),
        ("keys: ['k:1'], indexes: [i]", "", "no readable pattern of keys ends with `*`"),
        ("indexes: [{name: i, where: {a: x}}]", "", None),
        ("indexes: [{name: i, where: {a: '{a}'}}]", "", "no token has a value for `{a}`"),
        ("indexes: [{name: i, where: {a: '{a}'}}]", ", token: {bound: true}", None),
    ],
)
def test_index_that_cannot_be_searched_is_reported(
    parse: Parse, grant: str, token: str, message: str | None
) -> None:
    """Its policy is valid, and each search is denied."""
    rules = f"a: grants: [{{allow: [read], {grant}}}]{token}, rate: {{requests: 1/minute}}"
    found = [item for item in lint(parse(document(rules))).warnings if "index" in item.code]
    assert [str(message) in item.message for item in found] == [True] * bool(message)


def test_identities_with_other_indexes_have_another_scope(parse: Parse) -> None:
    """So have those that find other documents of one index."""
    grants = ["indexes: [i]", "indexes: [j]", "indexes: [{name: i, where: {a: x}}]"]
    parts = [f"{name}: grants: [{{allow: [read], keys: ['k:*'], {text}}}]"
             for name, text in zip("abc", grants, strict=True)]  # fmt: skip
    assert "same-scope" not in [item.code for item in lint(parse(document(*parts))).warnings]


def test_codes_are_stable() -> None:
    """Documents contain the codes: a renamed code would break their `accept`."""
    assert " ".join(CODES) == (
        "bare-wildcard control-keys mixed-duties long-lived-token no-rate no-budget no-idle-timeout"
        " short-retention grants-restore script-builds-keys script-cannot-work covered-grant"
        " idle-deny same-scope missing-delimiter index-prefix-open index-cannot-work"
        " unreachable-budget unreachable-life idle-flush long-lease small-rate needless-accept"
    )
