"""Removing parts of a YAML text: the rest keeps its comments and layout."""

from __future__ import annotations

import pytest

from keyleash.policy.problems import Problems
from keyleash.policy.removal import without
from keyleash.policy.yaml import read_document

TEXT = """\
# The file.
a: [x, y, z] # flow
b:
  # first
  - x # 1
  - {p: 1, q: 2}
  # third
  - p: 1
    q:
      - 2

# about c
c:
  d: 1
  e: 2
"""


@pytest.mark.parametrize(
    ("path", "names", "before", "after"),
    [
        (["a"], {0}, "[x, y, z]", "[y, z]"),
        (["a"], {1}, "[x, y, z]", "[x, z]"),
        (["a"], {2}, "[x, y, z]", "[x, y]"),
        (["a"], {1, 2}, "[x, y, z]", "[x]"),
        (["a"], {0, 2}, "[x, y, z]", "[y]"),
        (["b"], {0}, "  # first\n  - x # 1\n", ""),
        (["b"], {2}, "  # third\n  - p: 1\n    q:\n      - 2\n", ""),
        (["b", 1], {"p"}, "{p: 1, q: 2}", "{q: 2}"),
        (["b", 1], {"q"}, "{p: 1, q: 2}", "{p: 1}"),
        (["b", 2], {"p"}, "- p: 1\n    q:", "- q:"),
        (["b", 2], {"q"}, "    q:\n      - 2\n", ""),
        (["c"], {"d"}, "  d: 1\n", ""),
        ([], {"b"}, TEXT[TEXT.index("b:") : TEXT.index("\n# about c")], ""),
        ([], {"c"}, "# about c\nc:\n  d: 1\n  e: 2\n", ""),
    ],
)
def test_parts_are_removed_and_the_rest_stays(
    path: list[str | int], names: set[str | int], before: str, after: str
) -> None:
    """Entries and fields, in brackets and in lines, with the comment right above them."""
    node = read_document(TEXT, "p.yaml", Problems())
    for step in path:
        node = node.entries[step] if isinstance(step, int) else node.fields[step]

    assert without(TEXT, [(node, names)]) == TEXT.replace(before, after, 1)


def test_several_parts_are_removed_at_once() -> None:
    """Parts within removed parts do not matter."""
    root = read_document(TEXT, "p.yaml", Problems())
    b = root.fields["b"]

    found = without(TEXT, [(root.fields["a"], {0}), (b, {1}), (b.entries[1], {"p"})])

    assert found == TEXT.replace("[x, y", "[y").replace("  - {p: 1, q: 2}\n", "")
