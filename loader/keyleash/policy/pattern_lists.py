"""Parse lists of key and channel patterns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from keyleash.policy.keysets import KeySet, covers
from keyleash.policy.model import Pattern
from keyleash.policy.patterns import parse_pattern
from keyleash.policy.problems import Problems, quote
from keyleash.policy.yaml import YamlNode

THINGS = {"keys": "key", "channels": "channel", "indexes": "index", "mask_keys": "key"}
"""What the patterns of a field match."""


def read_patterns(
    field: str, node: YamlNode | None, problems: Problems, *, captures_count: bool
) -> tuple[Pattern, ...]:
    """
    Parse a list of patterns, without those that have problems.

    Args:
        field: The list's name, a key of `THINGS`.
        problems: Receives the problems, and each pattern that adds nothing.
        captures_count: Whether a pattern is needed for a capture that a wider one does not have,
            as `per` may count by it.
    """
    if node is None:
        return ()
    thing = THINGS[field]
    readers = (partial(parse_pattern, item.source, item.span, thing) for item in node.entries)
    patterns = tuple(filter(None, map(problems.attempt, readers)))
    firsts: dict[object, Pattern] = {}
    for pattern in patterns:
        firsts.setdefault(pattern.parts, pattern)
    for narrow, wide in _covered([*firsts.values()], captures_count):
        if narrow.span:
            problems.add(
                "covered-pattern",
                f"the {thing} pattern {quote(narrow.source)} is covered by {quote(wide.source)}",
                narrow.span,
                "remove it, or narrow the other one",
            )
    return patterns


def check_repeats(
    field: str, patterns: Iterable[tuple[object, Pattern]], problems: Problems
) -> None:
    """Report each pattern, given with its group, that repeats an earlier one of the group."""
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


def _covered(
    patterns: Sequence[Pattern], captures_count: bool
) -> Iterator[tuple[Pattern, Pattern]]:
    """Yield the patterns that others make redundant, each with the first of these."""
    keys = KeySet(patterns)
    for place, narrow in enumerate(patterns):
        for other in keys.covering(narrow):
            wide = patterns[other]
            if (
                other != place
                and (not captures_count or {*narrow.captures} <= {*wide.captures})
                # Of two that match the same keys, the later one is redundant.
                and (other < place or not covers(narrow, wide))
            ):
                yield narrow, wide
                break
