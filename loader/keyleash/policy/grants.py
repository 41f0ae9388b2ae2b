"""Grants and deny rules of an identity."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.commands import CommandTable, OperationClass
from keyleash.policy.model import Deny, Grant, Pattern
from keyleash.policy.node import Node
from keyleash.policy.patterns import beginning, covers, parse_pattern
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.schema import FIELDS


def read_grants(node: Node, commands: CommandTable, problems: Problems) -> tuple[Grant, ...]:
    """The grants under *node*; what is wrong in them is reported and left out."""
    _check_not_empty("grants", node, problems)
    grants = tuple(_read_grant(entry, commands, problems) for entry in node.entries)
    _check_repeats(
        (
            ((grant.allow, frozenset(grant.only or ()), frozenset(grant.except_)), pattern)
            for grant in grants
            for pattern in grant.keys
        ),
        problems,
    )
    return grants


def read_denies(node: Node | None, problems: Problems) -> tuple[Deny, ...]:
    """The deny rules under *node*; what is wrong in them is reported and left out."""
    denies = []
    for entry in node.entries if node else ():
        keys = _read_keys(entry.get("keys"), problems)
        # No limit counts by what a deny rule captures, so a capture makes no difference.
        _check_covered(keys, problems, captures_count=False)
        denies.append(Deny(keys, entry.span))
    _check_repeats(((None, key) for deny in denies for key in deny.keys), problems)
    return tuple(denies)


def _read_grant(entry: Node, commands: CommandTable, problems: Problems) -> Grant:
    only, except_ = entry.get("only"), entry.get("except")
    keys = _read_keys(entry.get("keys"), problems)
    _check_covered(keys, problems, captures_count=True)
    if only is not None:
        _check_not_empty("only", only, problems)
    return Grant(
        allow=_read_classes(entry.get("allow"), problems),
        keys=keys,
        only=None if only is None else _read_commands(only, commands, problems),
        except_=() if except_ is None else _read_commands(except_, commands, problems),
        span=entry.span,
    )


def _check_not_empty(field: str, node: Node, problems: Problems) -> None:
    if not (node.entries or node.partial):
        problems.add(
            "empty-list",
            f"`{field}` is empty",
            node.span,
            f"write at least one entry, such as `{FIELDS[field][1]}`",
        )


def _read_classes(node: Node | None, problems: Problems) -> tuple[OperationClass, ...]:
    if node is None:
        return ()
    _check_not_empty("allow", node, problems)
    known = [*OperationClass]
    for entry in node.entries:
        if entry.source not in known:
            problems.add(
                "unknown-class",
                f"unknown operation class {quote(entry.source)}",
                entry.span,
                did_you_mean(entry.source, known, f"the classes are {listing(known)}"),
            )
    _check_distinct([(entry.source, entry) for entry in node.entries], problems)
    written = {entry.source for entry in node.entries}
    return tuple(cls for cls in OperationClass if cls in written)


def _check_distinct(entries: Iterable[tuple[str, Node]], problems: Problems) -> None:
    seen: set[str] = set()
    for meaning, entry in entries:
        if meaning in seen:
            problems.add(
                "repeated-entry", f"{quote(entry.source)} stands twice", entry.span, "remove one"
            )
        seen.add(meaning)


def _read_keys(node: Node | None, problems: Problems) -> tuple[Pattern, ...]:
    if node is None:
        return ()
    _check_not_empty("keys", node, problems)
    found = (_read_pattern(entry, problems) for entry in node.entries)
    return tuple(pattern for pattern in found if pattern is not None)


def _read_pattern(entry: Node, problems: Problems) -> Pattern | None:
    return problems.attempt(lambda: parse_pattern(entry.source, entry.span))


def _check_repeats(keys: Iterable[tuple[object, Pattern]], problems: Problems) -> None:
    """Report a pattern that was there before in the same group."""
    seen: dict[tuple[object, object], Pattern] = {}
    for group, pattern in keys:
        first = seen.setdefault((group, pattern.parts), pattern)
        if first is not pattern and pattern.span and first.span:
            problems.add(
                "repeated-pattern",
                f"the key pattern {quote(pattern.source)} is already on line {first.span.line}",
                pattern.span,
                "remove one of the two",
            )


def _check_covered(keys: tuple[Pattern, ...], problems: Problems, *, captures_count: bool) -> None:
    """
    Report each pattern that adds nothing to another of its list.

    Args:
        keys: The list.
        problems: Receives one problem per covered pattern.
        captures_count: Whether a pattern earns its place by capturing what the wider
            one does not, as `per` may count by it.
    """
    firsts: dict[object, Pattern] = {}
    for pattern in keys:
        firsts.setdefault(pattern.parts, pattern)
    distinct = [*firsts.values()]
    places = {pattern: place for place, pattern in enumerate(distinct)}
    # Whatever covers a pattern begins with a prefix of its beginning; to compare each
    # pattern with each takes seconds for a list of a thousand.
    by_beginning: dict[bytes, list[Pattern]] = {}
    for pattern in distinct:
        by_beginning.setdefault(beginning(pattern), []).append(pattern)
    for narrow in distinct:
        start = beginning(narrow)
        wide = next(
            (
                wide
                for end in range(len(start) + 1)
                for wide in by_beginning.get(start[:end], ())
                if _makes_needless(wide, narrow, captures_count=captures_count)
                # Where two match the same keys, the later one is the surplus.
                and (places[wide] < places[narrow] or not covers(narrow, wide))
            ),
            None,
        )
        if wide is not None and narrow.span:
            problems.add(
                "covered-pattern",
                f"the key pattern {quote(narrow.source)} is covered by {quote(wide.source)}",
                narrow.span,
                "remove it, or narrow the other one",
            )


def _makes_needless(wide: Pattern, narrow: Pattern, *, captures_count: bool) -> bool:
    if wide is narrow or not covers(wide, narrow):
        return False
    return not captures_count or set(narrow.captures) <= set(wide.captures)


def _read_commands(node: Node, commands: CommandTable, problems: Problems) -> tuple[str, ...]:
    """Names in upper case and categories in lower case, as the model wants them."""
    names = []
    for entry in node.entries:
        words = " ".join(entry.source.split())
        is_category = words.startswith("@")
        name = words.lower() if is_category else words.upper()
        names.append(name)
        if is_category:
            _check_category(name, entry, commands, problems)
        else:
            _check_command(name, entry, commands, problems)
    _check_distinct(zip(names, node.entries, strict=True), problems)
    return tuple(dict.fromkeys(names))


def _check_category(name: str, entry: Node, commands: CommandTable, problems: Problems) -> None:
    known = commands.categories
    if name not in known:
        problems.add(
            "unknown-category",
            f"unknown command category {quote(entry.source)}",
            entry.span,
            did_you_mean(name, sorted(known), f"the categories are {listing(sorted(known))}"),
        )


def _check_command(name: str, entry: Node, commands: CommandTable, problems: Problems) -> None:
    spec = commands.get(name)
    if spec is None:
        # A table may hold a container by its sub-commands alone.
        subs = [one.name for one in commands if one.name.startswith(name + " ")] if name else []
        problems.add(
            "unknown-command",
            f"unknown command {quote(entry.source)}",
            entry.span,
            f"name its sub-commands, such as `{subs[0]}`"
            if subs
            else did_you_mean(
                name,
                commands.commands,
                "write a command's name, such as `GET`, or a category, such as `@hash`",
            ),
        )
    elif spec.refused is not None:
        problems.add(
            "refused-command",
            f"{quote(entry.source)} is refused whatever a grant says: {spec.refused}",
            entry.span,
            "remove it",
        )
