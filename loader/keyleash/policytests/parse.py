"""From the text of a test file to its cases, or to everything that is wrong with it."""

from __future__ import annotations

from keyleash.policy.document import read_document
from keyleash.policy.node import Node
from keyleash.policy.problems import Problems
from keyleash.policytests.fields import read_entries, read_fields, read_text, require_field
from keyleash.policytests.model import Case, CaseFile
from keyleash.policytests.moments import read_start
from keyleash.policytests.steps import STEP, StepReader

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


def _case(node: Node, starts_us: int, problems: Problems) -> Case:
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


def _check_no_step(fields: dict[str, Node], problems: Problems) -> None:
    """Report fields of a step beside `steps`; only `token` may stand there, for all of them."""
    own = [fields[name] for name in STEP if name in fields and name != "token"]
    if own:
        message = "a case has either `steps` or the fields of its only one"
        help = "move it into a step of its own"
        problems.add("surplus-field", message, own[0].label, help)
