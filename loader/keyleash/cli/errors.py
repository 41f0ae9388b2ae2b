"""Errors that only the command line makes."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.errors import KeyleashError, PolicyError, Problem


class UsageError(KeyleashError):
    """The command was called in a way that makes no sense."""

    code = "usage"
    exit_code = 2


class BadUrlError(UsageError):
    """The server's URL names no server. It is not repeated if it may hold a password."""

    code = "bad-url"


class WideningError(KeyleashError):
    """A policy widens access, and nobody allowed that."""

    code = "widens"


class InputFileError(KeyleashError):
    """A file that the command was to read is missing, or cannot be read."""

    code = "file"
    exit_code = 66


class OutputFileError(KeyleashError):
    """A file that the command was to write is one that it does not write to."""

    code = "file"


class UnansweredError(KeyleashError):
    """The reply to a change did not come: the server made it, or did not."""

    code = "unanswered"
    exit_code = 69


class DeclinedError(KeyleashError):
    """A person was asked and said no."""

    code = "declined"


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


class PortInUseError(KeyleashError):
    """A port cannot be listened on."""

    code = "port-in-use"
