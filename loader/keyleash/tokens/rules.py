"""What the active policy says of tokens."""

from __future__ import annotations

from collections.abc import Mapping

from keyleash.errors import NoPolicyError, UnknownIdentityError
from keyleash.policy import TokenRules, parse_policy
from keyleash.policy.problems import which_identity
from keyleash.protocol.active import Client, read_active
from keyleash.protocol.keyspace import Keyspace


def active_rules(client: Client, keyspace: Keyspace) -> Mapping[str, TokenRules]:
    """The token rules of each identity of the active policy; none if no policy is active."""
    active = read_active(client, keyspace)
    if active is None:
        return {}
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    return {one.name: one.token for one in policy.identities}


def require_rules(rules: Mapping[str, TokenRules], identity: str) -> TokenRules:
    """Those of *identity*.

    Raises:
        NoPolicyError: no policy is active.
        UnknownIdentityError: the active policy has no such identity.
    """
    if not rules:
        raise NoPolicyError("no policy is active", help="load one with `keyleash load FILE`")
    if identity not in rules:
        raise UnknownIdentityError(
            f"the active policy has no identity `{identity}`", help=which_identity(identity, rules)
        )
    return rules[identity]
