"""Errors that must not pass for the answer no, which exits with 1."""

from __future__ import annotations

from keyleash.errors import NoPolicyError, UnknownIdentityError, UnknownTokenIdError


class NotInPolicyError(UnknownIdentityError):
    """The policy that is asked has no such identity."""

    exit_code = 2


class NothingActiveError(NoPolicyError):
    """The server has no policy that could be asked."""

    exit_code = 2


class NotItsTokenError(UnknownTokenIdError):
    """The identity that is asked about has no such token."""

    exit_code = 2
