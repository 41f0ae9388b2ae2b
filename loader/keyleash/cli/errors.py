"""Errors that only the command line makes."""

from __future__ import annotations

from keyleash.errors import KeyleashError


class UsageError(KeyleashError):
    """The command was called in a way that makes no sense."""

    code = "usage"
    exit_code = 2


class BadUrlError(UsageError):
    """The server's URL names no server. It is not repeated if it may hold a password."""

    code = "bad-url"


class DeclinedError(KeyleashError):
    """A person was asked and said no."""

    code = "declined"
