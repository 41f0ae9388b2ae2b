"""What is asked of every list of a policy, whatever its entries are."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, quote
from keyleash.policy.schema import FIELDS


def check_not_empty(field: str, node: Node, problems: Problems) -> None:
    """Report the list of that field if it has no entry."""
    if not (node.entries or node.partial):
        problems.add(
            "empty-list",
            f"`{field}` is empty",
            node.span,
            f"write at least one entry, such as `{FIELDS[field][1]}`",
        )


def check_distinct(entries: Iterable[tuple[str, Node]], problems: Problems) -> None:
    """Report each entry whose meaning, which comes with it, an earlier one has too."""
    seen: set[str] = set()
    for meaning, entry in entries:
        if meaning in seen:
            problems.add(
                "repeated-entry", f"{quote(entry.source)} stands twice", entry.span, "remove one"
            )
        seen.add(meaning)
