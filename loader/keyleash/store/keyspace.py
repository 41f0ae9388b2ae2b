"""The names of all keys that keyleash uses in Redis.

Each member of `Keyspace` is one name, and its docstring begins with the type of the key. All names
begin with `keyleash:`. On a cluster a hash tag follows: `HOME_TAG` in the names of what is for all
nodes, and in those of a node's own keys the tag of one of its slots (`store.placement`). Streams of
audit events are `audit:`, of denials `denied:`; `state:`, `token:` and `limit:` keys are written by
guards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from keyleash.commands.facts import CONTROL_PREFIX as CONTROL_PREFIX  # noqa: PLC0414

HOME_TAG = "kl"
"""The hash tag that decides in which slot of a cluster the home is."""

OPERATORS = "@operators"
"""The pseudo-identity whose audit stream holds undos; no identity can have such a name."""


class _Name:
    """A name after the root of a keyspace."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, keys: Keyspace, owner: type | None = None) -> str:
        return keys.root + self._text

    def each(self, after: str = "") -> _NameOf:
        """Return the names that continue with an argument."""
        return _NameOf(self._text, after)


class _NameOf:
    """A name for each identity, or for each load or digest."""

    def __init__(self, before: str, after: str = "") -> None:
        self._before, self._after = before, after

    def __get__(self, keys: Keyspace, owner: type | None = None) -> Callable[[str], str]:
        return lambda of: f"{keys.root}{self._before}{of}{self._after}"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The names of all control keys.

    Guards contain these names as compiled constants; no caller passes them in.

    Attributes:
        tag: The hash tag of the names on a cluster; empty on one server.
    """

    tag: str = ""

    def at_home(self) -> Keyspace:
        """Return the names of a cluster's home."""
        return replace(self, tag=HOME_TAG)

    def at_shard(self, tag: str) -> Keyspace:
        """Return the names of the shard with *tag*."""
        return replace(self, tag=tag)

    @property
    def root(self) -> str:
        """The beginning of the names of all control keys but guard records."""
        return f"{CONTROL_PREFIX}{{{self.tag}}}:" if self.tag else CONTROL_PREFIX

    policy = _Name("policy")
    """Hash: the active policy's generation, digest, document, actor and time."""
    history = _Name("history")
    """Sorted set: digests of the stored policies, by generation."""
    stored_policy_root = _Name("policy:")
    """The prefix of all stored policies."""
    stored_policy = stored_policy_root.each()
    """Hash: the record of a policy in the history, as `policy` was while it was active."""
    layouts = _Name("layouts")
    """Hash: identity → layout of its state, also of identities that left the policy."""
    control = _Name("control")
    """Stream: operator actions: activations, tokens issued and revoked, suspensions."""
    exported = _Name("exported")
    """Hash: name of an audit stream → what an archive has of it (`store.exports`)."""
    confirmed = _Name("confirmed")
    """String: written and deleted by operators, who then wait until a replica has that."""
    policy_tests = _Name("policy-tests")
    """String: the owner of the database while `keyleash test` uses it."""
    staged_prefix = _Name("staged:")
    """The prefix of the keys that a load stages before it activates; its id follows."""
    staged_policy = staged_prefix.each(":policy")
    """Hash: staged; becomes `policy`."""
    staged_stored_policy = staged_prefix.each(":stored")
    """Hash: staged; becomes the stored policy."""
    staged_layouts = staged_prefix.each(":layouts")
    """Hash: staged; becomes `layouts`."""

    def staged_guard(self, load: str, identity: str) -> str:
        """Hash: staged; becomes the identity's guard record."""
        return f"{self.staged_prefix}{load}:guard:{identity}"

    def staged_state(self, load: str, identity: str) -> str:
        """String: staged; becomes the identity's state, unless that has changed meanwhile."""
        return f"{self.staged_prefix}{load}:state:{identity}"

    state_root = _Name("state:")
    """The prefix of all states."""
    state = state_root.each()
    """String: the packed state of an identity (`store.state`).

    At a shard, that of an `account` has the units of a token (`store.leases`).
    """
    token_root = _Name("token:")
    """The prefix of all token records."""
    token_prefix = token_root.each(":")
    """The prefix of the token records of an identity; the digest follows."""

    def token(self, identity: str, digest: str) -> str:
        """String: the packed record of the token with that SHA-1 (`store.token`)."""
        return f"{self.token_prefix(identity)}{digest}"

    tokens = _NameOf("tokens:")
    """Hash: token id → details of the token. Guards read it to renew tokens."""
    delegated = _NameOf("delegated:")
    """Hash: id of a child token → its digest, issue and labels; written by guards."""
    delegations = _NameOf("delegations:")
    """Sorted set: id of a child token → when it expires, Unix milliseconds."""
    children_root = _Name("children:")
    """The prefix of all sets of children of tokens."""
    children_prefix = children_root.each(":")
    """The prefix of the sets of children of an identity's tokens; the parent's id follows.

    Each is a sorted set: id of a child → when it expires, Unix milliseconds.
    """
    once_prefix = _NameOf("once:", ":")
    """The prefix of remembered calls; the token id, `:` and the SHA-1 of the id follow.

    Strings that expire: the SHA-1 of the call, and its reply if that is short enough. On a
    cluster the tag is that of the first key of the call, or the whole key if it has none.
    """

    def limit_prefix(self, identity: str, limit: str) -> str:
        """The prefix of counters per token or per capture; the subject follows."""
        return f"{self.root}limit:{identity}:{limit}:"

    audit = _NameOf("audit:")
    """Stream: the audit events of an identity, or of `OPERATORS`."""

    @property
    def operators_seq(self) -> str:
        """String: the number of the newest event in the audit stream of `OPERATORS`."""
        return self.seq(OPERATORS)

    seq = _NameOf("seq:")
    """String: the number of the newest event in an audit stream without a state."""
    undo_prefix = _Name("undo:")
    """The prefix of temporary keys that hold before-images during a script."""
    denied = _NameOf("denied:")
    """Stream: the identity's denials."""
    repeats = _NameOf("repeats:")
    """Hash: counts of repeated denials; see docs/reference/audit-events.md."""
    refused = _NameOf("refused:")
    """List: times of the newest denials that count towards the circuit breaker."""
    suspension = _NameOf("suspension:")
    """Hash: the reason, start, end and actor of the identity's suspension."""
    scratch = _NameOf("scratch:")
    """Key: the payload of a RESTORE while a guard measures it."""
    leases = _NameOf("leases:")
    """Hash at the home: tag of a shard → its newest grant, and `epoch` (`store.leases`).

    That of an `account` has the grants of a token, and no epoch; `spare`, after the id of a token,
    has the units of each of its caps that shards got for descendants beyond their calls. That of
    `OPERATORS` has the tags of the shards where undos changed keys.
    """
    none = _Name("none")
    """The name of a shard's key that never exists; guards ask for it beside one that may."""
    mac_key = _Name("mac")
    """String at the home: the key of which those of identities are derived."""

    def control_patterns(self, identity: str) -> tuple[str, ...]:
        """Return glob patterns of the control keys that the guard of an identity may use.

        On a cluster they are those at one shard, or at the home.
        """
        names = (
            self.state(identity),
            f"{self.token_prefix(identity)}*",
            self.audit(identity),
            self.denied(identity),
            self.repeats(identity),
            self.suspension(identity),
            self.refused(identity),
        )
        if self.tag == HOME_TAG:
            return (*names, self.leases(identity))
        # Counters of a cluster have the hash tags of data.
        counters = f"{replace(self, tag='').limit_prefix(identity, '*')}*"
        calls = f"{replace(self, tag=self.tag and '*').once_prefix(identity)}*"
        return (*names, *([self.none] if self.tag else ()), calls, counters)

    source = _NameOf("source:")
    """Hash: script digest → source, for clients that may load it again."""

    @property
    def guard_root(self) -> str:
        """The prefix of all guard records, which a cluster has at its home."""
        return f"{self.at_home().root if self.tag else self.root}guard:"

    fence = _Name("fence")
    """Hash of an earlier version: identity → its ACL user (`store.users.fenced_identities`)."""

    def guard(self, identity: str) -> str:
        """Hash: the guard record (`store.records.GuardRecord`)."""
        return f"{self.guard_root}{identity}"


def account(identity: str, token_id: str) -> str:
    """Return the name under which limits per token are leased, in place of the identity's."""
    return f"{identity}:{token_id}"


def script_digest(script: str) -> str:
    """Return the SHA-1 by which Redis names *script*, 40 lower-case hex digits."""
    return hashlib.sha1(script.encode("ascii"), usedforsecurity=False).hexdigest()
