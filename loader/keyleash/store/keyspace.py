"""Every name that keyleash uses in Redis is made here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

PUBLIC_PREFIX = "keyleash:"
"""Guard records stay under this name, whatever the control prefix is: wrappers find them by it."""

OPERATORS = "@operators"
"""Whose trail holds what an undo changed; no identity can have such a name."""


_IN_VAULTS = frozenset("0123456789abcdef:")


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The control keys under one prefix, and the data of agents under another.

    Guards hold these names as compiled constants; no caller ever passes one in.

    Attributes:
        prefix: What the names of all control keys begin with.
        vault: What the server has before the name of each key that agents use; empty if they are
            not in a vault. It is of hexadecimal digits and `:`, so it is nothing special in a
            glob, in a Lua pattern or in a rule of an ACL.
    """

    prefix: str = PUBLIC_PREFIX
    vault: str = ""

    def __post_init__(self) -> None:
        if not _IN_VAULTS.issuperset(self.vault):
            raise ValueError("a vault's prefix has hexadecimal digits and `:` only")

    def physical(self, key: bytes) -> bytes:
        """The name by which the server has what agents and policies call *key*."""
        return self.vault.encode() + key

    @property
    def sealed(self) -> str:
        """Hash: the prefixes in force, for operators alone (`protocol.sealed`)."""
        return f"{PUBLIC_PREFIX}sealed"

    @property
    def policy(self) -> str:
        """Hash: the active policy's generation, digest, document, actor and time."""
        return f"{self.prefix}policy"

    @property
    def history(self) -> str:
        """Sorted set: digests of the policies that are kept, by the generation that they were."""
        return f"{self.prefix}history"

    @property
    def kept_root(self) -> str:
        """What all names of kept policies begin with."""
        return f"{self.prefix}policy:"

    def kept_policy(self, digest: str) -> str:
        """Hash: what `policy` was while the policy of that digest was the active one."""
        return f"{self.kept_root}{digest}"

    @property
    def layouts(self) -> str:
        """Hash: identity → layout of its state, kept for identities that left the policy."""
        return f"{self.prefix}layouts"

    @property
    def control(self) -> str:
        """Stream: activations, tokens issued and revoked, suspensions."""
        return f"{self.prefix}control"

    @property
    def policy_tests(self) -> str:
        """String: whose the database is while `keyleash test` uses it."""
        return f"{self.prefix}policy-tests"

    @property
    def staged_prefix(self) -> str:
        """What stands before a load's id in the names of what it makes before it activates."""
        return f"{self.prefix}staged:"

    def staged_policy(self, load: str) -> str:
        """Hash: what becomes `policy`."""
        return f"{self.staged_prefix}{load}:policy"

    def staged_kept(self, load: str) -> str:
        """Hash: what becomes the kept policy."""
        return f"{self.staged_prefix}{load}:kept"

    def staged_layouts(self, load: str) -> str:
        """Hash: what becomes `layouts`."""
        return f"{self.staged_prefix}{load}:layouts"

    def staged_guard(self, load: str, identity: str) -> str:
        """Hash: what becomes the identity's guard record."""
        return f"{self.staged_prefix}{load}:guard:{identity}"

    def staged_state(self, load: str, identity: str) -> str:
        """String: what becomes the identity's state, unless that has changed meanwhile."""
        return f"{self.staged_prefix}{load}:state:{identity}"

    @property
    def state_root(self) -> str:
        """What all names of states begin with."""
        return f"{self.prefix}state:"

    def state(self, identity: str) -> str:
        """String: the packed state of an identity (`protocol.state`)."""
        return f"{self.state_root}{identity}"

    @property
    def token_root(self) -> str:
        """What all names of token records begin with."""
        return f"{self.prefix}token:"

    def token_prefix(self, identity: str) -> str:
        """What stands before the digest in the name of a token record."""
        return f"{self.token_root}{identity}:"

    def token(self, identity: str, digest: str) -> str:
        """String: the packed record of the token with that SHA-1 (`protocol.token`)."""
        return f"{self.token_prefix(identity)}{digest}"

    def tokens(self, identity: str) -> str:
        """Hash: token id → what is known of the token; guards never read it."""
        return f"{self.prefix}tokens:{identity}"

    def limit_prefix(self, identity: str, limit: str) -> str:
        """What stands before the subject in the name of a counter per token or per capture."""
        return f"{self.prefix}limit:{identity}:{limit}:"

    def audit(self, identity: str) -> str:
        """Stream: the identity's events; `OPERATORS` have one too."""
        return f"{self.prefix}audit:{identity}"

    @property
    def operators_seq(self) -> str:
        """String: number of the newest event in the trail of `OPERATORS`."""
        return f"{self.prefix}seq:{OPERATORS}"

    @property
    def undo_prefix(self) -> str:
        """What stands before the names of keys that a before-image is for the time of a script."""
        return f"{self.prefix}undo:"

    def denied(self, identity: str) -> str:
        """Stream: the identity's refusals."""
        return f"{self.prefix}denied:{identity}"

    def repeats(self, identity: str) -> str:
        """Hash: counts of repeated denials; see docs/reference/audit-events.md."""
        return f"{self.prefix}repeats:{identity}"

    def refused(self, identity: str) -> str:
        """List: when the newest refusals were that count towards the circuit breaker."""
        return f"{self.prefix}refused:{identity}"

    def suspension(self, identity: str) -> str:
        """Hash: why the identity is suspended, since when, until when and by whom."""
        return f"{self.prefix}suspension:{identity}"

    def control_patterns(self, identity: str) -> tuple[str, ...]:
        """Return glob patterns of the control keys that the guard of an identity may use."""
        return (
            self.state(identity),
            f"{self.token_prefix(identity)}*",
            self.audit(identity),
            self.denied(identity),
            self.repeats(identity),
            self.suspension(identity),
            self.refused(identity),
            self.limit_prefix(identity, "*") + "*",
        )

    @property
    def source_root(self) -> str:
        """What all names of records of scripts begin with."""
        return f"{self.prefix}source:"

    def source(self, identity: str) -> str:
        """Hash: script digest → text, for those who may load it again."""
        return f"{self.source_root}{identity}"

    @property
    def guard_root(self) -> str:
        """What all names of public guard records begin with."""
        return f"{PUBLIC_PREFIX}guard:"

    @property
    def fence(self) -> str:
        """Hash: identity → what is known of its ACL user (`fence.record`); for operators only."""
        return f"{self.prefix}fence"

    @property
    def forgeable(self) -> str:
        """Set: identities that have, or had, an ACL user of which the server was not sealed."""
        return f"{self.prefix}forgeable"

    def guard(self, identity: str) -> str:
        """Hash: the public guard record (`protocol.active.GuardRecord`)."""
        return f"{self.guard_root}{identity}"


def script_digest(script: str) -> str:
    """The SHA-1 by which Redis knows *script*, 40 lower-case hex digits."""
    return hashlib.sha1(script.encode("ascii"), usedforsecurity=False).hexdigest()
