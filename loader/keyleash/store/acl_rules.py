"""The globs of key patterns in the rules of Redis ACLs."""

from __future__ import annotations

from keyleash.errors import OperationError
from keyleash.policy.model import AnySuffix, Capture, Pattern

GLOB_CHARACTERS = "*?[]\\"


def acl_glob(pattern: Pattern) -> str:
    """Return the ACL glob of a pattern of keys or channels.

    A capture becomes `*`, which is wider: globs have no segments.

    Raises:
        OperationError (unsayable-pattern): *pattern* contains a character that ACL rules cannot
            express.
    """
    pieces = [
        "*" if isinstance(part, AnySuffix | Capture) else _escaped(part.text.decode(), pattern)
        for part in pattern.parts
    ]
    glob = "".join(pieces)
    # In an ACL file, a rule that ends with `)` would end its selector.
    return f"{glob[:-1]}[)]" if glob.endswith(")") else glob


def _escaped(text: str, pattern: Pattern) -> str:
    for character in text:
        # Servers split rules at blanks, and join quoted ones.
        if character.isspace() or not character.isprintable() or character in "\"'":
            raise OperationError(
                "unsayable-pattern",
                f"ACL rules cannot express {character!r} of the pattern `{pattern.source}`",
                help="remove blanks, quotes and control characters from the key names, or end the"
                " pattern with `*` before the character",
                span=pattern.span,
            )
    return "".join(f"\\{item}" if item in GLOB_CHARACTERS else item for item in text)
