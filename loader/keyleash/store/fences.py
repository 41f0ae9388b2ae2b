"""The records of the ACL users of identities, in a hash that only operators may read.

It lists the users that keyleash manages, and survives a server that lost them, because it stores
the hashes of their passwords. Passwords themselves are stored nowhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from keyleash.errors import OperationError, UsageError
from keyleash.policy.problems import which_identity
from keyleash.results import Result
from keyleash.store.store import Store
from keyleash.store.users import user_names
from keyleash.text import json_object

SHA256 = re.compile(r"[0-9a-f]{64}")
MOST = 2
"""Maximum number of passwords of an identity: the one in use, and its replacement."""


@dataclass(frozen=True, slots=True)
class Password:
    """The hash of a password, and since when it is valid in server Unix milliseconds."""

    sha256: str
    added_ms: int


@dataclass(frozen=True, slots=True)
class GeneratedPassword(Result):
    """A new password; it is stored nowhere else."""

    identity: str
    password: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """The hash that servers store."""
        return hashlib.sha256(self.password.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the password as `--json` prints it."""
        return json_object(self, "identity", "password")


@dataclass(frozen=True, slots=True)
class FenceRecord:
    """The record of one ACL user.

    Attributes:
        passwords: Oldest first.
    """

    passwords: tuple[Password, ...] = ()

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hashes that servers store."""
        return tuple(password.sha256 for password in self.passwords)


def generate_password(identity: str) -> GeneratedPassword:
    """Generate a password of 256 bits for an identity."""
    return GeneratedPassword(identity, secrets.token_urlsafe(32))


HASHES_HELP = "write a line for each: the identity, a blank, and the password's SHA-256 in hex"


def password_hashes(hashes: Mapping[str, str] | str, identities: Collection[str]) -> dict[str, str]:
    """Return hashes of passwords by identity.

    Args:
        hashes: The same, or text with lines `identity sha256`; lines with `#` are comments.
        identities: The known identities.

    Raises:
        UsageError: A line is malformed. It is not repeated: it may contain a password.
        OperationError (unknown-identity): A line names none of *identities*.
    """
    lines = (
        hashes.splitlines()
        if isinstance(hashes, str)
        else [f"{name} {sha256}" for name, sha256 in hashes.items()]
    )
    by_identity: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not SHA256.fullmatch(words[1]):
            raise UsageError(f"line {number} of the hashes is malformed", help=HASHES_HELP)
        name, sha256 = words
        if name not in identities:
            raise OperationError(
                "unknown-identity",
                f"line {number} of the hashes names an unknown identity",
                help=which_identity(name, identities, "known are"),
            )
        if name in by_identity:
            raise UsageError(f"line {number} of the hashes repeats `{name}`", help=HASHES_HELP)
        by_identity[name] = sha256
    return by_identity


def read_records(store: Store) -> dict[str, FenceRecord]:
    """Return the record of every identity that has an ACL user, by name."""
    raw = store.client.hgetall(store.keys.fence)
    records = {}
    for name, text in raw.items():
        stored = json.loads(text)
        passwords = tuple(
            Password(str(item), int(added_ms)) for item, added_ms in stored["passwords"]
        )
        records[name.decode()] = FenceRecord(passwords)
    return records


def write_record(store: Store, identity: str, record: FenceRecord) -> None:
    """Store the record of an identity's user."""
    passwords = [[password.sha256, password.added_ms] for password in record.passwords]
    store.client.sadd(store.keys.forgeable, identity)
    store.client.hset(store.keys.fence, identity, json.dumps({"passwords": passwords}))


def read_forgeable(store: Store, identities: Collection[str]) -> set[str]:
    """Return the *identities* whose audit streams may contain forged events.

    An agent with an ACL user can append to its audit stream. These entries remain when the user is
    deleted. All databases share the ACL users, so users of other deployments count as well.
    """
    names = list(identities)
    marks = store.client.smismember(store.keys.forgeable, names) if names else []
    forgeable = {name for name, is_marked in zip(names, marks, strict=True) if is_marked}
    if forgeable != set(names):
        # A managed server may deny ACL: then only the marks decide.
        with suppress(ResponseError):
            forgeable |= user_names(store.client) & set(names)
    return forgeable


def forget_records(store: Store, identities: Sequence[str]) -> None:
    """Delete the records of some identities."""
    if identities:
        store.client.hdel(store.keys.fence, *identities)
