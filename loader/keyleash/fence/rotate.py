"""Rotate the passwords of ACL users; two are valid until the rotation is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keyleash.errors import NotFencedError, RotationUnfinishedError
from keyleash.fence.apply import log_fence_action
from keyleash.fence.servers import FencedServers, require_none_foreign
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.results import Result
from keyleash.store.fences import MOST, FenceRecord, GeneratedPassword, Password, write_record
from keyleash.store.users import save_users, set_user
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class PasswordRotation(Result):
    """The second passwords of users.

    Attributes:
        passwords: The generated passwords; they are stored nowhere else.
        identities: The identities whose users have a second password.
    """

    passwords: tuple[GeneratedPassword, ...]
    identities: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the passwords, and the number of users, as `--json` prints them."""
        return {**json_object(self, "passwords"), "added": len(self.identities)}


def add_passwords(
    servers: FencedServers, hashes: Mapping[str, str], announce: Callable[[], None] = lambda: None
) -> None:
    """Add a password to each user; the present one stays valid.

    Args:
        hashes: The new password's SHA-256 in hex, by identity.
        announce: Called before the first change.

    Raises:
        RotationUnfinishedError: A user has two passwords already; nothing was changed.
        NotFencedError: An identity has no user; nothing was changed.
        ForeignUserError: A user was not made for this policy; nothing was changed.
    """
    _require_own_users(servers, list(hashes))
    for name in hashes:
        if len(servers.records[name].passwords) >= MOST:
            raise RotationUnfinishedError(
                f"`{name}` has two passwords already",
                help=f"drop the older one with `keyleash fence rotate --finish {name}`",
            )
    now_ms = servers.store.now_ms()
    records = {}
    for name, sha256 in hashes.items():
        record = servers.records[name]
        if sha256 not in record.hashes:
            record = replace(record, passwords=(*record.passwords, Password(sha256, now_ms)))
        records[name] = record
    announce()
    _change(servers, records, {name: ("on", f"#{hashes[name]}") for name in hashes})


def drop_old_passwords(servers: FencedServers, identities: Sequence[str]) -> list[str]:
    """Drop all but the newest password of each user; open connections remain.

    Returns:
        The identities that had an older password.

    Raises:
        NotFencedError: An identity has no user; nothing was changed.
        ForeignUserError: A user was not made for this policy; nothing was changed.
    """
    _require_own_users(servers, identities)
    present = {name: servers.records[name] for name in identities}
    records = {
        name: replace(record, passwords=record.passwords[-1:])
        for name, record in present.items()
        if len(record.passwords) > 1
    }
    words = {name: ("resetpass", f"#{record.hashes[0]}") for name, record in records.items()}
    _change(servers, records, words)
    return list(records)


def _change(
    servers: FencedServers, records: Mapping[str, FenceRecord], words: Mapping[str, Sequence[str]]
) -> None:
    """Write records, then change the users by ACL words."""
    for name, record in records.items():
        write_record(servers.store, name, record)
    for node in servers.nodes:
        for name in records:
            set_user(node.client, name, words[name])
        save_users(node.client)
    if records:
        log_fence_action(servers, "fence-rotate", list(records))


def require_fenced(records: Mapping[str, FenceRecord], name: str) -> None:
    """Raise a `NotFencedError` if an identity has no ACL user."""
    if name not in records:
        known = listing(sorted(records), SHOWN_IDENTITIES) or "none"
        raise NotFencedError(
            f"`{name}` has no ACL user made by keyleash",
            help=f"fenced identities: {known}; fence others with `keyleash fence apply`",
        )


def _require_own_users(servers: FencedServers, names: Sequence[str]) -> None:
    found = [(node.name, *servers.users_of(node, names)) for node in servers.nodes]
    require_none_foreign(
        {(server, name): why for server, _, foreign in found for name, why in foreign.items()}
    )
    for name in names:
        require_fenced(servers.records, name)
        for server, own, _ in found:
            if name not in own:
                raise NotFencedError(
                    f"{server} has no user `{name}`", help="create it with `keyleash fence apply`"
                )
