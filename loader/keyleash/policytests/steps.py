"""The steps of a case: what is called, how often, when, and what is expected of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from keyleash.decision.command import as_sent
from keyleash.policy.node import Broken, Node
from keyleash.policy.problems import Problems, quote
from keyleash.policytests.expectations import LIKE, read_expected
from keyleash.policytests.fields import read_text, require_field
from keyleash.policytests.model import Step
from keyleash.policytests.moments import check_order, read_advance, read_at

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
        self._steps: list[Step] = []
        self._is_partial = False

    def read(self, node: Node, fields: Mapping[str, Node], *, may_only_wait: bool) -> None:
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
        step = Step(self._now_us, token or self._token, argv, times, expected, node.span)
        self._steps.append(step)

    def finished(self, case: Node) -> tuple[Step, ...]:
        """All steps that were read; a case without any is reported."""
        steps = case.get("steps")
        is_told = case.partial or not case.fields or (steps is not None and not steps.entries)
        if not (self._steps or self._is_partial or is_told):
            help = f"add a step with `{STEP['command']}`"
            self._problems.add("no-call", "the case makes no call", case.span, help)
        return tuple(self._steps)

    def _move_clock(self, fields: Mapping[str, Node]) -> None:
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

    def _times(self, node: Node | None) -> int:
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


def read_word(node: Node, problems: Problems) -> str:
    """One word of a command that is a list; empty if it is none, which is reported."""
    if isinstance(node.value, tuple | dict) or node.value is None:
        help = "write text, or a number; quote what holds braces, brackets or `: `"
        problems.add("wrong-type", "a word of a command must be text", node.span, help)
    return node.source


def read_command(node: Node | None, problems: Problems) -> tuple[bytes, ...]:
    """A command as a client sends it: a list of words, or a line split as a shell would."""
    if node is None or isinstance(node.value, Broken):
        return ()
    if node.entries:
        read = [read_word(one, problems) for one in node.entries]
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
