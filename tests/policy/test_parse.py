"""The meaning of valid documents, and the robustness of the parser."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyleash.commands import OperationClass, load_table
from keyleash.errors import PolicyError, Span
from keyleash.limits import Budget, Counter, Period, Rate, Subject, SubjectKind
from keyleash.policy import Policy, parse_policy
from keyleash.policy.model import (
    Acceptance,
    AuditRules,
    ClusterRules,
    Durability,
    IdentityKind,
    TokenRules,
    Values,
)

Parse = Callable[[str], Policy]

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "examples/agents.yaml").read_text("utf-8")
MINUTE_US = 60_000_000
DAY_S = 86_400


def identity_with(fields: str) -> str:
    return f"""\
version: 1
identities:
  a:
    kind: machine
    grants: [{{allow: [read], keys: ["a:{{ws}}:*"]}}]
    {fields}
"""


def test_example_parses_with_the_shipped_command_table() -> None:
    """The example of the README must load."""
    policy = parse_policy(EXAMPLE, file="agents.yaml", commands=load_table())

    assert [identity.name for identity in policy.identities] == [
        "agent-reader",
        "agent-runner",
        "agent-recovery",
        "human-admin",
    ]


def test_example_has_the_documented_meaning(parse: Parse) -> None:
    """Kind, classes, limits, and defaults under an identity's own fields."""
    runner, admin = parse(EXAMPLE).identities[1::2]

    assert runner.kind is IdentityKind.MACHINE
    assert runner.grants[0].allow == (OperationClass.READ, OperationClass.WRITE)
    assert [key.source for key in runner.grants[0].keys] == [
        "agents:jobs:{job_id}:state",
        "agents:jobs:{job_id}:result",
    ]
    assert [key.source for key in runner.deny[0].keys] == ["agents:jobs:{job_id}:lock"]
    assert runner.rates == (Rate(Counter.WRITES, 600, MINUTE_US, 60),)
    assert runner.budgets == (
        Budget(Counter.REQUESTS, 50_000, Period.DAY),
        Budget(Counter.WRITES, 20_000, Period.DAY, "Europe/Berlin"),
    )
    assert runner.token == TokenRules(12 * 3600, 3 * DAY_S, 7 * DAY_S, None)
    assert admin.kind is IdentityKind.HUMAN
    assert admin.token == TokenRules(3600, 8 * 3600, 7 * DAY_S, 900)
    assert admin.audit == AuditRules(100_000)


def test_parts_have_their_places(parse: Parse) -> None:
    """Lint, diff and compiler problems point into the file."""
    runner = parse(EXAMPLE).identities[1]

    def place(span: Span | None) -> tuple[str, int, int]:
        assert span is not None
        return span.file, span.line, span.column

    assert place(runner.span) == ("p.yaml", 14, 3)
    assert place(runner.grants[0].span) == ("p.yaml", 17, 9)
    assert place(runner.grants[0].keys[1].span) == ("p.yaml", 17, 69)
    assert place(runner.deny[0].span) == ("p.yaml", 18, 12)
    assert place(runner.rates[0].span) == ("p.yaml", 19, 12)
    assert place(runner.budgets[1].span) == ("p.yaml", 20, 35)
    assert place(runner.accepted[0].span) == ("p.yaml", 22, 14)


def test_token_settings_of_an_identity_have_places_and_defaults_have_none(parse: Parse) -> None:
    """A finding about a default of one identity is fixed in that identity."""
    admin, reader = parse(EXAMPLE).identities[3], parse(EXAMPLE).identities[0]

    assert {field: str(span) for field, span in admin.token.spans.items()} == {
        "ttl": "p.yaml:31:18",
        "max_ttl": "p.yaml:31:31",
        "idle": "p.yaml:31:41",
    }
    assert reader.token.spans == {}


def test_accepted_findings_have_their_reasons(parse: Parse) -> None:
    """The parser allows any code; lint checks it."""
    identity = parse(identity_with('accept: {no-rate: "once a day", x: y}')).identities[0]

    assert identity.accepted == (Acceptance("no-rate", "once a day"), Acceptance("x", "y"))


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_document_means_the_same(parse: Parse, indent: int | str | None) -> None:
    """JSON is a subset, tabs between its tokens included."""
    document = {
        "version": 1,
        "identities": {
            "a": {
                "kind": "machine",
                "grants": [{"allow": ["read"], "keys": ["a:\N{GRINNING FACE}:{ws}/x"]}],
                "rate": {"requests": {"limit": "5/second", "per": "{ws}"}},
            }
        },
    }
    identity = parse(json.dumps(document, indent=indent)).identities[0]

    assert identity.grants[0].keys[0].source == "a:\N{GRINNING FACE}:{ws}/x"
    assert identity.rates[0].subject == Subject(SubjectKind.CAPTURE, "ws")


def test_token_and_audit_fields_override_the_defaults_one_by_one(parse: Parse) -> None:
    """Fields that an identity does not set have their defaults."""
    text = identity_with("token: {ttl: 30m}\n    audit: {retain: 5}").replace(
        "identities:",
        "defaults: {token: {ttl: 2h, max_ttl: 4d, idle: 20m}, audit: {retain: 9}}\nidentities:",
    )
    identity = parse(text).identities[0]

    assert identity.token == TokenRules(1800, 4 * DAY_S, None, 1200)
    assert identity.audit == AuditRules(5)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("{}", Durability(2, 1500)),
        ("{timeout: 2s}", Durability(2, 2000)),
        ("{wait_replicas: 0}", Durability(0, 1500)),
        ("{wait_replicas: 1, timeout: 50ms}", Durability(1, 50)),
    ],
)
def test_durability_fields_override_the_defaults_one_by_one(
    parse: Parse, own: str, expected: Durability
) -> None:
    """An identity disables waiting with 0."""
    text = identity_with(f"durability: {own}").replace(
        "identities:", "defaults: {durability: {wait_replicas: 2, timeout: 1500ms}}\nidentities:"
    )

    assert parse(text).identities[0].durability == expected


def test_identity_without_durability_does_not_wait(parse: Parse) -> None:
    """With replicas only, the timeout has its default."""
    assert parse(identity_with("token: {ttl: 1h}")).identities[0].durability == Durability(0, 50)
    replica = parse(identity_with("durability: {wait_replicas: 1}")).identities[0]
    assert replica.durability == Durability(1, 50)


@pytest.mark.parametrize(
    ("own", "lease_s"), [("", 10), ("cluster: {lease: 1s}", 1), ("cluster: {lease: 5m}", 300)]
)
def test_lease_of_an_identity_overrides_that_of_the_defaults(
    parse: Parse, own: str, lease_s: int
) -> None:
    """Ten seconds, unless either sets it."""
    text = identity_with(own or "token: {ttl: 1h}")
    assert parse(text).identities[0].cluster == ClusterRules(lease_s)
    text = text.replace("identities:", "defaults: {cluster: {lease: 30s}}\nidentities:")
    assert parse(text).identities[0].cluster == ClusterRules(lease_s if own else 30)


def audit_of(parse: Parse, own: str, defaults: str = "") -> AuditRules:
    text = identity_with(f"audit: {{{own}}}").replace(
        "identities:", f"defaults: {{audit: {{{defaults}}}}}\nidentities:"
    )
    return parse(text).identities[0].audit


def masks_of(audit: AuditRules) -> list[str]:
    return [mask.source for mask in audit.mask_keys]


@pytest.mark.parametrize(
    ("written", "rules"),
    [
        ("retain: 5", AuditRules(5)),
        ("retain: 1w2d", AuditRules(None, retain_s=9 * DAY_S)),
        ("retain: {until: exported, hard_max: 7}", AuditRules(None, hard_max=7)),
        ("reads: true", AuditRules(reads=True)),
        ("values: length", AuditRules(values=Values.LENGTH)),
        ("values: digest", AuditRules(values=Values.DIGEST)),
        ("values: full", AuditRules(values=Values.FULL)),
        ("before_images: {max_bytes: 64kb}", AuditRules(image_bytes=65_536)),
        ("before_images: off, values: none, reads: false, mask_keys: []", AuditRules()),
    ],
)
def test_audit_fields_are_read(parse: Parse, written: str, rules: AuditRules) -> None:
    """They are valid in an identity and in the defaults."""
    assert audit_of(parse, written) == rules
    assert audit_of(parse, "", written) == rules


def test_mask_keys_are_key_patterns(parse: Parse) -> None:
    """Masks have the syntax of key patterns, and no limit counts by their captures."""
    audit = audit_of(parse, 'mask_keys: ["a:{ws}:secret", "b:{{x}}:*"]')

    assert masks_of(audit) == ["a:{ws}:secret", "b:{{x}}:*"]
    assert str(audit.mask_keys[0].span) == "p.yaml:7:25"


EVERY_FIELD = (
    'retain: 30d, reads: true, values: digest, mask_keys: ["s:*"], before_images: {max_bytes: 1kb}'
)


def test_audit_fields_of_an_identity_override_the_defaults(parse: Parse) -> None:
    """Fields that it does not set have their defaults."""
    defaults = audit_of(parse, "", EVERY_FIELD)

    def changed(own: str) -> AuditRules:
        return audit_of(parse, own, EVERY_FIELD)

    assert changed("reads: false") == replace(defaults, reads=False)
    assert changed("values: none") == replace(defaults, values=Values.NONE)
    assert changed("before_images: off") == replace(defaults, image_bytes=0)
    assert changed("mask_keys: []") == replace(defaults, mask_keys=())
    assert masks_of(changed('mask_keys: ["t:*"]')) == ["t:*"]


@pytest.mark.parametrize("own", ["5", "30d", "{until: exported, hard_max: 7}"])
@pytest.mark.parametrize("other", ["6", "31d", "{until: exported, hard_max: 8}"])
def test_retain_in_another_form_replaces_the_default(parse: Parse, own: str, other: str) -> None:
    """An audit stream has one kind of retention."""
    audit = audit_of(parse, f"retain: {own}", f"retain: {other}")

    assert audit == audit_of(parse, f"retain: {own}")
    assert [audit.retain, audit.retain_s, audit.hard_max].count(None) == 2


def test_grant_has_before_images_of_its_own(parse: Parse) -> None:
    """`off` records none; without the field `audit` applies."""
    grants = """\
version: 1
identities:
  a:
    kind: machine
    audit: {before_images: {max_bytes: 1kb}}
    grants:
      - {allow: [write], keys: ["a:*"], before_images: {max_bytes: 2mb}}
      - {allow: [read, delete], keys: ["b:*"], before_images: off}
      - {allow: [write], keys: ["c:*"]}
"""
    identity = parse(grants).identities[0]

    assert [grant.image_bytes for grant in identity.grants] == [2_097_152, 0, None]
    assert identity.audit.image_bytes == 1024


def test_document_without_defaults_gets_the_built_in_ones(parse: Parse) -> None:
    """A short policy is valid."""
    identity = parse(identity_with("")).identities[0]

    assert identity.token == TokenRules()
    assert identity.audit == AuditRules()


def test_limits_come_in_the_order_of_counters(parse: Parse) -> None:
    """Limits are checked in a fixed order."""
    identity = parse(
        identity_with("rate: {deletes: 1/day, reads: 2/hour, requests: 3/minute, writes: 4/second}")
    ).identities[0]

    assert [(rate.counter, rate.limit, rate.period_us) for rate in identity.rates] == [
        (Counter.REQUESTS, 3, MINUTE_US),
        (Counter.READS, 2, 60 * MINUTE_US),
        (Counter.WRITES, 4, MINUTE_US // 60),
        (Counter.DELETES, 1, 24 * 60 * MINUTE_US),
    ]


@pytest.mark.parametrize(
    "written",
    [
        "rate: {requests: 100000/second}",
        "rate: {requests: {limit: 100000/second, burst: 1000000}}",
        "rate: {requests: {limit: 8640000/day, burst: 1}}",
        "rate: {requests: {limit: 1/day, burst: 366}}",
        "budget: {requests: 1000000000000000/month}",
        "token: {ttl: 366d, max_ttl: 366d, idle: 366d, rotate_after: 1s}",
        "audit: {retain: 1000000000}",
        "audit: {retain: 3660d}",
        "audit: {retain: {until: exported, hard_max: 1000000000}}",
        "audit: {before_images: {max_bytes: 16mb}}",
        "durability: {wait_replicas: 100, timeout: 60s}",
        "durability: {wait_replicas: 0, timeout: 1ms}",
        "deny: []",
    ],
)
def test_value_on_its_bound_passes(parse: Parse, written: str) -> None:
    """Bounds are inclusive."""
    assert parse(identity_with(written)).identities


@pytest.mark.parametrize(
    ("per", "subject"),
    [
        ("identity", Subject(SubjectKind.IDENTITY)),
        ("token", Subject(SubjectKind.TOKEN)),
        ('"{ws}"', Subject(SubjectKind.CAPTURE, "ws")),
    ],
)
def test_per_names_the_subject(parse: Parse, per: str, subject: Subject) -> None:
    """`per` is one word."""
    identity = parse(
        identity_with(f"budget: {{requests: {{limit: 5/month, per: {per}}}}}")
    ).identities[0]

    assert identity.budgets == (Budget(Counter.REQUESTS, 5, Period.MONTH, "UTC", subject),)


def test_commands_are_normalized(parse: Parse) -> None:
    """Names become upper case, categories lower case, and sub-commands have one space."""
    lists = 'only: [get, xgroup  create, "@HASH"], except: [SeT]'
    text = identity_with("").replace("allow: [read]", f"allow: [read], {lists}")
    grant = parse(text).identities[0].grants[0]

    assert grant.only == ("GET", "XGROUP CREATE", "@hash")
    assert grant.except_ == ("SET",)


def test_container_is_listed_by_its_own_name(parse: Parse) -> None:
    """A container includes all of its sub-commands."""
    lists = "only: [xgroup, XINFO], except: [XINFO  stream]"
    text = identity_with("").replace("allow: [read]", f"allow: [read], {lists}")
    grant = parse(text).identities[0].grants[0]

    assert grant.only == ("XGROUP", "XINFO")
    assert grant.except_ == ("XINFO STREAM",)


def publishing(fields: str, more: str = "") -> str:
    return f"""\
version: 1
identities:
  a:
    kind: machine
    grants: [{{{fields}}}]
    {more}
"""


def test_grant_to_publish_has_channels_and_no_keys(parse: Parse) -> None:
    """A grant of `publish` alone has no keys."""
    text = publishing('allow: [publish], channels: ["a:{x}", "b:{{*"], except: [SET]')
    grant = parse(text).identities[0].grants[0]

    assert grant.allow == (OperationClass.PUBLISH,)
    assert grant.keys == ()
    assert [channel.source for channel in grant.channels] == ["a:{x}", "b:{{*"]
    assert [str(channel.span) for channel in grant.channels] == ["p.yaml:5:44", "p.yaml:5:53"]
    assert grant.except_ == ("SET",)


def test_grant_may_have_keys_and_channels(parse: Parse) -> None:
    """The same text in both lists is not a repetition."""
    text = publishing('allow: [publish, write], keys: ["a:*"], channels: ["a:*"]')
    grant = parse(text).identities[0].grants[0]

    assert grant.allow == (OperationClass.WRITE, OperationClass.PUBLISH)
    assert [key.source for key in grant.keys] == ["a:*"]
    assert grant.channels == grant.keys


def test_grant_without_channels_has_none(parse: Parse) -> None:
    """Channels are optional."""
    assert parse(identity_with("")).identities[0].grants[0].channels == ()


def test_same_channel_for_other_commands_passes(parse: Parse) -> None:
    """Only a repetition that changes nothing is a mistake."""
    text = publishing(
        'allow: [publish], channels: ["a:*"]}, {allow: [publish], channels: ["a:*"], only: [SET]'
    )
    assert len(parse(text).identities[0].grants) == 2


def test_grant_to_publish_leaves_captures_of_keys_known(parse: Parse) -> None:
    """Captures of the other grants are still known."""
    text = publishing(
        'allow: [publish], channels: ["a:{x}"]}, {allow: [read], keys: ["b:{ws}"]',
        'rate: {requests: {limit: 5/second, per: "{ws}"}}',
    )
    assert parse(text).identities[0].rates[0].subject == Subject(SubjectKind.CAPTURE, "ws")


def test_same_pattern_in_grants_of_other_classes_or_commands_passes(parse: Parse) -> None:
    """Only a repetition that changes nothing is a mistake."""
    grants = """\
version: 1
identities:
  a:
    kind: machine
    grants:
      - {allow: [read], keys: ["a:*"]}
      - {allow: [write], keys: ["a:*"]}
      - {allow: [write], keys: ["a:*"], only: [SET]}
"""
    assert len(parse(grants).identities[0].grants) == 3


def test_covered_pattern_with_a_capture_of_its_own_passes(parse: Parse) -> None:
    """A limit may count by what the wider pattern does not capture."""
    text = identity_with('rate: {requests: {limit: 5/day, per: "{ws}"}}').replace(
        '"a:{ws}:*"', '"a:*", "a:{ws}:*"'
    )
    assert parse(text).identities[0].rates[0].subject.capture == "ws"


@pytest.mark.parametrize("name", ["on", "yes", "no", "null", "true", "123", "1-30"])
def test_identity_may_be_named_like_a_scalar(parse: Parse, name: str) -> None:
    """A field's name is text, also if it is a scalar of another type in YAML 1.1."""
    assert parse(identity_with("").replace("  a:\n", f"  {name}:\n")).identities[0].name == name


def test_unused_anchor_passes(parse: Parse) -> None:
    """Only aliases hide the content of a policy."""
    assert parse(identity_with("").replace("kind: machine", "kind: &k machine")).identities


SPECIAL = "{}[]:,*&!|>'\"%@`#?-\t\n \\\0\x85\u2028\ufeff\ud800"
FRAGMENTS = st.sampled_from(
    [
        *SPECIAL,
        *("keys: ", "channels: ", "publish", "read"),
        *("<<: ", "---", "...", "\\U", "*x", "&x", "!!int ", "ttl: ", "per: {x}", "\n  "),
        *("retain: ", "until", "before_images: ", "max_bytes: ", "off", "64kb", "mask_keys: "),
        *("null", "true", "0", "-1", "1e999", "9" * 5000),
    ]
)

PUBLISHER = """
  agent-herald:
    kind: machine
    grants:
      - {allow: [publish], channels: ["agents:events:{job_id}", "agents:news:*"]}
      - {allow: [read, publish], keys: ["agents:inbox:*"], channels: ["agents:inbox:*"]}
      - {allow: [delete], keys: ["agents:inbox:*"], before_images: {max_bytes: 64kb}}
    audit:
      retain: {until: exported, hard_max: 1000000}
      values: digest
      mask_keys: ["agents:secrets:*"]
"""


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """Return the example with pieces removed, doubled, moved or replaced."""
    text = EXAMPLE + PUBLISHER
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        piece = draw(st.one_of(st.just(""), FRAGMENTS, st.just(text[start:end] * 2)))
        text = text[:start] + piece + text[end:]
    return text


def check_only_policy_errors(text: str, parse: Parse) -> None:
    try:
        parse(text)
    except PolicyError as error:
        problems = error.problems
    else:
        return
    places = [(problem.span.line, problem.span.column) for problem in problems]
    assert places
    assert places == sorted(places)
    assert all(1 <= line <= len(text) + 1 and column >= 1 for line, column in places)
    for problem in problems:
        assert problem.span.file == "p.yaml"
        assert problem.message
        assert problem.help


@given(text=st.text() | st.lists(FRAGMENTS).map("".join))
@example(text='"\\U99999999"')
@example(text="%YAML " + "1" * 5000 + ".1\n---\n")
@example(text="[" * 2000)
@example(text="? " * 500)
@example(text="{" * 3 + "\t")
def test_arbitrary_text_raises_nothing_but_policy_errors(text: str, parse: Parse) -> None:
    """For any text the result is a policy or a list of problems."""
    check_only_policy_errors(text, parse)


@given(text=mutations())
@settings(max_examples=150)
def test_mutated_example_raises_nothing_but_policy_errors(text: str, parse: Parse) -> None:
    """Most mistakes are small changes to a valid file."""
    check_only_policy_errors(text, parse)


@pytest.mark.parametrize("character", list("{}[]*:- &|'\"\\"))
def test_long_and_hostile_text_is_parsed_soon(parse: Parse, character: str) -> None:
    """No step is quadratic in what a file repeats."""
    started = time.process_time()
    check_only_policy_errors(identity_with("").replace("a:{ws}", character * 20_000), parse)

    assert time.process_time() - started < 5


def test_importing_the_model_does_not_import_yaml() -> None:
    """A process that only calls guards needs the model and none of the parser."""
    script = (
        "import sys, keyleash.policy.model, keyleash.policy as policy;"
        "assert 'yaml' not in sys.modules;"
        "assert policy.parse_policy; assert 'yaml' in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(ROOT / "loader")}
    )
