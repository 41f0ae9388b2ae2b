"""Parse a policy file to a `Policy`, or report all of its problems."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from keyleash.commands import CHANNEL_CLASSES, CommandTable
from keyleash.limits import Budget, Rate
from keyleash.policy.grants import CommandNames, read_denies, read_grants, warn_of_masked_images
from keyleash.policy.limit_parser import Captures, read_limits
from keyleash.policy.model import Grant, Identity, IdentityKind, Policy
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.schema import check_document
from keyleash.policy.scripts import ScriptReader
from keyleash.policy.sections import (
    check_depth,
    check_token,
    read_acceptances,
    read_breaker,
    read_cluster,
    read_delegation,
    read_idempotency,
    read_section,
)
from keyleash.policy.yaml import YamlNode, read_document

VERSION = 1
IDENTITY_NAME = re.compile(r"[a-z0-9-]{1,64}")


def parse_policy(
    text: str, *, file: str, commands: CommandTable | None, server: CommandTable | None = None
) -> Policy:
    """
    Read a policy document.

    Args:
        text: YAML, or JSON.
        file: The document's name, for the places of problems.
        commands: The commands that `only` and `except` may name; None allows every name, for
            a document that was checked when it was loaded.
        server: The commands of the target server, if it is known; other names are warnings.

    Returns:
        The policy with the document's defaults applied, identities in file order and
        limits in the order of `Counter`.

    Raises:
        PolicyError: All problems of the document, in file order.
    """
    problems, warnings = Problems(), Problems()
    root = check_document(read_document(text, file, problems), problems)
    names = CommandNames(commands, server, problems, warnings)
    scripts = ScriptReader(root.get("scripts"), text, file, problems)
    policy = _Reader(root, names, scripts, problems, warnings).policy()
    scripts.warn_of_unused(warnings)
    problems.require_none()
    return replace(policy, warnings=warnings.in_order)


ACTIVE = "<active policy>"
"""The name of a policy that a server stores, in place of a file's."""


@lru_cache(maxsize=2)
def active_policy(document: str) -> Policy:
    """Parse a policy that a server stores, which was checked when it was loaded.

    The cache serves processes that poll.
    """
    return parse_policy(document, file=ACTIVE, commands=None)


@dataclass
class _Reader:
    """Reads the parts of a document without schema errors."""

    root: YamlNode
    names: CommandNames
    scripts: ScriptReader
    problems: Problems
    warnings: Problems

    def _is_valid(self, node: YamlNode | None) -> bool:
        return node is None or not self.problems.any_between(node.span, node.end)

    def _rules(self, node: YamlNode | None, base: Identity) -> Identity:
        """Return *base* with the rules in *node* that have defaults."""

        def below(section: str) -> YamlNode | None:
            return node.get(section) if node else None

        return replace(
            read_section(below("limits"), base, self.problems),
            token=read_section(below("token"), base.token, self.problems),
            delegate=read_delegation(below("delegate"), base.delegate, self.problems),
            audit=read_section(below("audit"), base.audit, self.problems),
            durability=read_section(below("durability"), base.durability, self.problems),
            cluster=read_cluster(below("cluster"), base.cluster, self.problems),
            on_denials=read_breaker(below("on_denials"), base.on_denials, self.problems),
            idempotency=read_idempotency(below("idempotency"), base.idempotency, self.problems),
        )

    def policy(self) -> Policy:
        self._check_version()
        defaults, identities = self.root.get("defaults"), self.root.get("identities")
        base = self._rules(defaults, Identity("", IdentityKind.MACHINE, ()))
        if identities is None:
            return Policy(())
        if not (identities.fields or identities.partial):
            self.problems.add(
                "no-identities",
                "`identities` is empty",
                identities.span,
                "write at least one identity, such as `agent-reader: {kind: machine, grants: […]}`",
            )
        token, tests = defaults.get("token") if defaults else None, self.root.get("tests")
        return Policy(
            tuple(self._identity(*field, base, token) for field in identities.fields.items()),
            tests=tuple((entry.source, entry.span) for entry in tests.entries) if tests else (),
        )

    def _check_version(self) -> None:
        node = self.root.get("version")
        if node is not None and node.value != VERSION:
            self.problems.add(
                "unknown-version",
                f"unknown version {quote(node.source)}",
                node.span,
                f"write `version: {VERSION}`",
            )

    def _identity(
        self, name: str, node: YamlNode, base: Identity, default_token: YamlNode | None
    ) -> Identity:
        problems = self.problems
        if not IDENTITY_NAME.fullmatch(name):
            problems.add(
                "bad-identity-name",
                f"{quote(name)} is not a valid name for an identity",
                node.label,
                "write 1 to 64 lower-case letters, digits and hyphens",
            )
        grants = node.get("grants")
        read = read_grants(grants, self.names, self.scripts, problems) if grants else ()
        captures = _captures(grants, read)
        rules, token = self._rules(node, base), node.get("token")
        if self._is_valid(default_token) and self._is_valid(token):
            rules = replace(rules, token=check_token(rules.token, token, default_token, problems))
        check_depth(rules.delegate, node.get("delegate"), problems)
        if rules.delegate.depth and not rules.token.bound:
            place = node.get("delegate") or node.get("token")
            problems.add(
                "delegate-unbound",
                f"tokens of {quote(name)} may delegate, and may not be bound",
                place.span if place else node.label,
                "add `token: {bound: true}`: a child is a bound token",
            )
        identity = replace(
            rules,
            name=name,
            kind=self._kind(node.get("kind")),
            grants=read,
            deny=read_denies(node.get("deny"), problems),
            rates=read_limits(Rate, node.get("rate"), captures, problems),
            budgets=read_limits(Budget, node.get("budget"), captures, problems),
            accepted=read_acceptances(node.get("accept"), problems),
            span=node.label,
        )
        warn_of_masked_images(identity, node, self.warnings)
        return identity

    def _kind(self, node: YamlNode | None) -> IdentityKind:
        if node is None:
            return IdentityKind.MACHINE
        kinds = [*IdentityKind]
        if node.source not in kinds:
            self.problems.add(
                "unknown-kind",
                f"unknown kind {quote(node.source)}",
                node.span,
                did_you_mean(node.source, kinds, f"write one of {listing(kinds)}"),
            )
            return IdentityKind.MACHINE
        return IdentityKind(node.source)


def _captures(node: YamlNode | None, grants: tuple[Grant, ...]) -> Captures:
    """Return the captures of the granted key patterns; None if some could not be read."""
    if node is None or node.partial:
        return None
    for entry, grant in zip(node.entries, grants, strict=True):
        keys = entry.get("keys")
        is_of_channels = grant.allow and CHANNEL_CLASSES.issuperset(grant.allow)
        if keys is None and is_of_channels and not entry.partial:
            continue
        if keys is None or keys.partial or len(keys.entries) != len(grant.keys):
            return None
    return frozenset(
        name for grant in grants for pattern in grant.keys for name in pattern.captures
    )
