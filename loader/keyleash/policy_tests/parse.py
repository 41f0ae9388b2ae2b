"""Parse files of policy tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

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
from keyleash.operator.tokens.restrict import Scope, restrict
from keyleash.policy import SECOND_US, Identity, Pattern, Policy, parse_pattern, parse_policy
from keyleash.policy.files import ReadText
from keyleash.policy.problems import Problems, did_you_mean, fail, listing, quote, which_identity
from keyleash.policy.quantities import parse_duration
from keyleash.policy.yaml import Broken, YamlNode, read_document
from keyleash.policy_tests.model import (
    BoundToken,
    Case,
    CaseFile,
    Expected,
    Invariant,
    InvariantRule,
    TestStep,
)

MILLISECOND_US = 1000
YEARS_AHEAD = 5
"""Years of compiled calendar windows, from the year in which the clock starts."""
DEFAULT_START = "2026-01-01T00:00:00Z"
MAX_CALLS = 100_000
"""Maximum number of calls per case; a real guard needs a few seconds for them."""
FIRST_TOKEN = "first"
ALLOW = "allow"
CODES = (
    ReplyCode.COMMAND_REFUSED,
    ReplyCode.CLASS_NOT_GRANTED,
    ReplyCode.KEY_NOT_GRANTED,
    ReplyCode.KEY_DENIED,
    ReplyCode.CHANNEL_NOT_GRANTED,
    ReplyCode.INDEX_NOT_GRANTED,
    ReplyCode.ARGS_TOO_MANY,
    ReplyCode.RATE_LIMITED,
    ReplyCode.BUDGET_EXHAUSTED,
    ReplyCode.SUSPENDED,
    ReplyCode.WORK_TOO_LARGE,
    ReplyCode.VALUE_TOO_LARGE,
    ReplyCode.VALUE_REFUSED,
)
"""Codes that depend on the policy; the others depend on tokens, servers and clients."""

FILE = {
    "policy": "policy: agents.yaml",
    "clock": 'clock: "2026-03-02T12:00:00Z"',
    "cases": "cases: [{identity: …, command: …, expect: …}]",
    "invariants": "invariants: [{identity: …, may_only: [read]}]",
}
INVARIANT = {
    "name": "name: only recovery deletes checkpoints",
    "no_identity_may": "no_identity_may: [delete]",
    "no_two_may": "no_two_may: [write]",
    "but": "but: [agent-recovery]",
    "identity": "identity: agent-reader",
    "may_only": "may_only: [read]",
    "keys": 'keys: ["agents:recovery:*"]',
    "channels": 'channels: ["agents:events:*"]',
    "indexes": "indexes: [memory]",
    "except": 'except: ["agents:queue:*"]',
}
SCOPES = {"keys": "key", "channels": "channel", "indexes": "index"}
"""The fields of an invariant that say what it is about."""
STEP = {
    "command": "command: GET agents:context:1",
    "expect": "expect: allow` or `expect: KEY_DENIED",
    "repeat": "repeat: 60",
    "token": "token: another",
    "advance": "advance: 10s",
    "at": "at: +10s",
}
CASE = {
    "name": "name: the runner may not touch a lock",
    "identity": "identity: agent-runner",
    **STEP,
    "steps": "steps: [{command: …, expect: …}]",
}
TOKEN = {
    "bind": 'bind: {job_id: "42"}',
    "allow": "allow: [read]",
    "keys": 'keys: ["agents:jobs:42:*"]',
    "budget": "budget: {writes: 50/hour}",
}
DETAILS = {
    "code": "code: KEY_DENIED",
    "class": "class: delete",
    "command": "command: DEL",
    "key": 'key: "agents:jobs:42:lock"',
    "channel": 'channel: "agents:events"',
    "index": "index: memory",
    "limit": "limit: rate.writes",
    "by": "by: token",
    "arguments": "arguments: 7001",
    "bytes": "bytes: 65537",
    "work": "work: 700000",
    "rule": "rule: max_elements",
    "was": "was: 1001",
    "retry_after_ms": "retry_after_ms: 100",
    "resets_at": 'resets_at: "2026-01-02T00:00:00Z"',
    "reason": 'reason: "on_denials: 50/minute"',
    "until": 'until: "2026-01-02T00:00:00Z"',
}
"""The fields of each mapping, with an example line."""
TIMES = {"resets_at": "resets_at_ms", "until": "until_ms"}
"""Details that are times, and their names in a denial."""

_MILLISECONDS = re.compile(r"([0-9]{1,9})ms")
_TIME_HELP = "write a date and a time, such as `2026-03-02T12:00:00Z`; without a zone it is UTC"


class _Mapping:
    """The known fields of a mapping; a value of another type and unknown fields are reported."""

    def __init__(
        self, node: YamlNode, label: str, examples: Mapping[str, str], problems: Problems
    ) -> None:
        self.node = node
        self.fields = {name: value for name, value in node.fields.items() if name in examples}
        self._label = label
        self._examples = examples
        self._problems = problems
        if not isinstance(node.value, dict | Broken):
            help = f"its fields are {listing(examples)}"
            problems.add("wrong-type", f"{label} must be a mapping", node.span, help)
        for name in node.fields.keys() - examples.keys():
            help = did_you_mean(name, examples, f"the fields here are {listing(examples)}")
            message = f"unknown field {quote(name)} in {label}"
            problems.add("unknown-field", message, node.fields[name].label, help)

    def get(self, name: str) -> YamlNode | None:
        return self.fields.get(name)

    def required(self, name: str) -> YamlNode | None:
        if name not in self.fields and isinstance(self.node.value, dict) and not self.node.partial:
            message, help = f"{self._label} has no `{name}`", f"add `{self._examples[name]}`"
            self._problems.add("missing-field", message, self.node.label, help)
        return self.fields.get(name)

    def text(self, name: str) -> str | None:
        return _read_text(self.fields.get(name), name, self._examples[name], self._problems)

    def entries(self, name: str) -> tuple[YamlNode, ...]:
        """Return the entries of a list; another type and an empty list are reported."""
        node, example = self.fields.get(name), self._examples[name]
        if node is None or isinstance(node.value, Broken):
            return ()
        if not isinstance(node.value, tuple):
            help = f"write it like `{example}`"
            self._problems.add("wrong-type", f"`{name}` must be a list", node.span, help)
        elif not (node.entries or node.partial):
            help = f"write one entry: `{example}`"
            self._problems.add("empty-list", f"`{name}` is empty", node.span, help)
        return node.entries

    def texts(self, name: str) -> list[str] | None:
        """Return the texts of a list; None without the field."""
        found = [
            _read_text(entry, name, self._examples[name], self._problems)
            for entry in self.entries(name)
        ]
        return None if name not in self.fields else [text for text in found if text is not None]

    def pairs(self, name: str) -> dict[str, str]:
        """Return the texts of a mapping by their names, which are not known here."""
        node, example = self.fields.get(name), self._examples[name]
        if node is None:
            return {}
        if not isinstance(node.value, dict | Broken):
            help = f"write it like `{example}`"
            self._problems.add("wrong-type", f"`{name}` must be a mapping", node.span, help)
        found = {
            key: _read_text(value, key, example, self._problems)
            for key, value in node.fields.items()
        }
        return {key: text for key, text in found.items() if text is not None}


def _read_text(node: YamlNode | None, name: str, example: str, problems: Problems) -> str | None:
    """Return the text of a scalar, including numbers and words like `true`."""
    if node is None or isinstance(node.value, Broken):
        return None
    if isinstance(node.value, tuple | dict) or node.value is None:
        help = f"write it like `{example}`"
        problems.add("wrong-type", f"`{name}` must be text", node.span, help)
        return None
    return node.source


def instant_us(text: str) -> int:
    """
    Return an ISO 8601 time as Unix microseconds, to the millisecond.

    Raises:
        ValueError: It is not a time.
        OverflowError: It is out of range.
    """
    date = datetime.fromisoformat(text)
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000) * MILLISECOND_US


def _read_instant(node: YamlNode, help: str, problems: Problems) -> int | None:
    try:
        return instant_us(node.source)
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


def _moved_clock(step: _Mapping, before_us: int, starts_us: int, problems: Problems) -> int:
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
    if node is None or isinstance(node.value, Broken):
        return None
    if not isinstance(node.value, dict):
        return _read_code(node, problems)
    fields = _Mapping(node, "`expect`", DETAILS, problems)
    details: dict[str, str] = {}
    for name, value in fields.fields.items():
        text = None if name == "code" else fields.text(name)
        if text is not None and name in TIMES:
            at_us = _read_instant(value, "write it like `2026-01-02T00:00:00Z`", problems)
            details[TIMES[name]] = str((at_us or 0) // MILLISECOND_US)
        elif text is not None:
            details[name] = text
    code = fields.required("code")
    expected = None if code is None else _read_code(code, problems)
    if expected is None:
        return None
    if expected.code is None and details:
        message, help = "an allowed call has no details", "write `expect: allow`"
        problems.add("surplus-field", message, node.span, help)
    return Expected(expected.code, details)


def _read_code(node: YamlNode, problems: Problems) -> Expected | None:
    text = _read_text(node, "expect", STEP["expect"], problems)
    known = (ALLOW, *CODES)
    if text is None:
        return None
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
    if node is None or isinstance(node.value, Broken):
        return ()
    for entry in node.entries:
        if isinstance(entry.value, tuple | dict) or entry.value is None:
            help = "write text, or a number; quote braces, brackets and `: `"
            problems.add("wrong-type", "a word of a command must be text", entry.span, help)
    if node.entries:
        return tuple(as_sent([entry.source for entry in node.entries]))
    text = "" if node.value == () else _read_text(node, "command", STEP["command"], problems)
    if text is None:
        return ()
    try:
        words = shlex.split(text)
    except ValueError as error:
        message = f"cannot split {quote(text)} into words: {str(error).lower()}"
        help = "quote as in a shell, or write a list of words"
        problems.add("bad-command", message, node.span, help)
        return ()
    if not words:
        help = f"write it like `{STEP['command']}`"
        problems.add("bad-command", "the command is empty", node.span, help)
        return ()
    return tuple(as_sent(words))


def _read_times(node: YamlNode | None, earlier: int, problems: Problems) -> int:
    """Return the number of calls of a step after *earlier* calls of the case."""
    if node is None:
        return 1
    if type(node.value) is not int or node.value < 1:
        message = f"{quote(node.source)} is not a number of calls"
        problems.add("wrong-type", message, node.span, "write a whole number of 1 or more")
        return 0
    if earlier + node.value > MAX_CALLS:
        message = f"the case makes more than {MAX_CALLS:,} calls"
        help = "repeat less often, or test a policy with smaller limits"
        problems.add("too-many-calls", message, node.span, help)
    return node.value


def _read_token(
    node: YamlNode | None, bound: dict[str, BoundToken], problems: Problems
) -> str | None:
    """Return the name of a token; restrictions are its name, and are added to *bound*."""
    if node is None or not isinstance(node.value, dict):
        return _read_text(node, "token", STEP["token"], problems)
    fields = _Mapping(node, "`token`", TOKEN, problems)
    scope = Scope(
        fields.pairs("bind"), fields.texts("allow"), fields.texts("keys"), fields.pairs("budget")
    )
    if not (node.fields or node.partial):
        help = f"write it like `token: {{{TOKEN['bind']}}}`, or give the token a name"
        problems.add("missing-field", "`token` has no restriction", node.span, help)
    bound.setdefault(str(scope), BoundToken(scope, node.span))
    return str(scope)


def _read_steps(
    case: _Mapping, bound: dict[str, BoundToken], starts_us: int, problems: Problems
) -> tuple[TestStep, ...]:
    """
    Return the steps of a case, or its only one, under a clock that moves with them.

    Args:
        bound: The bound tokens that steps use are added here.
    """
    listed = case.get("steps")
    mappings = [case]
    if listed is not None:
        entries = case.entries("steps")
        mappings = [_Mapping(entry, "a step", STEP, problems) for entry in entries]
    token = _read_token(case.get("token"), bound, problems) or FIRST_TOKEN
    is_reported = case.node.partial or not case.node.fields or not mappings
    steps: list[TestStep] = []
    now_us, calls = starts_us, 0
    for mapping in mappings:
        now_us = _moved_clock(mapping, now_us, starts_us, problems)
        if not mapping.fields:
            is_reported = True
            continue
        if listed is not None and mapping.fields.keys() <= {"at", "advance"}:
            continue
        argv = _read_command(mapping.required("command"), problems)
        expected = _read_expected(mapping.required("expect"), problems)
        times = _read_times(mapping.get("repeat"), calls, problems)
        calls += times
        if expected is None or not argv:
            is_reported = True
            continue
        own = None if mapping is case else _read_token(mapping.get("token"), bound, problems)
        steps.append(TestStep(now_us, own or token, argv, times, expected, mapping.node.span))
    if not (steps or is_reported):
        help = f"add a step with `{STEP['command']}`"
        problems.add("no-call", "the case makes no call", case.node.span, help)
    return tuple(steps)


def _read_case(node: YamlNode, starts_us: int, problems: Problems) -> Case:
    fields = _Mapping(node, "a case", CASE, problems)
    identity = fields.required("identity")
    own = [fields.fields[name] for name in STEP if name in fields.fields and name != "token"]
    if own and "steps" in fields.fields:
        message, help = "a case with `steps` has a field of a step", "move it into a step"
        problems.add("surplus-field", message, own[0].label, help)
    bound: dict[str, BoundToken] = {}
    return Case(
        name=fields.text("name") or "",
        identity=fields.text("identity") or "",
        steps=_read_steps(fields, bound, starts_us, problems),
        span=node.span,
        identity_span=node.span if identity is None else identity.span,
        bound=bound,
    )


def _read_invariant(node: YamlNode, problems: Problems) -> Invariant | None:
    fields = _Mapping(node, "an invariant", INVARIANT, problems)
    rules = [rule for rule in InvariantRule if rule in fields.fields]
    if len(rules) != 1:
        if not node.partial:
            message = f"an invariant has one of {listing(InvariantRule)}"
            problems.add(
                "missing-field", message, node.label, f"write {listing(INVARIANT.values())}"
            )
        return None
    (rule,), names_in = rules, "identity" if rules == [InvariantRule.MAY_ONLY] else "but"
    surplus = {"identity": "but", "but": "identity"}[names_in]
    if surplus in fields.fields:
        message, help = f"an invariant with `{rule}` has no `{surplus}`", f"write `{names_in}`"
        problems.add("surplus-field", message, fields.fields[surplus].label, help)
    names = fields.texts("but") or []
    if names_in == "identity" and fields.required("identity") is not None:
        names = [fields.text("identity") or ""]
    classes = _read_classes(fields, rule, problems)
    scope = {field: _read_scope(fields, field, problems) for field in SCOPES if fields.get(field)}
    _check_scope(fields.fields[rule], rule, classes, scope.keys(), problems)
    return Invariant(
        name=fields.text("name") or "",
        rule=rule,
        classes=classes,
        names=tuple(names),
        scope=scope,
        excepted=_read_scope(fields, "except", problems),
        span=node.span,
        names_span=fields.fields.get(names_in, node).span,
    )


def _read_classes(
    fields: _Mapping, rule: InvariantRule, problems: Problems
) -> tuple[OperationClass, ...]:
    """Return the classes of an invariant; `may_only` may name none."""
    node, known = fields.fields[rule], [*OperationClass]
    is_none = rule is InvariantRule.MAY_ONLY and node.value == ()
    texts = [] if is_none else fields.texts(rule) or []
    for text, entry in zip(texts, node.entries, strict=False):
        if text not in known:
            help = did_you_mean(text, known, f"write some of {listing(known)}")
            problems.add("unknown-class", f"unknown class {quote(text)}", entry.span, help)
    return tuple(item for item in OperationClass if item in texts)


def _read_scope(fields: _Mapping, name: str, problems: Problems) -> tuple[Pattern, ...]:
    thing = SCOPES.get(name, "key")
    patterns = (
        problems.attempt(partial(parse_pattern, entry.source, entry.span, thing))
        for entry in fields.entries(name)
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
            help = f"remove it, or add `{INVARIANT[able[0]]}`"
            problems.add("class-without-scope", message, node.span, help)


def parse_cases(text: str, file: str) -> CaseFile:
    """
    Read a test file.

    Args:
        text: YAML, or JSON.
        file: Its name, for the places of problems.

    Raises:
        PolicyError: Every problem of the file, in file order.
    """
    problems = Problems()
    root = read_document(text, file, problems, "`policy: FILE` and `cases:`")
    if "identities" in root.fields and "cases" not in root.fields:
        help = "`keyleash check` validates it; a test file has `policy: FILE` and `cases:`"
        raise fail("unknown-field", "this is a policy, not tests of one", root.span, help)
    fields = _Mapping(root, "the file", FILE, problems)
    fields.required("policy")
    clock = fields.get("clock")
    if "invariants" not in fields.fields:
        fields.required("cases")
    invariants = (_read_invariant(entry, problems) for entry in fields.entries("invariants"))
    starts_us = None if clock is None else _read_instant(clock, _TIME_HELP, problems)
    starts_us = instant_us(DEFAULT_START) if starts_us is None else starts_us
    cases = CaseFile(
        file=file,
        policy=fields.text("policy") or "",
        starts_us=starts_us,
        cases=tuple(_read_case(entry, starts_us, problems) for entry in fields.entries("cases")),
        invariants=tuple(filter(None, invariants)),
    )
    problems.require_none()
    return cases


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
