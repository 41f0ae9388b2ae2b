"""Parse the grants and denials of an identity."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial

from keyleash.commands import CHANNEL_CLASSES, CommandSpec, CommandTable, OperationClass
from keyleash.commands.facts import UNCHECKED, is_unchecked
from keyleash.commands.spec import CHANGING
from keyleash.policy.keysets import KeySet
from keyleash.policy.model import (
    Deny,
    Grant,
    Identity,
    Pattern,
    TtlRule,
    ValueRules,
    filtered_index,
)
from keyleash.policy.pattern_lists import check_repeats, read_patterns
from keyleash.policy.patterns import parse_pattern
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.schema import GRANT, check_distinct
from keyleash.policy.scripts import ScriptReader
from keyleash.policy.sections import read_image_bytes, read_section
from keyleash.policy.yaml import YamlNode


@dataclass(frozen=True, slots=True)
class CommandNames:
    """
    A reader of command names.

    Attributes:
        commands: Every command that keyleash knows; any other name is a problem. None accepts
            every name.
        server: The commands of the server that the policy is for, if it is known.
        problems: Receives unknown and refused names.
        warnings: Receives names that have no effect on that server.
    """

    commands: CommandTable | None
    server: CommandTable | None
    problems: Problems
    warnings: Problems

    def read(self, node: YamlNode) -> tuple[str, ...]:
        """Return names in upper case and categories in lower case, as in the model."""
        names = []
        for entry in node.entries:
            words = " ".join(entry.source.split())
            is_category = words.startswith("@")
            name = words.lower() if is_category else words.upper()
            names.append(name)
            if self.commands is None:
                continue
            if is_category:
                self._check_category(name, entry, self.commands)
            else:
                self._check_command(name, entry, self.commands)
        check_distinct(zip(names, node.entries, strict=True), self.problems)
        return tuple(dict.fromkeys(names))

    def check_indexes(self, node: YamlNode | None) -> None:
        """Warn of search indexes that the server cannot have."""
        if node and self.server is not None and self.server.get("FT.SEARCH") is None:
            self._warn("absent-command", "module Search", node)

    def _check_category(self, name: str, entry: YamlNode, table: CommandTable) -> None:
        names = sorted(table.categories)
        if name not in names:
            self.problems.add(
                "unknown-category",
                f"unknown command category {quote(entry.source)}",
                entry.span,
                did_you_mean(name, names, f"the categories are {listing(names)}"),
            )
        elif self.server is not None and name not in self.server.categories:
            self._warn("absent-category", f"command of the category {quote(name)}", entry)

    def _check_command(self, name: str, entry: YamlNode, table: CommandTable) -> None:
        rows = _rows(name, table)
        if not rows and is_unchecked(name):
            self._ungrantable(entry, UNCHECKED)
        elif not rows:
            is_of_module = "." in name
            otherwise = (
                "only a server with the module knows it: run `keyleash plan` against one"
                if is_of_module
                else "write a command's name, such as `GET`, or a category, such as `@hash`"
            )
            module = name[: name.find(".") + 1]
            alike = (
                item
                for item in table.commands
                if item.startswith(module) and ("." in item) is is_of_module
            )
            self.problems.add(
                "unknown-command",
                f"unknown command {quote(entry.source)}",
                entry.span,
                did_you_mean(name, alike, otherwise),
            )
        elif all(spec.refused is not None for spec in rows):
            self._ungrantable(entry, rows[0].refused)
        elif self.server is not None and not _rows(name, self.server):
            self._warn("absent-command", quote(name), entry)

    def _ungrantable(self, entry: YamlNode, reason: str | None) -> None:
        message = f"{quote(entry.source)} cannot be granted: {reason}"
        self.problems.add("ungrantable-command", message, entry.span, "remove it")

    def _warn(self, code: str, what: str, entry: YamlNode) -> None:
        self.warnings.add(
            code,
            f"the server has no {what}",
            entry.span,
            "the rule has no effect for it there; remove it, or load on a server that has it",
        )


def _rows(name: str, table: CommandTable) -> list[CommandSpec]:
    """Return the rows of a name: a container's sub-commands, and the command of that name."""
    # A container's own row is always refused, without a reason, so it comes last.
    subs = (
        [spec for spec in table if spec.name.startswith(f"{name} ")]
        if name in table.containers
        else []
    )
    row = table.get(name)
    return subs if row is None else [*subs, row]


KEY_CLASSES = frozenset(OperationClass) - CHANNEL_CLASSES
INDEX_CLASSES = frozenset({OperationClass.READ, *CHANGING})
"""The classes that apply to search indexes."""


def read_grants(
    node: YamlNode, names: CommandNames, scripts: ScriptReader, problems: Problems
) -> tuple[Grant, ...]:
    """Read the grants under *node*; parts with problems are reported and left out."""
    grants = tuple(_read_grant(entry, names, scripts, problems) for entry in node.entries)
    for field, classes in (("keys", KEY_CLASSES), ("channels", CHANNEL_CLASSES)):
        patterns = (
            ((classes.intersection(grant.allow), *_narrowing(grant)), pattern)
            for grant in grants
            for pattern in getattr(grant, field)
        )
        check_repeats(field, patterns, problems)
    return grants


def read_denies(node: YamlNode | None, problems: Problems) -> tuple[Deny, ...]:
    """Read the deny rules under *node*; parts with problems are reported and left out."""
    denies = []
    for entry in node.entries if node else ():
        # No limit counts by the captures of a deny rule.
        keys = read_patterns("keys", entry.get("keys"), problems, captures_count=False)
        denies.append(Deny(keys, entry.span))
    check_repeats("keys", ((None, key) for deny in denies for key in deny.keys), problems)
    return tuple(denies)


def _narrowing(grant: Grant) -> tuple[frozenset[str] | None, frozenset[str]]:
    only = None if grant.only is None else frozenset(grant.only)
    return only, frozenset(grant.except_)


def _read_grant(
    entry: YamlNode, names: CommandNames, scripts: ScriptReader, problems: Problems
) -> Grant:
    only, except_ = entry.get("only"), entry.get("except")
    allow = _read_classes(entry.get("allow"), problems)
    _check_has_lists(entry, allow, problems)
    _check_needs_fields(entry, allow, problems)
    names.check_indexes(entry.get("indexes"))
    return Grant(
        allow=allow,
        keys=read_patterns("keys", entry.get("keys"), problems, captures_count=True),
        only=None if only is None else names.read(only),
        except_=() if except_ is None else names.read(except_),
        # No limit counts by the captures of a channel pattern.
        channels=read_patterns("channels", entry.get("channels"), problems, captures_count=False),
        indexes=_read_indexes(entry.get("indexes"), problems),
        image_bytes=read_image_bytes(entry.get("before_images"), problems),
        values=_read_values(entry.get("values"), problems),
        scripts=scripts.grant(entry.get("scripts")),
        span=entry.span,
    )


_WHERE = re.compile(r"[A-Za-z_]\w*=(\{[a-z_][a-z0-9_]*\}|[\w.@-]+)", re.ASCII)


def _read_indexes(node: YamlNode | None, problems: Problems) -> tuple[Pattern, ...]:
    indexes: list[Pattern] = []
    for entry in node.entries if node else ():
        name, where = entry.get("name") or entry, entry.get("where")
        if isinstance(entry.value, dict) and entry.get("name") is None:
            continue
        values = where.fields if where else {}
        if where and not (values or where.partial):
            help = 'add one, such as `where: {agent: "{agent}"}`'
            problems.add("missing-field", "`where` has no field", where.label, help)
        pairs = {field: value.source for field, value in values.items()}
        for field, value in values.items():
            if not _WHERE.fullmatch(f"{field}={value.source}"):
                problems.add(
                    "bad-filter",
                    f"{quote(f'{field}={value.source}')} cannot be a filter",
                    value.span,
                    "use letters, digits and `_.@-` in the value, or the capture of a binding, such"
                    " as `{agent}`",
                )
        pattern = problems.attempt(partial(parse_pattern, name.source, name.span, "index"))
        if pattern is not None:
            indexes.append(filtered_index(pattern, pairs))
    return tuple(indexes)


def _read_values(node: YamlNode | None, problems: Problems) -> ValueRules:
    rules = read_section(node, ValueRules(), problems)
    return replace(rules, ttl=_read_ttl(node.get("ttl") if node else None, problems))


def _read_ttl(node: YamlNode | None, problems: Problems) -> TtlRule | None:
    if node is None:
        return None
    rule, default = read_section(node, TtlRule(), problems), node.get("default")
    if not (default or node.get("max")):
        problems.add(
            "missing-field",
            "`ttl` has neither `default` nor `max`",
            node.label,
            "add one, such as `ttl: {max: 7d}`",
        )
    elif default and rule.default_s and rule.max_s and rule.default_s > rule.max_s:
        problems.add(
            "default-over-max",
            f"`default` {quote(default.source)} is longer than `max`",
            default.span,
            "shorten `default` or lengthen `max`",
        )
    return rule


def _read_classes(node: YamlNode | None, problems: Problems) -> tuple[OperationClass, ...]:
    if node is None:
        return ()
    classes = [*OperationClass]
    for entry in node.entries:
        if entry.source not in classes:
            problems.add(
                "unknown-class",
                f"unknown operation class {quote(entry.source)}",
                entry.span,
                did_you_mean(entry.source, classes, f"the classes are {listing(classes)}"),
            )
    check_distinct([(entry.source, entry) for entry in node.entries], problems)
    written = {entry.source for entry in node.entries}
    return tuple(cls for cls in OperationClass if cls in written)


def _check_has_lists(
    entry: YamlNode, allow: tuple[OperationClass, ...], problems: Problems
) -> None:
    """Report a missing list that some class of the grant needs."""
    # A list that was reported and left out is not missing.
    if entry.partial:
        return
    of_indexes = INDEX_CLASSES if entry.get("indexes") else ()
    for field, needing in (
        ("keys", [cls for cls in allow if cls not in {*CHANNEL_CLASSES, *of_indexes}]),
        ("channels", [cls for cls in allow if cls in CHANNEL_CLASSES]),
    ):
        if needing:
            GRANT.require(field, entry, f"a grant that allows `{needing[0]}`", problems)
    if not (allow or entry.get("keys") or entry.get("channels") or entry.get("indexes")):
        problems.add(
            "missing-field",
            "a grant has neither `keys` nor `channels`",
            entry.label,
            f"add one, such as `{GRANT.line('keys')}`",
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
    allowed = set(allow)
    for field, is_surplus, where, help in (
        (
            "keys",
            allowed <= CHANNEL_CLASSES,
            "allows classes of channels only",
            "add a class that needs keys, such as `read`, to `allow`",
        ),
        (
            "channels",
            CHANNEL_CLASSES.isdisjoint(allowed),
            "allows neither `publish` nor `subscribe`",
            "add one of them to `allow`",
        ),
        (
            "indexes",
            INDEX_CLASSES.isdisjoint(allowed),
            "allows none of `read`, `write` and `delete`",
            "add one of them to `allow`",
        ),
        (
            "before_images",
            CHANGING.isdisjoint(allowed),
            "allows neither `write` nor `delete`",
            "write it in the grant that allows changes",
        ),
    ):
        node = entry.get(field)
        if allowed and is_surplus and node is not None:
            problems.add(
                "surplus-field",
                f"`{field}` has no effect in a grant that {where}",
                node.label,
                f"remove it, or {help}",
            )


def warn_of_masked_images(identity: Identity, node: YamlNode, warnings: Problems) -> None:
    """
    Warn of each `before_images` of an identity that has no effect because its keys are masked.

    Args:
        node: The identity's mapping. Those of the defaults apply to other identities too.
    """
    masks, audit, grants = KeySet(identity.audit.mask_keys), node.get("audit"), node.get("grants")
    affected = [
        grant
        for grant in identity.grants
        if grant.image_bytes is None and not CHANGING.isdisjoint(grant.allow)
    ]
    images = audit.get("before_images") if audit and identity.audit.image_bytes else None
    settings = [("every key that it applies to", images, affected)]
    for entry, grant in zip(grants.entries if grants else (), identity.grants, strict=True):
        images = entry.get("before_images") if grant.image_bytes else None
        settings.append(("every key of the grant", images, [grant]))
    for keys, images, among in settings:
        if images and among and all(masks.covers(key) for grant in among for key in grant.keys):
            warnings.add(
                "masked-images",
                f"`before_images` has no effect: {keys} is masked",
                images.label,
                "remove it, or narrow `mask_keys`; changes of masked keys cannot be undone",
            )
