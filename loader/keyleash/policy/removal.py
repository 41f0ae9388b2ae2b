"""Remove entries and fields from a YAML text, and keep its comments and its layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate

from keyleash.errors import Span
from keyleash.policy.yaml import YamlNode

Removal = tuple[YamlNode, Collection[int | str]]
"""A list or a mapping, and the indexes or the names of what is removed; never all."""


def without(text: str, removals: Iterable[Removal]) -> str:
    """Return a text without entries of lists and fields of mappings, and comments right above them.

    The removals are parts of the tree that `read_document` made of it.
    """
    lines = text.splitlines(keepends=True)
    starts = [0, *accumulate(map(len, lines))]

    def place(span: Span) -> int:
        return starts[min(span.line, len(starts)) - 1] + span.column - 1

    def cuts(parent: YamlNode, names: Collection[int | str]) -> Iterator[tuple[int, int]]:
        fields: list[tuple[int | str, YamlNode]] = [*parent.fields.items()]
        fields += enumerate(parent.entries)
        last = max(at for at, (name, _) in enumerate(fields) if name not in names)
        for at, (name, node) in enumerate(fields):
            start = place(node.label if parent.fields else node.span)
            line = starts[node.label.line - 1]
            if name not in names:
                continue
            if parent.is_flow:
                following = [item for _, item in fields[at + 1 : at + 2] if at < last]
                for item in following:
                    yield start, place(item.label if parent.fields else item.span)
                if not following:
                    yield place(fields[last][1].end), place(node.end)
            elif parent.fields and text[line:start].strip():
                # The first field of an entry stands behind its dash.
                yield start, place(fields[at + 1][1].label)
            else:
                above, indent = node.label.line - 1, lines[node.label.line - 1][: start - line]
                margin = " " * (len(indent) - len(indent.lstrip()))
                while above and lines[above - 1].startswith(f"{margin}#"):
                    above -= 1
                yield starts[above], starts[_last_line(node)]

    spans = sorted(cut for parent, names in removals for cut in cuts(parent, names))
    kept, at = [], 0
    for start, end in spans:
        kept.append(text[at : max(at, start)])
        at = max(at, end)
    return "".join([*kept, text[at:]])


def _last_line(node: YamlNode) -> int:
    """Return the last line of a value, without the comments after it."""
    # The end of an indented value is where the next one starts.
    below = (*node.fields.values(), *node.entries)
    last = node.end.line - (node.end.column == 1 and node.end.line > node.span.line)
    return max(map(_last_line, below)) if below and not node.is_flow else last
