"""Errors that only the command line makes."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.errors import KeyleashError, PolicyError, Problem


class UsageError(KeyleashError):
    """The command was called in a way that makes no sense."""

    code = "usage"
    exit_code = 2


class WarningsError(KeyleashError):
    """A policy is valid, and there are warnings where none may be."""

    code = "warnings"
    exit_code = PolicyError.exit_code

    def __init__(self, warnings: Sequence[Problem]) -> None:
        count = len(warnings)
        super().__init__(
            f"{count} warning{'s' if count != 1 else ''}, and `--strict` lets none pass",
            help='mend the policy, or let a finding stand: `accept: {CODE: "reason"}`'
            " in the identity",
        )
        self.warnings = tuple(warnings)
