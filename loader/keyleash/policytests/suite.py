"""Test files with the policies that they are about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyleash.commands import CommandTable
from keyleash.errors import PolicyError, Problem
from keyleash.policy import Policy, parse_policy
from keyleash.policy.problems import quote, which_identity
from keyleash.policytests.errors import BadCasesError
from keyleash.policytests.model import Case, CaseFile
from keyleash.policytests.parse import parse_cases

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
