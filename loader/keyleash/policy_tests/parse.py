"""Parse a file of policy tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keyleash.commands import CommandTable
from keyleash.errors import PolicyError, Problem, ReplyCode
from keyleash.evaluate.access import as_sent
from keyleash.policy import SECOND_US, Policy, parse_policy
from keyleash.policy.problems import Problems, did_you_mean, fail, listing, quote, which_identity
from keyleash.policy.quantities import parse_duration
from keyleash.policy.yaml import Broken, YamlNode, read_document
from keyleash.policy_tests.model import BadCasesError, Case, CaseFile, Expected, TestStep


def read_fields(
    node: YamlNode, what: str, known: Mapping[str, str], problems: Problems
) -> dict[str, YamlNode]:
    """
    The fields of a mapping, without those that are reported.

    Args:
        node: The mapping.
        what: What a reader would call it, such as `a case`.
        known: How each field is written, by its name.
        problems: Receives an unknown field, and a value that is no mapping.
    """
    if isinstance(node.value, Broken):
        return {}
    if not isinstance(node.value, dict):
        help = f"its fields are {listing(known)}"
        problems.add("wrong-type", f"{what} must be a mapping", node.span, help)
        return {}
    for name, value in node.fields.items():
        if name not in known:
            help = did_you_mean(name, known, f"the fields here are {listing(known)}")
            message = f"unknown field {quote(name)} in {what}"
            problems.add("unknown-field", message, value.label, help)
    return {name: value for name, value in node.fields.items() if name in known}


def require_field(
    fields: Mapping[str, YamlNode],
    name: str,
    node: YamlNode,
    what: str,
    like: str,
    problems: Problems,
) -> YamlNode | None:
    """The field *name*, which must be there; *like* is how it is written."""
    found = fields.get(name)
    if found is None and isinstance(node.value, dict) and not node.partial:
        problems.add("missing-field", f"{what} has no `{name}`", node.label, f"add `{like}`")
    return found


def read_text(node: YamlNode | None, name: str, like: str, problems: Problems) -> str | None:
    """The text of a scalar, numbers and words like `true` among them; None if there is none."""
    if node is None or isinstance(node.value, Broken):
        return None
    if isinstance(node.value, tuple | dict) or node.value is None:
        problems.add("wrong-type", f"`{name}` must be text", node.span, f"write it like `{like}`")
        return None
    return node.source


def read_entries(
    node: YamlNode | None, name: str, like: str, problems: Problems
) -> tuple[YamlNode, ...]:
    """The entries of a list that must have some."""
    if node is None or isinstance(node.value, Broken):
        return ()
    if not isinstance(node.value, tuple):
        problems.add("wrong-type", f"`{name}` must be a list", node.span, f"write it like `{like}`")
    elif not (node.entries or node.partial):
        problems.add("empty-list", f"`{name}` is empty", node.span, f"write one entry: `{like}`")
    return node.entries


MILLISECOND_US = 1000
YEARS_AHEAD = 5
"""How far calendar windows are compiled in, from the year in which the clock starts."""
DEFAULT_START = "2026-01-01T00:00:00Z"
_MILLISECONDS = re.compile(r"([0-9]{1,9})ms")
_HELP = "write a date and a time, such as `2026-03-02T12:00:00Z`; without a zone it is UTC"


def instant_us(text: str) -> int:
    """
    A time in ISO 8601 as Unix microseconds, to the millisecond.

    Raises:
        ValueError: It is none.
    """
    date = datetime.fromisoformat(text)
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000) * MILLISECOND_US


def read_start(node: YamlNode | None, problems: Problems) -> int:
    """`clock` of a file: what it says when a case begins."""
    text = DEFAULT_START if node is None else node.source
    try:
        return instant_us(text)
    except (ValueError, OverflowError):
        if node is not None:
            problems.add("bad-time", f"{quote(text)} is no time", node.span, _HELP)
        return instant_us(DEFAULT_START)


def read_advance(node: YamlNode, problems: Problems) -> int:
    """`advance` of a step, in microseconds: a duration of the policy language, or `250ms`."""
    return problems.attempt(lambda: _duration_us(node.source, node)) or 0


def read_at(node: YamlNode, starts_us: int, problems: Problems) -> int | None:
    """`at` of a step: `+10s` after the case began, or a date and a time; None if it is neither."""
    if node.source.startswith("+"):
        after_us = problems.attempt(lambda: _duration_us(node.source[1:], node))
        return None if after_us is None else starts_us + after_us
    try:
        return instant_us(node.source)
    except (ValueError, OverflowError):
        help = f"{_HELP}; or how long after the beginning of the case, such as `+10s`"
        problems.add("bad-time", f"{quote(node.source)} is no time", node.span, help)
        return None


def _duration_us(text: str, node: YamlNode) -> int:
    found = _MILLISECONDS.fullmatch(text)
    if found is None:
        return parse_duration(text, node.span, because="a policy's windows are shorter") * SECOND_US
    if int(found[1]) == 0:
        raise fail(
            "duration-out-of-range",
            f"{quote(text)} is not longer than zero",
            node.span,
            "write `1ms` or more",
        )
    return int(found[1]) * MILLISECOND_US


def check_order(
    at_us: int, before_us: int, starts_us: int, node: YamlNode, problems: Problems
) -> None:
    """Report a clock that goes back, or beyond what guards know of calendars."""
    if at_us < before_us:
        help = "put the steps in the order of time; a case begins with `clock` of the file"
        problems.add("clock-goes-back", "the clock goes back here", node.span, help)
    if _year(at_us) >= _year(starts_us) + YEARS_AHEAD:
        message = f"the clock is more than {YEARS_AHEAD} years ahead here"
        help = "set `clock` of the file to a later beginning"
        problems.add("clock-out-of-range", message, node.span, help)


def _year(at_us: int) -> int:
    return datetime.fromtimestamp(at_us // SECOND_US, UTC).year


ALLOW = "allow"
CODES = (
    ReplyCode.COMMAND_REFUSED,
    ReplyCode.CLASS_NOT_GRANTED,
    ReplyCode.KEY_NOT_GRANTED,
    ReplyCode.KEY_DENIED,
    ReplyCode.CHANNEL_NOT_GRANTED,
    ReplyCode.ARGS_TOO_MANY,
    ReplyCode.RATE_LIMITED,
    ReplyCode.BUDGET_EXHAUSTED,
    ReplyCode.SUSPENDED,
    ReplyCode.WORK_TOO_LARGE,
    ReplyCode.VALUE_TOO_LARGE,
)
"""Those that a policy decides; the others are about tokens, servers and clients."""
DETAILS = {
    "code": "code: KEY_DENIED",
    "class": "class: delete",
    "command": "command: DEL",
    "key": 'key: "agents:jobs:42:lock"',
    "channel": 'channel: "agents:events"',
    "limit": "limit: rate.writes",
    "arguments": "arguments: 7001",
    "bytes": "bytes: 65537",
    "work": "work: 700000",
    "retry_after_ms": "retry_after_ms: 100",
    "resets_at": 'resets_at: "2026-01-02T00:00:00Z"',
    "reason": 'reason: "on_denials: 50/minute"',
    "until": 'until: "2026-01-02T00:00:00Z"',
}
TIMES = {"resets_at": "resets_at_ms", "until": "until_ms"}
"""Details that are times, and what a refusal calls them."""
LIKE = "expect: allow` or `expect: KEY_DENIED"


def read_expected(node: YamlNode, problems: Problems) -> Expected | None:
    """What *node* says, or None if that was reported."""
    if isinstance(node.value, Broken):
        return None
    if not isinstance(node.value, dict):
        return _read_code(node, problems)
    fields = read_fields(node, "`expect`", DETAILS, problems)
    code = require_field(fields, "code", node, "`expect`", DETAILS["code"], problems)
    details = {
        name: read_text(value, name, DETAILS[name], problems) or ""
        for name, value in fields.items()
        if name != "code"
    }
    expected = _read_code(code, problems) if code is not None else None
    if expected is None:
        return None
    if expected.code is None and details:
        problems.add(
            "surplus-field",
            "a call that is allowed has no details",
            node.span,
            "write `expect: allow`",
        )
    return Expected(expected.code, _as_refused(details, fields, problems))


def _read_code(node: YamlNode, problems: Problems) -> Expected | None:
    text = read_text(node, "expect", LIKE, problems)
    if text is None:
        return None
    if text == ALLOW:
        return Expected(None)
    if text in CODES:
        return Expected(ReplyCode(text))
    if text in [*ReplyCode]:
        help = f"a policy decides {listing((ALLOW, *CODES))}"
        message = f"{quote(text)} is not for a policy to decide"
        problems.add("unknown-code", message, node.span, help)
    else:
        known = (ALLOW, *CODES)
        help = did_you_mean(text, known, f"write one of {listing(known)}")
        problems.add("unknown-code", f"unknown expectation {quote(text)}", node.span, help)
    return None


def _as_refused(
    details: dict[str, str], fields: dict[str, YamlNode], problems: Problems
) -> dict[str, str]:
    """Details in the words of a refusal, which tells a time in milliseconds."""
    said = {}
    for name, text in details.items():
        if name not in TIMES:
            said[name] = text
            continue
        try:
            said[TIMES[name]] = str(instant_us(text) // 1000)
        except (ValueError, OverflowError):
            help = "write it like `2026-01-02T00:00:00Z`"
            problems.add("bad-time", f"{quote(text)} is no time", fields[name].span, help)
    return said


STEP = {
    "command": "command: GET agents:context:1",
    "expect": "expect: allow",
    "repeat": "repeat: 60",
    "token": "token: another",
    "advance": "advance: 10s",
    "at": "at: +10s",
}
MAX_CALLS = 100_000
"""Of a case: what a real guard takes in a few seconds."""
FIRST_TOKEN = "first"


class StepReader:
    """
    Reads the steps of one case, under a clock that goes on from step to step.

    Args:
        starts_us: What the clock says at first.
        token: Whose calls they are, where a step does not say.
        problems: Receives what is wrong.
    """

    def __init__(self, starts_us: int, token: str | None, problems: Problems) -> None:
        self._starts_us = self._now_us = starts_us
        self._token = token or FIRST_TOKEN
        self._problems = problems
        self._calls = 0
        self._steps: list[TestStep] = []
        self._is_partial = False

    def read(self, node: YamlNode, fields: Mapping[str, YamlNode], *, may_only_wait: bool) -> None:
        """Read one step; *may_only_wait* lets it move the clock and do nothing else."""
        self._move_clock(fields)
        if may_only_wait and fields and fields.keys() <= {"at", "advance"}:
            return
        if not fields:
            # What it is, and that it is wrong, was said already.
            self._is_partial = True
            return
        problems, what = self._problems, "a step" if may_only_wait else "a case"
        command = require_field(fields, "command", node, what, STEP["command"], problems)
        expect = require_field(fields, "expect", node, what, LIKE, problems)
        argv = read_command(command, problems)
        expected = None if expect is None else read_expected(expect, problems)
        token = read_text(fields.get("token"), "token", STEP["token"], problems)
        times = self._times(fields.get("repeat"))
        if expected is None or not argv:
            self._is_partial = True
            return
        step = TestStep(self._now_us, token or self._token, argv, times, expected, node.span)
        self._steps.append(step)

    def finished(self, case: YamlNode) -> tuple[TestStep, ...]:
        """All steps that were read; a case without any is reported."""
        steps = case.get("steps")
        is_told = case.partial or not case.fields or (steps is not None and not steps.entries)
        if not (self._steps or self._is_partial or is_told):
            help = f"add a step with `{STEP['command']}`"
            self._problems.add("no-call", "the case makes no call", case.span, help)
        return tuple(self._steps)

    def _move_clock(self, fields: Mapping[str, YamlNode]) -> None:
        advance, at = fields.get("advance"), fields.get("at")
        before_us, node = self._now_us, advance or at
        if advance is not None and at is not None:
            message = "`at` and `advance` stand side by side"
            self._problems.add("surplus-field", message, at.label, "remove one of the two")
        elif advance is not None:
            self._now_us += read_advance(advance, self._problems)
        elif at is not None:
            self._now_us = read_at(at, self._starts_us, self._problems) or before_us
        if node is not None:
            check_order(self._now_us, before_us, self._starts_us, node, self._problems)

    def _times(self, node: YamlNode | None) -> int:
        if node is None:
            times = 1
        elif type(node.value) is int and node.value >= 1:
            times = node.value
        else:
            message = f"{quote(node.source)} is no number of calls"
            help = "write a whole number of 1 or more"
            self._problems.add("wrong-type", message, node.span, help)
            return 1
        self._calls += times
        if node is not None and self._calls > MAX_CALLS:
            message = f"with these a case makes more than {MAX_CALLS:,} calls"
            help = "repeat less often, or test a policy with smaller limits"
            self._problems.add("too-many-calls", message, node.span, help)
            return 1
        return times


def read_word(node: YamlNode, problems: Problems) -> str:
    """One word of a command that is a list; empty if it is none, which is reported."""
    if isinstance(node.value, tuple | dict) or node.value is None:
        help = "write text, or a number; quote what holds braces, brackets or `: `"
        problems.add("wrong-type", "a word of a command must be text", node.span, help)
    return node.source


def read_command(node: YamlNode | None, problems: Problems) -> tuple[bytes, ...]:
    """A command as a client sends it: a list of words, or a line split as a shell would."""
    if node is None or isinstance(node.value, Broken):
        return ()
    if node.entries:
        read = [read_word(entry, problems) for entry in node.entries]
        return tuple(as_sent(read))
    text = "" if node.value == () else read_text(node, "command", STEP["command"], problems)
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


FILE = {
    "policy": "policy: agents.yaml",
    "clock": 'clock: "2026-03-02T12:00:00Z"',
    "cases": "cases: [{identity: …, command: …, expect: …}]",
}
CASE = {
    "name": "name: the runner may not touch a lock",
    "identity": "identity: agent-runner",
    **STEP,
    "steps": "steps: [{command: …, expect: …}]",
}


def parse_cases(text: str, file: str) -> CaseFile:
    """
    Read a test file.

    Args:
        text: YAML, or JSON.
        file: Its name, for the places of problems.

    Raises:
        PolicyError: With every problem of the file, in its order.
    """
    problems = Problems()
    root = read_document(text, file, problems, "`policy: FILE` and `cases:`")
    fields = read_fields(root, "a test file", FILE, problems)
    policy = require_field(fields, "policy", root, "the file", FILE["policy"], problems)
    cases = require_field(fields, "cases", root, "the file", FILE["cases"], problems)
    starts_us = read_start(fields.get("clock"), problems)
    entries = read_entries(cases, "cases", FILE["cases"], problems)
    read = CaseFile(
        file=file,
        policy=read_text(policy, "policy", FILE["policy"], problems) or "",
        policy_span=policy.span if policy is not None else root.span,
        starts_us=starts_us,
        cases=tuple(_case(entry, starts_us, problems) for entry in entries),
    )
    problems.require_none()
    return read


def _case(node: YamlNode, starts_us: int, problems: Problems) -> Case:
    fields = read_fields(node, "a case", CASE, problems)
    identity = require_field(fields, "identity", node, "a case", CASE["identity"], problems)
    token = read_text(fields.get("token"), "token", CASE["token"], problems)
    reader = StepReader(starts_us, token, problems)
    if "steps" in fields:
        _check_no_step(fields, problems)
        for entry in read_entries(fields["steps"], "steps", CASE["steps"], problems):
            step = read_fields(entry, "a step", STEP, problems)
            reader.read(entry, step, may_only_wait=True)
    elif fields:
        reader.read(node, fields, may_only_wait=False)
    name = read_text(fields.get("name"), "name", CASE["name"], problems)
    return Case(
        name=name or "",
        identity=read_text(identity, "identity", CASE["identity"], problems) or "",
        steps=reader.finished(node),
        span=node.span,
        identity_span=node.span if identity is None else identity.span,
    )


def _check_no_step(fields: dict[str, YamlNode], problems: Problems) -> None:
    """Report fields of a step beside `steps`; only `token` may stand there, for all of them."""
    own = [fields[name] for name in STEP if name in fields and name != "token"]
    if own:
        message = "a case has either `steps` or the fields of its only one"
        help = "move it into a step of its own"
        problems.add("surplus-field", message, own[0].label, help)


ReadText = Callable[[str], tuple[str, str]]
"""From a path to the file's name in messages, and its text."""


@dataclass(frozen=True, slots=True)
class Suite:
    """
    The cases of one file, and their policy.

    Attributes:
        document: The policy's text.
        policy_file: Where it was found.
    """

    cases: CaseFile
    policy: Policy
    document: str
    policy_file: str


def read_suites(files: Sequence[str], table: CommandTable, read: ReadText) -> list[Suite]:
    """
    Read test files and their policies, each policy once.

    Raises:
        BadCasesError: With every problem of every test file.
        PolicyError: With every problem of the first policy that has any.
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
        problems += _unknown_identities(cases, policy)
        suites.append(Suite(cases, policy, text, path))
    if problems:
        raise BadCasesError(problems)
    return suites


def _unknown_identities(cases: CaseFile, policy: Policy) -> list[Problem]:
    names = [identity.name for identity in policy.identities]
    return [_unknown(case, names) for case in cases.cases if case.identity not in names]


def _unknown(case: Case, names: Sequence[str]) -> Problem:
    return Problem(
        "unknown-identity",
        f"the policy has no identity {quote(case.identity)}",
        case.identity_span,
        which_identity(case.identity, names),
    )
