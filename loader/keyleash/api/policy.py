"""A policy document, as programs handle it."""

from __future__ import annotations

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Self

from keyleash.commands import load_table
from keyleash.errors import OperationError, PolicyError, Problem
from keyleash.operator.decisions import Explanation, context_of_document
from keyleash.policy import parse_policy
from keyleash.policy.canonical import policy_digest
from keyleash.policy.diff import PolicyDiff, diff_policies
from keyleash.policy.lint import LintReport, lint
from keyleash.policy.model import Policy as PolicyModel
from keyleash.policy.schema import json_schema


class Policy:
    """A policy document. It may have problems; only a valid one can be planned and loaded.

    Args:
        document: The text of the policy file.
        file: Its name, in the locations of problems.
    """

    def __init__(self, document: str, *, file: str = "<policy>") -> None:
        self.document = document
        self.file = file

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Self:
        """Read a policy file.

        Raises:
            OperationError (file): The file cannot be read, or is not UTF-8.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8"), file=str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise OperationError("file", f"cannot read `{path}`: {reason.lower()}") from None

    def __repr__(self) -> str:
        return f"Policy(file={self.file!r})"

    @cached_property
    def _parsed(self) -> PolicyModel | PolicyError:
        try:
            return parse_policy(self.document, file=self.file, commands=load_table())
        except PolicyError as error:
            return error

    @property
    def model(self) -> PolicyModel:
        """The parsed policy.

        Raises:
            PolicyError: The document has problems.
        """
        if isinstance(self._parsed, PolicyError):
            raise self._parsed
        return self._parsed

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of the document with their places; empty if it is valid."""
        return self._parsed.problems if isinstance(self._parsed, PolicyError) else ()

    @property
    def digest(self) -> str:
        """The digest of the policy, which spelling and comments do not change.

        Raises:
            PolicyError: The document has problems.
        """
        return policy_digest(self.model)

    @property
    def identities(self) -> tuple[str, ...]:
        """The names of the identities.

        Raises:
            PolicyError: The document has problems.
        """
        return tuple(identity.name for identity in self.model.identities)

    def lint(self) -> LintReport:
        """Return likely mistakes, and which of them the document accepts.

        Raises:
            PolicyError: The document has problems.
        """
        return lint(self.model)

    def diff(self, other: Policy) -> PolicyDiff:
        """Return what changes from this policy to *other*, and which calls that allows or denies.

        Raises:
            PolicyError: A document has problems.
        """
        return diff_policies(self.model, other.model, load_table(), ())

    def explain(self, identity: str, *command: str) -> Explanation:
        """Return the decision on a call with unused limits, without a server.

        Raises:
            PolicyError: The document has problems.
            OperationError (unknown-identity): There is no such identity.
        """
        context = context_of_document(self.document, identity, self.file)
        return Explanation(context, command, context.decision(command))

    @staticmethod
    def schema() -> dict[str, Any]:
        """Return the JSON Schema of policy files."""
        return json_schema()
