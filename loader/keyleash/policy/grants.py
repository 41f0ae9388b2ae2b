"""Grants and deny rules of an identity."""

from __future__ import annotations

from keyleash.commands import OperationClass
from keyleash.policy.audit_rules import read_image_bytes
from keyleash.policy.command_names import CommandNames
from keyleash.policy.lists import check_distinct, check_not_empty
from keyleash.policy.model import Deny, Grant
from keyleash.policy.node import Node
from keyleash.policy.pattern_lists import check_repeats, read_patterns
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.quantities import MAX_VALUE_BYTES, parse_size
from keyleash.policy.schema import FIELDS

PUBLISH = OperationClass.PUBLISH
"""The one class that is about channels; all others are about keys."""

CHANGING = frozenset({OperationClass.WRITE, OperationClass.DELETE})
"""The classes whose commands change keys."""


def read_grants(node: Node, names: CommandNames, problems: Problems) -> tuple[Grant, ...]:
    """The grants under *node*; what is wrong in them is reported and left out."""
    check_not_empty("grants", node, problems)
    grants = tuple(_read_grant(entry, names, problems) for entry in node.entries)
    check_repeats(
        "keys",
        (
            ((frozenset(grant.allow) - {PUBLISH}, *_narrowing(grant)), pattern)
            for grant in grants
            for pattern in grant.keys
        ),
        problems,
    )
    check_repeats(
        "channels",
        ((_narrowing(grant), pattern) for grant in grants for pattern in grant.channels),
        problems,
    )
    return grants


def read_denies(node: Node | None, problems: Problems) -> tuple[Deny, ...]:
    """The deny rules under *node*; what is wrong in them is reported and left out."""
    denies = []
    for entry in node.entries if node else ():
        # No limit counts by what a deny rule captures, so a capture makes no difference.
        keys = read_patterns("keys", entry.get("keys"), problems, captures_count=False)
        denies.append(Deny(keys, entry.span))
    check_repeats("keys", ((None, key) for deny in denies for key in deny.keys), problems)
    return tuple(denies)


def _narrowing(grant: Grant) -> tuple[frozenset[str] | None, frozenset[str]]:
    only = None if grant.only is None else frozenset(grant.only)
    return only, frozenset(grant.except_)


def _read_grant(entry: Node, names: CommandNames, problems: Problems) -> Grant:
    only, except_ = entry.get("only"), entry.get("except")
    if only is not None:
        check_not_empty("only", only, problems)
    allow = _read_classes(entry.get("allow"), problems)
    _check_has_lists(entry, allow, problems)
    _check_needs_fields(entry, allow, problems)
    return Grant(
        allow=allow,
        keys=read_patterns("keys", entry.get("keys"), problems, captures_count=True),
        only=None if only is None else names.read(only),
        except_=() if except_ is None else names.read(except_),
        # No limit counts by what a channel pattern captures.
        channels=read_patterns("channels", entry.get("channels"), problems, captures_count=False),
        image_bytes=read_image_bytes(entry.get("before_images"), problems),
        value_bytes=_read_value_bytes(entry.get("values"), problems),
        span=entry.span,
    )


def _read_value_bytes(node: Node | None, problems: Problems) -> int | None:
    size = node.get("max_bytes") if node else None
    if size is None:
        return None
    return problems.attempt(lambda: parse_size(size.source, size.span, MAX_VALUE_BYTES, ""))


def _read_classes(node: Node | None, problems: Problems) -> tuple[OperationClass, ...]:
    if node is None:
        return ()
    check_not_empty("allow", node, problems)
    known = [*OperationClass]
    for entry in node.entries:
        if entry.source not in known:
            problems.add(
                "unknown-class",
                f"unknown operation class {quote(entry.source)}",
                entry.span,
                did_you_mean(entry.source, known, f"the classes are {listing(known)}"),
            )
    check_distinct([(entry.source, entry) for entry in node.entries], problems)
    written = {entry.source for entry in node.entries}
    return tuple(cls for cls in OperationClass if cls in written)


def _check_has_lists(entry: Node, allow: tuple[OperationClass, ...], problems: Problems) -> None:
    """Report a list that some class of the grant needs and that is not there."""
    # A list that was reported and left out is not missing.
    if entry.partial:
        return
    for field, needing in (
        ("keys", [cls for cls in allow if cls is not PUBLISH]),
        ("channels", [cls for cls in allow if cls is PUBLISH]),
    ):
        if needing and entry.get(field) is None:
            problems.add(
                "missing-field",
                f"a grant that allows `{needing[0]}` has no `{field}`",
                entry.label,
                f"add one, such as `{FIELDS[field][1]}`",
            )
    if not (allow or entry.get("keys") or entry.get("channels")):
        problems.add(
            "missing-field",
            "a grant has neither `keys` nor `channels`",
            entry.label,
            f"add one, such as `{FIELDS['keys'][1]}`",
        )


def _check_needs_fields(entry: Node, allow: tuple[OperationClass, ...], problems: Problems) -> None:
    """Report a field that no class of the grant needs, if every class could be read."""
    classes = entry.get("allow")
    if (
        classes is None
        or classes.partial
        or any(one.source not in allow for one in classes.entries)
    ):
        return
    keys, channels, images = entry.get("keys"), entry.get("channels"), entry.get("before_images")
    if allow == (PUBLISH,) and keys is not None:
        problems.add(
            "surplus-field",
            "`keys` stands in a grant that allows nothing but `publish`",
            keys.label,
            "remove it, or add a class that needs keys, such as `read`, to `allow`",
        )
    if allow and PUBLISH not in allow and channels is not None:
        problems.add(
            "surplus-field",
            "`channels` stands in a grant that does not allow `publish`",
            channels.label,
            "remove it, or add `publish` to `allow`",
        )
    if allow and CHANGING.isdisjoint(allow) and images is not None:
        problems.add(
            "surplus-field",
            "`before_images` stands in a grant that allows neither `write` nor `delete`",
            images.label,
            "remove it, or write it in the grant that lets the keys be changed",
        )
