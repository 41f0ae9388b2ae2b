"""The ACL users that the active policy requires, with their passwords."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from keyleash.compiler import CompiledGuard
from keyleash.errors import OperationError, UsageError
from keyleash.fence.acl import User
from keyleash.fence.rules import Fence, fence_of
from keyleash.fence.servers import FencedServers
from keyleash.policy.problems import which_identity
from keyleash.store.fences import FenceRecord, GeneratedPassword, Password, generate_password
from keyleash.store.identities import active_records


@dataclass(frozen=True, slots=True)
class DesiredUser:
    """The desired user of an identity, and its desired record."""

    fence: Fence
    record: FenceRecord

    @property
    def identity(self) -> str:
        """The name of the identity and of the user."""
        return self.fence.identity

    @property
    def user(self) -> User:
        """The user; without a password it is off, so that no connection can log in."""
        hashes = self.record.hashes
        return User(self.fence.rules, hashes, is_on=bool(hashes))


def desired_users(servers: FencedServers, guards: Sequence[CompiledGuard]) -> list[DesiredUser]:
    """Return the desired user of each identity of the active policy, with its present passwords.

    Args:
        guards: The guards of the policy, compiled for the first server.

    Raises:
        OperationError (not-active-policy): A guard has other rules than the active one.
        OperationError (unsayable-pattern): ACL rules cannot express a pattern.
    """
    names = [guard.identity for guard in guards]
    active = active_records(servers.store, names)
    users = []
    for guard in guards:
        record = active.get(guard.identity)
        if record is None or record.policy_digest != guard.policy_digest:
            raise OperationError(
                "not-active-policy",
                f"the policy is not the active one: `{guard.identity}` has other rules",
                help="load it first with `keyleash load FILE`",
            )
        fence = fence_of(guard, record.digests, servers.facts)
        users.append(DesiredUser(fence, servers.records.get(guard.identity, FenceRecord())))
    return users


def with_first_passwords(
    servers: FencedServers,
    users: Sequence[DesiredUser],
    hashes: Mapping[str, str],
    *,
    wide: Collection[str] = (),
    generate: bool = False,
) -> tuple[list[DesiredUser], list[GeneratedPassword]]:
    """Give users without a password their first one.

    Args:
        hashes: Passwords as SHA-256 in hex, by identity; those that are valid already are ignored.
        wide: Identities that are fenced in spite of a blocker.
        generate: Whether to generate passwords for users that are in neither.

    Returns:
        The users, and the generated passwords.

    Raises:
        OperationError (unknown-identity): *wide* names no identity of the policy.
        UsageError: A user in *hashes* has another password.
    """
    names = [item.identity for item in users]
    for name in wide:
        if name not in names:
            raise OperationError(
                "unknown-identity",
                f"the policy has no identity `{name}`",
                help=which_identity(name, names),
            )
    first = dict(hashes)
    generated = []
    for item in users:
        name = item.identity
        if item.record.passwords:
            if first.pop(name, None) not in (None, *item.record.hashes):
                raise UsageError(
                    f"`{name}` has a password already",
                    help="add another with `keyleash fence rotate --hashes FILE`",
                )
        elif (
            generate
            and name not in first
            and (item.fence.blocker is None or name in wide or name in servers.records)
        ):
            generated.append(generate_password(name))
    first |= {item.identity: item.sha256 for item in generated}
    now_ms = servers.store.now_ms()
    return [
        replace(item, record=FenceRecord((Password(sha256, now_ms),)))
        if (sha256 := first.get(item.identity))
        else item
        for item in users
    ], generated


def as_acl_file(users: Sequence[DesiredUser]) -> str:
    """Return lines for an ACL file."""
    return "".join(f"user {item.identity} {' '.join(item.user.words)}\n" for item in users)


def as_redis_cli(users: Sequence[DesiredUser]) -> str:
    """Return lines for the standard input of redis-cli or valkey-cli."""
    return "".join(
        f"ACL SETUSER {item.identity} {' '.join(map(_quoted, item.user.words))}\n" for item in users
    )


def _quoted(word: str) -> str:
    if not set(word) & {" ", "\\"}:
        return word
    return '"' + word.replace("\\", "\\\\") + '"'
