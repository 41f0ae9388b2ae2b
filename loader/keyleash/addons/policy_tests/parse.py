"""Parse files of policy tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from keyleash.addons.policy_tests.model import (
    BoundToken,
    Case,
    CaseFile,
    Expected,
    Invariant,
    InvariantRule,
    TestStep,
)
from keyleash.commands import CHANNEL_CLASSES, CommandTable, OperationClass
from keyleash.errors import (
    BadCasesError,
    OperationError,
    PolicyError,
    Problem,
    ReplyCode,
    SecretInTextError,
)
from keyleash.evaluate.access import as_sent
from keyleash.limits import SECOND_US
from keyleash.operator.tokens.restrict import Scope, restrict
from keyleash.policy import Identity, Pattern, Policy, parse_pattern, parse_policy
from keyleash.policy.files import ReadText
from keyleash.policy.pattern_lists import THINGS
from keyleash.policy.problems import Problems, did_you_mean, fail, listing, quote, which_identity
from keyleash.policy.quantities import iso_ms, parse_duration
from keyleash.policy.shapes import Field, ListOf, MapOf, Section, Shape, Spot
from keyleash.policy.yaml import YamlNode, read_document

MILLISECOND_US = 1000
YEARS_AHEAD = 5
"""Years of compiled calendar windows, from the year in which the clock starts."""
DEFAULT_START = "2026-01-01T00:00:00Z"
MAX_CALLS = 100_000
"""Maximum number of calls per case; a real guard needs a few seconds for them."""
FIRST_TOKEN = "first"
ALLOW = "allow"
CODES = (
    ReplyCode.COMMAND_REFUSED, ReplyCode.CLASS_NOT_GRANTED, ReplyCode.KEY_NOT_GRANTED,
    ReplyCode.KEY_DENIED, ReplyCode.CHANNEL_NOT_GRANTED, ReplyCode.INDEX_NOT_GRANTED,
    ReplyCode.ARGS_TOO_MANY, ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED,
    ReplyCode.SUSPENDED, ReplyCode.WORK_TOO_LARGE, ReplyCode.KEY_TOO_LONG,
    ReplyCode.VALUE_TOO_LARGE, ReplyCode.VALUE_REFUSED,
)  # fmt: skip
"""Codes that depend on the policy; the others depend on tokens, servers and clients."""

_TEXT = Shape("text", (str, int, bool))
_TEXTS = ListOf("a list of texts", entry=_TEXT)
_CASES = "{identity: …, command: …, expect: …}"

TOKEN = Section(
    "a name or a mapping",
    _TEXT.types,
    fields={
        "bind": Field(
            MapOf("a mapping from captures to values", entry=_TEXT, example='NAME: "42"'),
            '{job_id: "42"}',
        ),
        "allow": Field(_TEXTS, "[read]"),
        "keys": Field(_TEXTS, '["agents:jobs:42:*"]'),
        "budget": Field(
            MapOf("a mapping from counters to budgets", entry=_TEXT, example="NAME: 50/hour"),
            "{writes: 50/hour}",
        ),
    },
)
EXPECT = Section(
    "a code or a mapping",
    _TEXT.types,
    fields={
        "code": Field(_TEXT, "KEY_DENIED", required=True),
        "class": Field(_TEXT, "delete"),
        "command": Field(_TEXT, "DEL"),
        "key": Field(_TEXT, '"agents:jobs:42:lock"'),
        "channel": Field(_TEXT, '"agents:events"'),
        "index": Field(_TEXT, "memory"),
        "limit": Field(_TEXT, "rate.writes"),
        "by": Field(_TEXT, "token"),
        "arguments": Field(_TEXT, "7001"),
        "bytes": Field(_TEXT, "65537"),
        "work": Field(_TEXT, "700000"),
        "rule": Field(_TEXT, "max_elements"),
        "was": Field(_TEXT, "1001"),
        "retry_after_ms": Field(_TEXT, "100"),
        "resets_at": Field(_TEXT, '"2026-01-02T00:00:00Z"'),
        "reason": Field(_TEXT, '"on_denials: 50/minute"'),
        "until": Field(_TEXT, '"2026-01-02T00:00:00Z"'),
    },
)
COMMAND = ListOf(
    "text or a list of words",
    _TEXT.types,
    entry=_TEXT,
    noun="a word of a command",
    example='command: [SET, "{tag}:key", 42]',
    may_be_empty=True,
)
STEP = Section(
    "a mapping",
    fields={
        "command": Field(COMMAND, "GET agents:context:1"),
        "expect": Field(EXPECT, "allow` or `expect: KEY_DENIED"),
        "repeat": Field(Shape("a whole number", (int,)), "60"),
        "token": Field(TOKEN, "another"),
        "advance": Field(_TEXT, "10s"),
        "at": Field(_TEXT, "+10s"),
    },
)
CASE = Section(
    "a mapping",
    fields={
        "name": Field(_TEXT, "the runner may not touch a lock"),
        "identity": Field(_TEXT, "agent-runner", required=True),
        **STEP.fields,
        "steps": Field(
            ListOf(
                "a list of steps", entry=STEP, noun="a step", example="- {command: …, expect: …}"
            ),
            "[{command: …, expect: …}]",
        ),
    },
)
INVARIANT = Section(
    "a mapping",
    fields={
        "name": Field(_TEXT, "only recovery deletes checkpoints"),
        "no_identity_may": Field(_TEXTS, "[delete]"),
        "no_two_may": Field(_TEXTS, "[write]"),
        "but": Field(_TEXTS, "[agent-recovery]"),
        "identity": Field(_TEXT, "agent-reader"),
        "may_only": Field(replace(_TEXTS, may_be_empty=True), "[read]"),
        "keys": Field(_TEXTS, '["agents:recovery:*"]'),
        "channels": Field(_TEXTS, '["agents:events:*"]'),
        "indexes": Field(_TEXTS, "[memory]"),
        "except": Field(_TEXTS, '["agents:queue:*"]'),
    },
)
SCOPES = ("keys", "channels", "indexes")
"""The fields of an invariant that say what it is about."""
FILE = Section(
    "a mapping",
    fields={
        "policy": Field(_TEXT, "agents.yaml", required=True),
        "clock": Field(_TEXT, '"2026-03-02T12:00:00Z"'),
        "cases": Field(
            ListOf("a list of cases", entry=CASE, noun="a case", example=f"- {_CASES}"),
            f"[{_CASES}]",
        ),
        "invariants": Field(
            ListOf(
                "a list of invariants",
                entry=INVARIANT,
                noun="an invariant",
                example="- {identity: …, may_only: [read]}",
            ),
            "[{identity: …, may_only: [read]}]",
        ),
    },
)
TIMES = {"resets_at": "resets_at_ms", "until": "until_ms"}
"""Details that are times, and their names in a denial."""

_MILLISECONDS = re.compile(r"([0-9]{1,9})ms")
_TIME_HELP = "write a date and a time, such as `2026-03-02T12:00:00Z`; without a zone it is UTC"


def _read_instant(node: YamlNode, help: str, problems: Problems) -> int | None:
    try:
        return iso_ms(node.source) * MILLISECOND_US
    except (ValueError, OverflowError):
        problems.add("bad-time", f"{quote(node.source)} is not a time", node.span, help)
        return None


def _read_at(node: YamlNode, starts_us: int, problems: Problems) -> int | None:
    """Read `at`: a time after the start of the case, such as `+10s`, or a date and a time."""
    if node.source.startswith("+"):
        after_us = problems.attempt(lambda: _duration_us(node.source[1:], node))
        return None if after_us is None else starts_us + after_us
    help = f"{_TIME_HELP}; or a duration after the start of the case, such as `+10s`"
    return _read_instant(node, help, problems)


def _duration_us(text: str, node: YamlNode) -> int:
    """Return a duration of the policy language, or milliseconds such as `250ms`."""
    found = _MILLISECONDS.fullmatch(text)
    if found is None:
        return parse_duration(text, node.span, because="a policy's windows are shorter") * SECOND_US
    if int(found[1]) == 0:
        message = f"{quote(text)} is not longer than zero"
        raise fail("duration-out-of-range", message, node.span, "write `1ms` or more")
    return int(found[1]) * MILLISECOND_US


def _moved_clock(step: YamlNode, before_us: int, starts_us: int, problems: Problems) -> int:
    """Return the time of a step, by its `advance` or `at`."""
    advance, at = step.get("advance"), step.get("at")
    node = advance or at
    if node is None:
        return before_us
    now_us = before_us
    if advance is not None and at is not None:
        message = "a step has both `at` and `advance`"
        problems.add("surplus-field", message, at.label, "remove one of the two")
    elif advance is not None:
        now_us += problems.attempt(lambda: _duration_us(node.source, node)) or 0
    else:
        now_us = _read_at(node, starts_us, problems) or before_us
    if now_us < before_us:
        help = "put the steps in the order of time; a case begins with `clock` of the file"
        problems.add("clock-goes-back", "the clock goes back here", node.span, help)
    if _year(now_us) >= _year(starts_us) + YEARS_AHEAD:
        message = f"the clock is more than {YEARS_AHEAD} years ahead here"
        help = "set `clock` of the file to a later time"
        problems.add("clock-out-of-range", message, node.span, help)
    return now_us


def _year(at_us: int) -> int:
    return datetime.fromtimestamp(at_us // SECOND_US, UTC).year


def _read_expected(node: YamlNode | None, problems: Problems) -> Expected | None:
    if node is None or not isinstance(node.value, dict):
        return None if node is None else _read_code(node, problems)
    details: dict[str, str] = {}
    for name, value in node.fields.items():
        if name in TIMES:
            at_us = _read_instant(value, "write it like `2026-01-02T00:00:00Z`", problems)
            details[TIMES[name]] = str((at_us or 0) // MILLISECOND_US)
        elif name != "code":
            details[name] = value.source
    code = node.get("code")
    expected = None if code is None else _read_code(code, problems)
    if expected is None:
        return None
    if expected.code is None and details:
        message, help = "an allowed call has no details", "write `expect: allow`"
        problems.add("surplus-field", message, node.span, help)
    return Expected(expected.code, details)


def _read_code(node: YamlNode, problems: Problems) -> Expected | None:
    text, known = node.source, (ALLOW, *CODES)
    if text in known:
        return Expected(None if text == ALLOW else ReplyCode(text))
    if text in [*ReplyCode]:
        message = f"{quote(text)} does not depend on a policy"
        problems.add("unknown-code", message, node.span, f"write one of {listing(known)}")
    else:
        help = did_you_mean(text, known, f"write one of {listing(known)}")
        problems.add("unknown-code", f"unknown expectation {quote(text)}", node.span, help)
    return None


def _read_command(node: YamlNode | None, problems: Problems) -> tuple[bytes, ...]:
    """Return a command as a client sends it: a list of words, or a line split as by a shell."""
    if node is None:
        return ()
    words = [entry.source for entry in node.entries]
    if not isinstance(node.value, tuple):
        try:
            words = shlex.split(node.source)
        except ValueError as error:
            message = f"cannot split {quote(node.source)} into words: {str(error).lower()}"
            help = "quote as in a shell, or write a list of words"
            problems.add("bad-command", message, node.span, help)
            return ()
    if not (words or node.partial):
        help = f"write it like `{STEP.line('command')}`"
        problems.add("bad-command", "the command is empty", node.span, help)
    return tuple(as_sent(words)) if words else ()


def _read_times(node: YamlNode | None, earlier: int, problems: Problems) -> int:
    """Return the number of calls of a step after *earlier* calls of the case."""
    if node is None:
        return 1
    times = int(node.source)
    if times < 1:
        message = f"{quote(node.source)} is not a number of calls"
        problems.add("wrong-type", message, node.span, "write a whole number of 1 or more")
        return 0
    if earlier + times > MAX_CALLS:
        message = f"the case makes more than {MAX_CALLS:,} calls"
        help = "repeat less often, or test a policy with smaller limits"
        problems.add("too-many-calls", message, node.span, help)
    return times


def _read_token(
    node: YamlNode | None, bound: dict[str, BoundToken], problems: Problems
) -> str | None:
    """Return the name of a token; restrictions are its name, and are added to *bound*."""
    if node is None or not isinstance(node.value, dict):
        return _text(node)
    scope = Scope(
        _pairs(node.get("bind")),
        _texts(node.get("allow")),
        _texts(node.get("keys")),
        _pairs(node.get("budget")),
    )
    if not (node.fields or node.partial):
        help = f"write it like `token: {{{TOKEN.line('bind')}}}`, or give the token a name"
        problems.add("missing-field", "`token` has no restriction", node.span, help)
    bound.setdefault(str(scope), BoundToken(scope, node.span))
    return str(scope)


def _text(node: YamlNode | None) -> str:
    return node.source if node else ""


def _texts(node: YamlNode | None) -> list[str] | None:
    return None if node is None else [entry.source for entry in node.entries]


def _pairs(node: YamlNode | None) -> dict[str, str]:
    return {name: value.source for name, value in node.fields.items()} if node else {}


def _read_steps(
    case: YamlNode, bound: dict[str, BoundToken], starts_us: int, problems: Problems
) -> tuple[TestStep, ...]:
    """
    Return the steps of a case, or its only one, under a clock that moves with them.

    Args:
        bound: The bound tokens that steps use are added here.
    """
    listed = case.get("steps")
    nodes, title = ([case], "a case") if listed is None else (listed.entries, "a step")
    is_reported = case.partial or (listed is not None and (listed.partial or not nodes))
    token = _read_token(case.get("token"), bound, problems) or FIRST_TOKEN
    steps: list[TestStep] = []
    now_us, calls = starts_us, 0
    for node in nodes:
        now_us = _moved_clock(node, now_us, starts_us, problems)
        if listed is not None and node.fields.keys() <= {"at", "advance"}:
            continue
        argv = _read_command(STEP.require("command", node, title, problems), problems)
        expected = _read_expected(STEP.require("expect", node, title, problems), problems)
        times = _read_times(node.get("repeat"), calls, problems)
        calls += times
        if expected is None or not argv:
            is_reported = True
            continue
        own = None if node is case else _read_token(node.get("token"), bound, problems)
        steps.append(TestStep(now_us, own or token, argv, times, expected, node.span))
    if not (steps or is_reported):
        help = f"add a step with `{STEP.line('command')}`"
        problems.add("no-call", "the case makes no call", case.span, help)
    return tuple(steps)


def _read_case(node: YamlNode, starts_us: int, problems: Problems) -> Case:
    identity = node.get("identity")
    own = [node.fields[name] for name in STEP.fields if name in node.fields and name != "token"]
    if own and "steps" in node.fields:
        message, help = "a case with `steps` has a field of a step", "move it into a step"
        problems.add("surplus-field", message, own[0].label, help)
    bound: dict[str, BoundToken] = {}
    return Case(
        name=_text(node.get("name")),
        identity=_text(identity),
        steps=_read_steps(node, bound, starts_us, problems),
        span=node.span,
        identity_span=node.span if identity is None else identity.span,
        bound=bound,
    )


def _read_invariant(node: YamlNode, problems: Problems) -> Invariant | None:
    rules = [rule for rule in InvariantRule if rule in node.fields]
    if len(rules) != 1:
        if not node.partial:
            message = f"an invariant has one of {listing(InvariantRule)}"
            help = f"write {listing(map(INVARIANT.line, INVARIANT.fields))}"
            problems.add("missing-field", message, node.label, help)
        return None
    (rule,), names_in = rules, "identity" if rules == [InvariantRule.MAY_ONLY] else "but"
    surplus = {"identity": "but", "but": "identity"}[names_in]
    if surplus in node.fields:
        message, help = f"an invariant with `{rule}` has no `{surplus}`", f"write `{names_in}`"
        problems.add("surplus-field", message, node.fields[surplus].label, help)
    names = _texts(node.get("but")) or []
    if names_in == "identity":
        names = [_text(INVARIANT.require("identity", node, "an invariant", problems))]
    classes = _read_classes(node.fields[rule], problems)
    scope = {field: _read_scope(node, field, problems) for field in SCOPES if node.get(field)}
    _check_scope(node.fields[rule], rule, classes, scope.keys(), problems)
    return Invariant(
        name=_text(node.get("name")),
        rule=rule,
        classes=classes,
        names=tuple(names),
        scope=scope,
        excepted=_read_scope(node, "except", problems),
        span=node.span,
        names_span=node.fields.get(names_in, node).span,
    )


def _read_classes(node: YamlNode, problems: Problems) -> tuple[OperationClass, ...]:
    known, texts = [*OperationClass], [entry.source for entry in node.entries]
    for text, entry in zip(texts, node.entries, strict=True):
        if text not in known:
            help = did_you_mean(text, known, f"write some of {listing(known)}")
            problems.add("unknown-class", f"unknown class {quote(text)}", entry.span, help)
    return tuple(item for item in OperationClass if item in texts)


def _read_scope(invariant: YamlNode, name: str, problems: Problems) -> tuple[Pattern, ...]:
    node, thing = invariant.get(name), THINGS.get(name, "key")
    patterns = (
        problems.attempt(partial(parse_pattern, entry.source, entry.span, thing))
        for entry in (node.entries if node else ())
    )
    return tuple(filter(None, patterns))


def _check_scope(
    node: YamlNode,
    rule: InvariantRule,
    classes: Sequence[OperationClass],
    scope: Set[str],
    problems: Problems,
) -> None:
    """Report each class that says nothing, since no field of the scope has it."""
    for cls in classes if scope and rule is not InvariantRule.MAY_ONLY else ():
        able = ["channels"] if cls in CHANNEL_CLASSES else ["keys", "indexes"]
        if scope.isdisjoint(able[: 1 + (cls is not OperationClass.SCAN)]):
            message = f"{quote(cls)} is no class of {listing(scope)}"
            help = f"remove it, or add `{INVARIANT.line(able[0])}`"
            problems.add("class-without-scope", message, node.span, help)


def parse_cases(text: str, file: str) -> CaseFile:
    """
    Read a test file, which is YAML or JSON.

    Raises:
        PolicyError: Every problem of the file, in file order.
    """
    problems = Problems()
    root = read_document(text, file, problems, "`policy: FILE` and `cases:`")
    if "identities" in root.fields and "cases" not in root.fields:
        help = "`keyleash check` validates it; a test file has `policy: FILE` and `cases:`"
        raise fail("unknown-field", "this is a policy, not tests of one", root.span, help)
    checked = FILE.check(root, Spot("the file", "", FILE.line("policy")), problems)
    if checked is None:
        raise problems.error()
    clock, cases, invariants = map(checked.get, ("clock", "cases", "invariants"))
    if invariants is None:
        FILE.require("cases", checked, "the file", problems)
    starts_us = None if clock is None else _read_instant(clock, _TIME_HELP, problems)
    starts_us = iso_ms(DEFAULT_START) * MILLISECOND_US if starts_us is None else starts_us
    read = (
        _read_invariant(entry, problems) for entry in (invariants.entries if invariants else ())
    )
    file_of_cases = CaseFile(
        file=file,
        policy=_text(checked.get("policy")),
        starts_us=starts_us,
        cases=tuple(
            _read_case(entry, starts_us, problems) for entry in (cases.entries if cases else ())
        ),
        invariants=tuple(filter(None, read)),
    )
    problems.require_none()
    return file_of_cases


@dataclass(frozen=True, slots=True)
class Suite:
    """
    The cases of one file, and their policy.

    Attributes:
        document: The policy's text.
        policy_file: The path of the policy.
    """

    cases: CaseFile
    policy: Policy
    document: str
    policy_file: str


def _bad_tokens(case: Case, identity: Identity) -> Iterator[Problem]:
    """Yield the problems of bound tokens that the policy does not allow."""
    for token in case.bound.values():
        try:
            restrict(identity, token.scope)
        except (OperationError, SecretInTextError) as error:
            yield Problem(error.code, error.message, token.span, error.help or "")


def unknown_names(cases: CaseFile, policy: Policy) -> Iterator[Problem]:
    """Yield a problem for each identity of an invariant that the policy does not have."""
    names = [identity.name for identity in policy.identities]
    for invariant in cases.invariants:
        for name in {*invariant.names}.difference(names):
            message, help = f"the policy has no identity {quote(name)}", which_identity(name, names)
            yield Problem("unknown-identity", message, invariant.names_span, help)


def read_suites(files: Sequence[str], table: CommandTable, read: ReadText) -> list[Suite]:
    """
    Read test files and their policies, each policy once.

    Raises:
        BadCasesError: Every problem of every test file.
        PolicyError: Every problem of the first policy that has any.
        OSError: A file cannot be read.
    """
    problems: list[Problem] = []
    found: list[CaseFile] = []
    for file in files:
        name, text = read(file)
        try:
            found.append(parse_cases(text, name))
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise BadCasesError(problems)
    policies: dict[str, tuple[Policy, str]] = {}
    suites = []
    for cases in found:
        path = str(Path(cases.file).parent / cases.policy)
        if path not in policies:
            _, text = read(path)
            policies[path] = parse_policy(text, file=path, commands=table), text
        policy, text = policies[path]
        names = [identity.name for identity in policy.identities]
        problems += unknown_names(cases, policy)
        for case in cases.cases:
            identity = policy.identity(case.identity)
            if identity is not None:
                problems += _bad_tokens(case, identity)
                continue
            problems.append(
                Problem(
                    "unknown-identity",
                    f"the policy has no identity {quote(case.identity)}",
                    case.identity_span,
                    which_identity(case.identity, names),
                )
            )
        suites.append(Suite(cases, policy, text, path))
    if problems:
        raise BadCasesError(problems)
    return suites
