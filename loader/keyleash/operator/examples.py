"""The shipped example policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keyleash.errors import UsageError
from keyleash.policy.problems import did_you_mean
from keyleash.store.scripts import shipped

SCHEMA_LINE = b"# yaml-language-server:"
"""Names the schema in a checkout, so copies omit it."""


@dataclass(frozen=True, slots=True)
class Example:
    """A shipped example.

    Attributes:
        summary: Its content in a phrase.
        files: The name of each copy, and of its source in `examples/`.
    """

    summary: str
    files: Mapping[str, str]

    def read(self) -> dict[str, bytes]:
        """Return the content of each copy."""
        root = shipped("examples")
        texts = {name: (root / source).read_bytes() for name, source in self.files.items()}
        return {
            name: text.partition(b"\n")[2] if text.startswith(SCHEMA_LINE) else text
            for name, text in texts.items()
        }


EXAMPLES: Mapping[str, Example] = {
    "starter": Example(
        "one job runner: a grant, a rate, a budget",
        {
            "agents.yaml": "starter.yaml",
            "agents.test.yaml": "starter.test.yaml",
            ".env.example": "starter.env",
        },
    ),
    "fleet": Example(
        "three agents and an admin: defaults, deny rules, token rules, time zones",
        {"agents.yaml": "agents.yaml", "agents.test.yaml": "agents.test.yaml"},
    ),
}


def require_example(name: str | None) -> Example:
    """Return the example *name*.

    Raises:
        UsageError: There is none, or no name was given.
    """
    known = f"examples are {', '.join(EXAMPLES)}"
    if name is None:
        raise UsageError("specify which example to copy", help=known)
    if name not in EXAMPLES:
        help = did_you_mean(name, EXAMPLES, known)
        raise UsageError(f"there is no example `{name}`", help=help)
    return EXAMPLES[name]
