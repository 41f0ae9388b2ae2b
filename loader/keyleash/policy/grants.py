"""Parse the grants and denials of an identity."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.errors import Span
from keyleash.policy.keysets import KeySet
from keyleash.policy.model import Deny, Grant, Identity
from keyleash.policy.pattern_lists import check_repeats, read_patterns
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.quantities import MAX_VALUE_BYTES, parse_size
from keyleash.policy.schema import EXAMPLES
from keyleash.policy.schema_errors import check_distinct, check_not_empty
from keyleash.policy.sections import read_image_bytes
from keyleash.policy.yaml import YamlNode


class CommandNames:
    """
    Reads names of commands.

    Args:
        known: Every command that keyleash knows; any other name is a problem. None takes
            every name.
        server: The commands of the server that the policy is for, if it is known.
        problems: Receives what is wrong.
        warnings: Receives what is right but has no effect on that server.
    """

    def __init__(
        self,
        known: CommandTable | None,
        server: CommandTable | None,
        problems: Problems,
        warnings: Problems,
    ) -> None:
        self._known = known
        self._server = server
        self._problems = problems
        self._warnings = warnings

    def read(self, node: YamlNode) -> tuple[str, ...]:
        """Names in upper case and categories in lower case, as the model wants them."""
        names = []
        for entry in node.entries:
            words = " ".join(entry.source.split())
            is_category = words.startswith("@")
            name = words.lower() if is_category else words.upper()
            names.append(name)
            if self._known is None:
                continue
            if is_category:
                self._check_category(name, entry, self._known)
            else:
                self._check_command(name, entry, self._known)
        check_distinct(zip(names, node.entries, strict=True), self._problems)
        return tuple(dict.fromkeys(names))

    def _check_category(self, name: str, entry: YamlNode, table: CommandTable) -> None:
        known = table.categories
        if name not in known:
            self._problems.add(
                "unknown-category",
                f"unknown command category {quote(entry.source)}",
                entry.span,
                did_you_mean(name, sorted(known), f"the categories are {listing(sorted(known))}"),
            )
        elif self._server is not None and name not in self._server.categories:
            self._warn("absent-category", f"command of the category {quote(name)}", entry)

    def _check_command(self, name: str, entry: YamlNode, table: CommandTable) -> None:
        meant = _rows(name, table)
        if not meant:
            self._problems.add(
                "unknown-command",
                f"unknown command {quote(entry.source)}",
                entry.span,
                did_you_mean(
                    name,
                    table.commands,
                    "write a command's name, such as `GET`, or a category, such as `@hash`",
                ),
            )
        elif all(spec.refused is not None for spec in meant):
            self._problems.add(
                "refused-command",
                f"{quote(entry.source)} is refused whatever a grant says: {meant[0].refused}",
                entry.span,
                "remove it",
            )
        elif self._server is not None and not _rows(name, self._server):
            self._warn("absent-command", quote(name), entry)

    def _warn(self, code: str, what: str, entry: YamlNode) -> None:
        self._warnings.add(
            code,
            f"the server has no {what}",
            entry.span,
            "the rule has no effect for it there; remove it, or load on a server that has it",
        )


def _rows(name: str, table: CommandTable) -> list[CommandSpec]:
    """The rows that a name stands for: a container's sub-commands, and what has that very name."""
    # A container's own row is always refused and says no more than that, so it comes last.
    subs = (
        [spec for spec in table if spec.name.startswith(f"{name} ")]
        if name in table.containers
        else []
    )
    row = table.get(name)
    return subs if row is None else [*subs, row]


PUBLISH = OperationClass.PUBLISH
"""The one class that is about channels; all others are about keys."""

CHANGING = frozenset({OperationClass.WRITE, OperationClass.DELETE})
"""The classes whose commands change keys."""


def read_grants(node: YamlNode, names: CommandNames, problems: Problems) -> tuple[Grant, ...]:
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


def read_denies(node: YamlNode | None, problems: Problems) -> tuple[Deny, ...]:
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


def _read_grant(entry: YamlNode, names: CommandNames, problems: Problems) -> Grant:
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


def _read_value_bytes(node: YamlNode | None, problems: Problems) -> int | None:
    size = node.get("max_bytes") if node else None
    if size is None:
        return None
    return problems.attempt(lambda: parse_size(size.source, size.span, MAX_VALUE_BYTES, ""))


def _read_classes(node: YamlNode | None, problems: Problems) -> tuple[OperationClass, ...]:
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


def _check_has_lists(
    entry: YamlNode, allow: tuple[OperationClass, ...], problems: Problems
) -> None:
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
                f"add one, such as `{EXAMPLES[field]}`",
            )
    if not (allow or entry.get("keys") or entry.get("channels")):
        problems.add(
            "missing-field",
            "a grant has neither `keys` nor `channels`",
            entry.label,
            f"add one, such as `{EXAMPLES['keys']}`",
        )


def _check_needs_fields(
    entry: YamlNode, allow: tuple[OperationClass, ...], problems: Problems
) -> None:
    """Report a field that no class of the grant needs, if every class could be read."""
    classes = entry.get("allow")
    if (
        classes is None
        or classes.partial
        or any(item.source not in allow for item in classes.entries)
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


def warn_of_masked_images(identity: Identity, node: YamlNode, warnings: Problems) -> None:
    """
    Warn where *identity* asks for before-images and every key in question is masked.

    Args:
        identity: As it was read from *node*.
        node: Its mapping in the document. What the defaults ask for is meant for others as well.
        warnings: Receives one for each `before_images` that has no effect.
    """
    masks = KeySet(identity.audit.mask_keys)
    grants = node.get("grants")
    for entry, grant in zip(grants.entries if grants else (), identity.grants, strict=True):
        asked = entry.get("before_images")
        if asked and grant.image_bytes and _all_masked([grant], masks):
            _warn("every key of the grant", asked.label, warnings)
    audit = node.get("audit")
    asked = audit.get("before_images") if audit else None
    others = [
        grant
        for grant in identity.grants
        if grant.image_bytes is None and not CHANGING.isdisjoint(grant.allow)
    ]
    if asked and identity.audit.image_bytes and others and _all_masked(others, masks):
        _warn("every key that this is about", asked.label, warnings)


def _all_masked(grants: Iterable[Grant], masks: KeySet) -> bool:
    return all(masks.covers(key) for grant in grants for key in grant.keys)


def _warn(keys: str, span: Span, warnings: Problems) -> None:
    warnings.add(
        "masked-images",
        f"`before_images` has no effect: {keys} is masked",
        span,
        "remove it, or narrow `mask_keys`; what changed a masked key cannot be undone",
    )
