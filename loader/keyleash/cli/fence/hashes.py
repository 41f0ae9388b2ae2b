"""Passwords that somebody else made: their hashes, by identity."""

from __future__ import annotations

from collections.abc import Collection

from keyleash.cli.documents import read_input
from keyleash.cli.errors import UsageError
from keyleash.errors import UnknownIdentityError
from keyleash.policy.problems import which_identity

HELP = "write one line for each: the identity, a blank, and the password's SHA-256 in hex"


def read_hashes(file: str | None, identities: Collection[str]) -> dict[str, str]:
    """
    Read a file of lines `identity sha256`; `-` is standard input, None is no file.

    Raises:
        UsageError: A line is not of that form. It is not repeated: it may hold a password.
        UnknownIdentityError: A line is about none of *identities*.
        InputFileError: The file is missing, or cannot be read.
    """
    from keyleash.fence.record import SHA256

    if file is None:
        return {}
    data = read_input(file).decode("utf-8", "replace")
    found: dict[str, str] = {}
    for number, line in enumerate(data.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not SHA256.fullmatch(words[1]):
            raise UsageError(f"line {number} of the hashes is none", help=HELP)
        name, sha256 = words
        if name not in identities:
            raise UnknownIdentityError(
                f"line {number} of the hashes is about no identity that is meant here",
                help=which_identity(name, identities, "those are"),
            )
        if name in found:
            raise UsageError(f"line {number} of the hashes is about `{name}` again", help=HELP)
        found[name] = sha256
    return found
