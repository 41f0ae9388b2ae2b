"""Identities that may do the same."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.commands import OperationClass
from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.lint.idle_deny import granted_keys
from keyleash.policy.model import Capture, Grant, Identity, Pattern, PatternPart, Policy
from keyleash.policy.pattern_tree import PatternTree
from keyleash.policy.problems import quote

CODE = "same-scope"

Form = tuple[PatternPart, ...]
Commands = tuple[frozenset[str] | None, frozenset[str]]
Scope = tuple[frozenset[tuple[OperationClass, Commands, Form]], frozenset[Form]]


def same_scope(policy: Policy) -> Iterator[Finding]:
    """Find identities whose grants and deny rules mean the same as those of an earlier one."""
    firsts: dict[tuple[str, Scope], Identity] = {}
    for identity in policy.identities:
        # A machine and a person may share a scope; what they must not share is an identity.
        first = firsts.setdefault((identity.kind, _scope(identity)), identity)
        if first is not identity:
            where = f" on line {first.span.line}" if first.span else ""
            yield finding(
                identity,
                CODE,
                f"{quote(identity.name)} may do the same as {quote(first.name)}{where}",
                identity.span,
                "give each only what its job needs, or make one of the two",
            )


def _scope(identity: Identity) -> Scope:
    """What may be done, however it is divided among grants and whatever captures are called."""
    by_class: dict[tuple[OperationClass, Commands], list[Pattern]] = {}
    for grant in identity.grants:
        for cls in grant.allow:
            patterns = grant.channels if cls is OperationClass.PUBLISH else grant.keys
            by_class.setdefault((cls, _commands(grant)), []).extend(patterns)
    granted = granted_keys(identity)
    denied = [
        pattern for deny in identity.deny for pattern in deny.keys if granted.overlaps(pattern)
    ]
    return (
        frozenset(
            (cls, commands, form)
            for (cls, commands), patterns in by_class.items()
            for form in _widest(patterns)
        ),
        frozenset(_widest(denied)),
    )


def _commands(grant: Grant) -> Commands:
    return None if grant.only is None else frozenset(grant.only), frozenset(grant.except_)


def _widest(patterns: list[Pattern]) -> set[Form]:
    """The patterns that no other covers, without the names of their captures."""
    distinct = {_form(pattern): pattern for pattern in patterns}
    tree = PatternTree((pattern, form) for form, pattern in distinct.items())
    return {
        form
        for form, pattern in distinct.items()
        if all(wide.owner is form for wide in tree.that_cover(pattern))
    }


def _form(pattern: Pattern) -> Form:
    return tuple(Capture("") if isinstance(part, Capture) else part for part in pattern.parts)
