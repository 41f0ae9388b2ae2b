"""The tree of a document: values that know their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from keyleash.errors import Span

Path = tuple[str | int, ...]


class Broken(Enum):
    """The value of a node that was already reported and says nothing more."""

    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Node:
    """
    A value of the document.

    Attributes:
        value: A scalar, a tuple of nodes, nodes by field name, or `BROKEN`.
        span: Where the value begins.
        end: Just past the value; for indented values, where the next one begins.
        label: Where the name of its field stands; `span` for the entries of a list.
        source: A scalar's text, without quotes.
        partial: Whether fields or entries were reported and left out.
    """

    value: str | int | bool | tuple[Node, ...] | dict[str, Node] | Broken | None
    span: Span
    end: Span
    label: Span
    source: str = ""
    partial: bool = False

    @property
    def fields(self) -> dict[str, Node]:
        """The fields of a mapping; none for other values."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def entries(self) -> tuple[Node, ...]:
        """The entries of a list; none for other values."""
        return self.value if isinstance(self.value, tuple) else ()

    def get(self, name: str) -> Node | None:
        """The field of that name, or None."""
        return self.fields.get(name)

    def plain(self) -> object:
        """The value without places: dicts, lists, scalars and `BROKEN`."""
        if isinstance(self.value, dict):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value

    def follow(self, path: Sequence[str | int]) -> tuple[Path, Node]:
        """The deepest node on *path*, and how much of the path leads to it."""
        node, taken = self, 0
        for step in path:
            below = _child(node, step)
            if below is None:
                break
            node, taken = below, taken + 1
        return tuple(path[:taken]), node

    def without(self, paths: Collection[Path], here: Path = ()) -> Node:
        """A copy that lacks the nodes at *paths*; later entries of a list move up."""
        kept = [
            (step, below.without(paths, (*here, step)))
            for step, below in _children(self)
            if (*here, step) not in paths
        ]
        partial = self.partial or len(kept) < len(self.fields) + len(self.entries)
        if isinstance(self.value, dict):
            return replace(self, value={str(name): node for name, node in kept}, partial=partial)
        if isinstance(self.value, tuple):
            return replace(self, value=tuple(node for _, node in kept), partial=partial)
        return self


def _children(node: Node) -> Iterator[tuple[str | int, Node]]:
    yield from node.fields.items()
    yield from enumerate(node.entries)


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(step, str):
        return node.get(step)
    return node.entries[step] if step < len(node.entries) else None
