"""
What is known of each identity's ACL user, in a hash that only operators may read.

It decides which users are looked after, and it survives a server whose users are lost: the
hashes of passwords are in it. A password itself is nowhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from redis.exceptions import ResponseError

from keyleash.fence.acl import user_names
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client

SHA256 = re.compile(r"[0-9a-f]{64}")
MOST = 2
"""Passwords of one identity: the one in use, and the one that replaces it."""


class Tier(StrEnum):
    """How far an identity is bound beyond its wrapper."""

    FENCED = "fenced"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Password:
    """The hash of a password, and since when it is valid, Unix milliseconds of the server."""

    sha256: str
    added_ms: int


@dataclass(frozen=True, slots=True)
class GeneratedPassword:
    """A new password. It is here and nowhere else."""

    identity: str
    password: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """As servers keep it."""
        return hashlib.sha256(self.password.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FenceRecord:
    """
    What is known of one user.

    Attributes:
        passwords: Oldest first.
    """

    tier: Tier
    passwords: tuple[Password, ...] = ()

    @property
    def hashes(self) -> tuple[str, ...]:
        """The passwords as servers keep them."""
        return tuple(password.sha256 for password in self.passwords)

    def with_password(self, sha256: str, now_ms: int) -> FenceRecord:
        """The record with one more password; one that it has already is not added again."""
        if sha256 in self.hashes:
            return self
        return replace(self, passwords=(*self.passwords, Password(sha256, now_ms)))

    def newest_only(self) -> FenceRecord:
        """The record without the passwords that were replaced."""
        return replace(self, passwords=self.passwords[-1:])


def generate_password(identity: str) -> GeneratedPassword:
    """A password of 256 bits for an identity."""
    return GeneratedPassword(identity, secrets.token_urlsafe(32))


def read_records(client: Client, keyspace: Keyspace) -> dict[str, FenceRecord]:
    """The record of every identity that has a user, by its name."""
    client = operator_client(client)
    raw = client.hgetall(keyspace.fence)
    return {name.decode(): _record(json.loads(text)) for name, text in raw.items()}


def write_record(client: Client, keyspace: Keyspace, identity: str, record: FenceRecord) -> None:
    """Remember what is now known of an identity's user."""
    passwords = [[password.sha256, password.added_ms] for password in record.passwords]
    text = json.dumps({"tier": record.tier.value, "passwords": passwords})
    if record.tier is Tier.FENCED:
        client.sadd(keyspace.forgeable, identity)
    client.hset(keyspace.fence, identity, text)


def write_tier(client: Client, keyspace: Keyspace, records: Mapping[str, FenceRecord]) -> None:
    """Remember that users are of the tier that a server with this keyspace has."""
    for name, record in records.items():
        write_record(client, keyspace, name, replace(record, tier=tier_of(keyspace)))


def tier_of(keyspace: Keyspace) -> Tier:
    """The tier of the users of a server."""
    return Tier.SEALED if keyspace.vault else Tier.FENCED


def read_forgeable(client: Client, keyspace: Keyspace, identities: Collection[str]) -> set[str]:
    """
    Return those of *identities* whose audit streams may have events that an agent made up.

    An agent with an ACL user can append to its audit stream unless the server is sealed. What it
    appended stays there when the user is gone or the server is sealed. All databases share the
    users, so one that another deployment made counts as well.
    """
    names = list(identities)
    marks = client.smismember(keyspace.forgeable, names) if names else []
    found = {name for name, is_marked in zip(names, marks, strict=True) if is_marked}
    if not keyspace.vault and found != set(names):
        # A managed server may deny ACL: then the marks alone decide.
        with suppress(ResponseError):
            found |= user_names(client) & set(names)
    return found


def forget_records(client: Client, keyspace: Keyspace, identities: tuple[str, ...]) -> None:
    """Forget the users of some identities."""
    if identities:
        client.hdel(keyspace.fence, *identities)


def _record(said: dict[str, object]) -> FenceRecord:
    passwords = said["passwords"]
    assert isinstance(passwords, list)  # noqa: S101 - written above
    return FenceRecord(
        Tier(str(said["tier"])),
        tuple(Password(str(sha256), int(added_ms)) for sha256, added_ms in passwords),
    )
