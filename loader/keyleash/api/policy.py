"""A policy document, as programs handle it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

from keyleash.addons.policy_tests.invariants import require_invariants
from keyleash.commands import known_table, load_table
from keyleash.compiler import CompiledGuard, compile_policy
from keyleash.errors import PolicyError, Problem
from keyleash.operations.arguments import checked
from keyleash.operator.abilities import Abilities, abilities_in
from keyleash.operator.decisions import Explanation, context_of_document
from keyleash.operator.tokens.issue import require_identity
from keyleash.policy import parse_policy
from keyleash.policy.canonical import policy_digest
from keyleash.policy.diff.compare import PolicyDiff, diff_policies
from keyleash.policy.files import ReadText, read_text
from keyleash.policy.lint import LintFinding, LintReport, lint
from keyleash.policy.model import Identity
from keyleash.policy.model import Policy as PolicyModel
from keyleash.policy.problems import in_order
from keyleash.policy.schema import json_schema
from keyleash.results import Result
from keyleash.text import json_object

if TYPE_CHECKING:
    from keyleash.addons.policy_tests.run import TestReport


@dataclass(frozen=True, slots=True)
class PolicyCheck(Result):
    """The check of a policy without problems.

    Attributes:
        file: The name of the file.
        digest: The digest of the policy.
        servers: The servers whose commands it was checked for.
        identities: The identities.
        warnings: Likely mistakes, in file order.
        accepted: Those that the document accepts.
    """

    file: str
    digest: str
    servers: tuple[str, ...]
    identities: tuple[Identity, ...]
    warnings: tuple[Problem, ...]
    accepted: tuple[LintFinding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the check as `keyleash check --json` prints it."""
        return {
            **json_object(self, "file", "digest", "servers"),
            "identities": [json_object(item, "name", "kind") for item in self.identities],
            **json_object(self, "warnings", "accepted"),
        }


@checked
class Policy:
    """A policy document.

    It may have problems: `problems` lists them, and methods that read the policy raise
    `PolicyError`. Only a valid one can be planned and loaded.

    Args:
        document: The text of the policy file.
        file: Its name, in the locations of problems.
    """

    __module__ = "keyleash"

    def __init__(self, document: str, *, file: str = "<policy>") -> None:
        self.document = document
        self.file = file

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Self:
        """Read a policy file.

        Raises:
            OperationError (file): The file is missing, or cannot be read.
            PolicyError: It is not UTF-8.
        """
        name, text = read_text(str(path))
        return cls(text, file=name)

    def __repr__(self) -> str:
        return f"Policy(file={self.file!r})"

    @cached_property
    def _parsed(self) -> PolicyModel | PolicyError:
        try:
            return parse_policy(self.document, file=self.file, commands=known_table())
        except PolicyError as error:
            return error

    @property
    def model(self) -> PolicyModel:
        """The parsed policy."""
        if isinstance(self._parsed, PolicyError):
            raise self._parsed
        return self._parsed

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of the document with their places; empty if it is valid."""
        return self._parsed.problems if isinstance(self._parsed, PolicyError) else ()

    @property
    def digest(self) -> str:
        """The digest of the policy, which spelling and comments do not change."""
        return policy_digest(self.model)

    @property
    def identities(self) -> tuple[str, ...]:
        """The names of the identities."""
        return tuple(identity.name for identity in self.model.identities)

    def lint(self) -> LintReport:
        """Return likely mistakes, and which of them the document accepts."""
        return lint(self.model)

    def check(self) -> PolicyCheck:
        """Return likely mistakes of a valid policy.

        Raises:
            PolicyError: The document has problems, or it breaks an invariant in the test files that
                it names.
        """
        require_invariants(self.model, self.file, known_table())
        found = self.lint()
        return PolicyCheck(
            self.file,
            self.digest,
            tuple(load_table().servers),
            self.model.identities,
            in_order([*self.model.warnings, *found.warnings]),
            found.accepted,
        )

    def compile(self, identity: str | None = None) -> tuple[CompiledGuard, ...]:
        """Return the guards of one identity, or of all, for the commands of supported servers.

        A load compiles them again for its server.

        Raises:
            PolicyError: The document has problems, or no guard can be made of it.
            OperationError (unknown-identity): There is no such identity.
        """
        if identity is not None:
            require_identity(self.model, identity, "the policy")
        guards = compile_policy(self.model, load_table())
        return tuple(guard for guard in guards if identity in (None, guard.identity))

    def diff(self, other: Policy) -> PolicyDiff:
        """Return the changes from this policy to *other*, and which calls it allows or denies."""
        return diff_policies(self.model, other.model, known_table(), ())

    def explain(self, identity: str, *command: str) -> Explanation:
        """Return the decision on a call with unused limits, without a server.

        Raises:
            OperationError (unknown-identity): There is no such identity.
        """
        context = context_of_document(self.document, identity, self.file)
        return Explanation(context, command, context.decision(command))

    def abilities(self, identity: str) -> Abilities:
        """Return what an identity may do, without a server and without commands of modules.

        Raises:
            OperationError (unknown-identity): There is no such identity.
        """
        context = context_of_document(self.document, identity, self.file)
        return abilities_in(replace(context, table=load_table()))

    @staticmethod
    def run_tests(
        *files: str | PathLike[str],
        server: str | None = "",
        timeout: float | None = None,
        min_coverage: float | None = None,
        progress: Callable[[int, int], None] | None = None,
        read: ReadText = read_text,
    ) -> TestReport:
        """Run files of policy tests, each case on a model in Python and on the real guard.

        Args:
            files: The test files; each names its policy.
            server: The URL of a server whose database is empty; an embedded server if it is empty,
                only the model if it is None.
            timeout: The longest wait for each reply of the server, in seconds.
            min_coverage: The required share of patterns that decided a call, in percent.
            progress: Called with the number of finished cases and of all.
            read: Returns the name and the text of a file.

        Raises:
            BadCasesError: The test files have problems.
            PolicyError: A policy has problems.
            OperationError (not-empty): The server's database is not empty.
        """
        # Imported here: only this needs a server.
        from keyleash.addons.policy_tests.session import run_tests  # noqa: PLC0415

        return run_tests(
            [str(file) for file in files],
            server=server,
            timeout_s=timeout,
            min_coverage=min_coverage,
            progress=progress,
            read=read,
        )

    @staticmethod
    def schema() -> dict[str, Any]:
        """Return the JSON Schema of policy files."""
        return json_schema()
