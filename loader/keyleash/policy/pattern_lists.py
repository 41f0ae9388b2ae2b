"""Parse lists of key and channel patterns."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.policy.keysets import covers
from keyleash.policy.model import Pattern
from keyleash.policy.pattern_tree import PatternTree
from keyleash.policy.patterns import parse_pattern
from keyleash.policy.problems import Problems, quote
from keyleash.policy.schema_errors import check_not_empty
from keyleash.policy.yaml import YamlNode

THINGS = {"keys": "key", "channels": "channel", "mask_keys": "key"}
"""What the patterns of a field match."""


def read_patterns(
    field: str,
    node: YamlNode | None,
    problems: Problems,
    *,
    captures_count: bool,
    may_be_empty: bool = False,
) -> tuple[Pattern, ...]:
    """
    The patterns of a list without those that have problems.

    Args:
        field: The list's name, a key of `THINGS`.
        node: The list, if there is one.
        problems: Receives what is wrong in it, and each pattern that adds nothing.
        captures_count: Whether a pattern earns its place by capturing what a wider
            one does not, as `per` may count by it.
        may_be_empty: Whether a list without patterns means something.
    """
    if node is None:
        return ()
    if not may_be_empty:
        check_not_empty(field, node, problems)
    found = (_read_pattern(THINGS[field], entry, problems) for entry in node.entries)
    patterns = tuple(pattern for pattern in found if pattern is not None)
    _check_covered(THINGS[field], patterns, problems, captures_count=captures_count)
    return patterns


def check_repeats(
    field: str, patterns: Iterable[tuple[object, Pattern]], problems: Problems
) -> None:
    """Report each pattern that was there before in the same group, which comes with it."""
    seen: dict[tuple[object, object], Pattern] = {}
    for group, pattern in patterns:
        first = seen.setdefault((group, pattern.parts), pattern)
        if first is not pattern and pattern.span and first.span:
            problems.add(
                "repeated-pattern",
                f"the {THINGS[field]} pattern {quote(pattern.source)}"
                f" is already on line {first.span.line}",
                pattern.span,
                "remove one of the two",
            )


def _read_pattern(thing: str, entry: YamlNode, problems: Problems) -> Pattern | None:
    return problems.attempt(lambda: parse_pattern(entry.source, entry.span, thing))


def _check_covered(
    thing: str, patterns: tuple[Pattern, ...], problems: Problems, *, captures_count: bool
) -> None:
    firsts: dict[object, Pattern] = {}
    for pattern in patterns:
        firsts.setdefault(pattern.parts, pattern)
    distinct = [*firsts.values()]
    tree = PatternTree((pattern, place) for place, pattern in enumerate(distinct))
    for place, narrow in enumerate(distinct):
        wide = next(
            (
                wide.pattern
                for wide in tree.that_cover(narrow)
                if _makes_needless(wide.pattern, narrow, captures_count=captures_count)
                # Where two match the same texts, the later one is the surplus.
                and (wide.owner < place or not covers(narrow, wide.pattern))
            ),
            None,
        )
        if wide is not None and narrow.span:
            problems.add(
                "covered-pattern",
                f"the {thing} pattern {quote(narrow.source)} is covered by {quote(wide.source)}",
                narrow.span,
                "remove it, or narrow the other one",
            )


def _makes_needless(wide: Pattern, narrow: Pattern, *, captures_count: bool) -> bool:
    """Whether *wide*, which covers *narrow*, is another one that also captures what that does."""
    if wide is narrow:
        return False
    return not captures_count or set(narrow.captures) <= set(wide.captures)
