"""Patterns of the policy as patterns of ACLs, which are globs."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.errors import KeyleashError
from keyleash.policy.model import AnySuffix, Capture, Pattern
from keyleash.policy.pattern_relations import covers
from keyleash.policy.patterns import beginning

GLOB_CHARACTERS = "*?[]\\"


class UnsayablePatternError(KeyleashError):
    """A pattern has a character that no ACL rule can hold."""

    code = "unsayable-pattern"
    exit_code = 65

    def __init__(self, pattern: Pattern, character: str) -> None:
        super().__init__(
            f"no ACL rule can hold the character {character!r} of the pattern `{pattern.source}`",
            help="name these keys without blanks, quotes and control characters, or take a"
            " pattern that ends with `*` in front of it",
            span=pattern.span,
        )


def acl_glob(pattern: Pattern, vault: str = "") -> str:
    """
    The glob for a pattern of keys or channels.

    A capture becomes `*`: a glob knows no segments, so it is wider.

    Args:
        pattern: As the policy has it.
        vault: What stands in front of a key's name on the server.

    Raises:
        UnsayablePatternError: *pattern* has a character that ACL rules cannot hold.
    """
    pieces = [_escaped(vault, pattern)]
    for part in pattern.parts:
        match part:
            case AnySuffix() | Capture():
                pieces.append("*")
            case _:
                pieces.append(_escaped(part.text.decode(), pattern))
    glob = "".join(pieces)
    # A rule that ends so would end its selector, where the server reads rules from a file.
    return f"{glob[:-1]}[)]" if glob.endswith(")") else glob


def _escaped(text: str, pattern: Pattern) -> str:
    for character in text:
        # Rules are split at blanks, and quotes make one of several.
        if character.isspace() or not character.isprintable() or character in "\"'":
            raise UnsayablePatternError(pattern, character)
    return "".join(f"\\{one}" if one in GLOB_CHARACTERS else one for one in text)


def key_rules(
    read: Iterable[Pattern], write: Iterable[Pattern], vault: str = ""
) -> tuple[str, ...]:
    """
    The rules that allow to read keys of some patterns and to write those of others.

    A server wants one rule that gives all that a call needs on a key, and a policy may give
    it by several; so a pattern also has what a wider one gives.
    """
    reading, writing = tuple(read), tuple(write)
    letters: dict[str, set[str]] = {}
    for pattern in dict.fromkeys((*reading, *writing)):
        given = letters.setdefault(acl_glob(pattern, vault), set())
        for letter, patterns in (("R", reading), ("W", writing)):
            if any(covers(wide, pattern) for wide in patterns):
                given.add(letter)
    for glob in [one for one in letters if _is_needless(one, letters)]:
        del letters[glob]
    return tuple(_rule(glob, given) for glob, given in letters.items())


def _is_needless(glob: str, letters: dict[str, set[str]]) -> bool:
    """Whether the pattern of every key gives it all; servers take none beside that."""
    return glob != "*" and letters[glob] <= letters.get("*", set())


def _rule(glob: str, letters: set[str]) -> str:
    return f"~{glob}" if letters == {"R", "W"} else f"%{min(letters)}~{glob}"


def channel_rules(patterns: Iterable[Pattern]) -> tuple[str, ...]:
    """The rules that allow to publish on channels."""
    globs = dict.fromkeys(map(acl_glob, patterns))
    return ("&*",) if "*" in globs else tuple(f"&{glob}" for glob in globs)


def may_reach(pattern: Pattern, prefix: str, vault: str = "") -> bool:
    """Whether the glob of a pattern may match a key that begins with *prefix*."""
    fixed = vault.encode() + beginning(pattern)
    wanted = prefix.encode()
    is_whole = not any(isinstance(part, AnySuffix | Capture) for part in pattern.parts)
    return fixed.startswith(wanted) or (not is_whole and wanted.startswith(fixed))
