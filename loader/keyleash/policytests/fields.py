"""Mappings of a test file: which fields they have, and of what type; with a place for each flaw."""

from __future__ import annotations

from collections.abc import Mapping

from keyleash.policy.node import Broken, Node
from keyleash.policy.problems import Problems, did_you_mean, listing, quote


def read_fields(
    node: Node, what: str, known: Mapping[str, str], problems: Problems
) -> dict[str, Node]:
    """
    The fields of a mapping, without those that are reported.

    Args:
        node: The mapping.
        what: What a reader would call it, such as `a case`.
        known: How each field is written, by its name.
        problems: Receives an unknown field, and a value that is no mapping.
    """
    if isinstance(node.value, Broken):
        return {}
    if not isinstance(node.value, dict):
        help = f"its fields are {listing(known)}"
        problems.add("wrong-type", f"{what} must be a mapping", node.span, help)
        return {}
    for name, value in node.fields.items():
        if name not in known:
            help = did_you_mean(name, known, f"the fields here are {listing(known)}")
            message = f"unknown field {quote(name)} in {what}"
            problems.add("unknown-field", message, value.label, help)
    return {name: value for name, value in node.fields.items() if name in known}


def require_field(
    fields: Mapping[str, Node], name: str, node: Node, what: str, like: str, problems: Problems
) -> Node | None:
    """The field *name*, which must be there; *like* is how it is written."""
    found = fields.get(name)
    if found is None and isinstance(node.value, dict) and not node.partial:
        problems.add("missing-field", f"{what} has no `{name}`", node.label, f"add `{like}`")
    return found


def read_text(node: Node | None, name: str, like: str, problems: Problems) -> str | None:
    """The text of a scalar, numbers and words like `true` among them; None if there is none."""
    if node is None or isinstance(node.value, Broken):
        return None
    if isinstance(node.value, tuple | dict) or node.value is None:
        problems.add("wrong-type", f"`{name}` must be text", node.span, f"write it like `{like}`")
        return None
    return node.source


def read_entries(node: Node | None, name: str, like: str, problems: Problems) -> tuple[Node, ...]:
    """The entries of a list that must have some."""
    if node is None or isinstance(node.value, Broken):
        return ()
    if not isinstance(node.value, tuple):
        problems.add("wrong-type", f"`{name}` must be a list", node.span, f"write it like `{like}`")
    elif not (node.entries or node.partial):
        problems.add("empty-list", f"`{name}` is empty", node.span, f"write one entry: `{like}`")
    return node.entries
