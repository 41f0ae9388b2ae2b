"""Redis ACL users: rules, key globs, and the users of a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keyleash.errors import OperationError
from keyleash.policy.keysets import covers
from keyleash.policy.model import AnySuffix, Capture, Pattern
from keyleash.policy.patterns import beginning
from keyleash.store.live_table import reply_mapping, reply_text
from keyleash.store.server_check import Client
from keyleash.store.users import read_user_fields
from keyleash.store.wire import reading_reply

EVERY_KEY = "~*"


@dataclass(frozen=True, slots=True)
class Selector:
    """Rules that must together allow a command with all its keys.

    Attributes:
        commands: Names in lower case, a first argument or a sub-command behind a `|`.
        keys: ACL key rules, such as `~*` or `%R~a:*`.
        channels: ACL channel rules, such as `&events:*`.
    """

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The ACL words that give these permissions."""
        return (*(f"+{name}" for name in self.commands), *self.keys, *self.channels)

    @property
    def meaning(self) -> tuple[frozenset[str], ...]:
        """The parts as sets: servers list them in an order of their own."""
        return frozenset(self.commands), frozenset(self.keys), frozenset(self.channels)

    def __str__(self) -> str:
        return f"({' '.join(self.words)})"


@dataclass(frozen=True, slots=True)
class Rules:
    """The permissions of a user: the root permissions, or one of its selectors, tried in order."""

    root: Selector
    selectors: tuple[Selector, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The ACL words that give these permissions."""
        return (*self.root.words, *map(str, self.selectors))

    @property
    def meaning(self) -> tuple[object, ...]:
        """The parts as sets, to compare the rules of two users."""
        return self.root.meaning, frozenset(selector.meaning for selector in self.selectors)


@dataclass(frozen=True, slots=True)
class User:
    """An ACL user.

    Attributes:
        passwords: SHA-256 hashes in hex, as the server stores them.
        is_on: Whether it may log in.
        is_open: Whether it needs no password, or has rules that no fence makes: all commands, or
            commands removed one by one.
    """

    rules: Rules
    passwords: tuple[str, ...] = ()
    is_on: bool = True
    is_open: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The ACL words that turn any user into this one in one step."""
        state = "on" if self.is_on else "off"
        return ("reset", state, *(f"#{password}" for password in self.passwords), *self.rules.words)


def read_users(client: Client, names: Sequence[str]) -> dict[str, User]:
    """Return the users of the server among *names*, by name."""
    found = read_user_fields(client, names)
    with reading_reply("ACL"):
        return {name: _user(fields) for name, fields in found.items()}


def _user(fields: Mapping[str, Any]) -> User:
    flags = {reply_text(flag) for flag in fields["flags"]}
    root, is_plain = _selector(fields)
    others = [_selector(reply_mapping(item)) for item in fields.get("selectors", ())]
    return User(
        Rules(root, tuple(selector for selector, _ in others)),
        tuple(reply_text(field) for field in fields["passwords"]),
        is_on="on" in flags,
        is_open="nopass" in flags or not is_plain or not all(plain for _, plain in others),
    )


def _selector(fields: Mapping[str, Any]) -> tuple[Selector, bool]:
    """Return a selector, and whether only `-@all` and single commands made it."""
    first, *rest = reply_text(fields["commands"]).split()
    added = tuple(word[1:] for word in rest if word.startswith("+") and "@" not in word)
    keys, channels = (reply_text(fields[name]).split() for name in ("keys", "channels"))
    is_plain = first == "-@all" and len(added) == len(rest)
    return Selector(added, tuple(keys), tuple(channels)), is_plain


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


def key_rules(read: Iterable[Pattern], write: Iterable[Pattern]) -> tuple[str, ...]:
    """Return the rules that allow reading and writing keys of some patterns.

    One rule must give all that a call needs on a key, but a policy may use several. Each pattern
    therefore also gets the permissions of wider ones.
    """
    reading, writing = tuple(read), tuple(write)
    letters: dict[str, set[str]] = {}
    for pattern in dict.fromkeys((*reading, *writing)):
        given: set[str] = set()
        for letter, patterns in (("R", reading), ("W", writing)):
            if any(covers(wide, pattern) for wide in patterns):
                given.add(letter)
        letters.setdefault(acl_glob(pattern), set()).update(given)
    # Servers reject rules beside a `*` that already gives the same.
    everywhere = letters.get("*", set())
    return tuple(
        f"~{glob}" if given == {"R", "W"} else f"%{min(given)}~{glob}"
        for glob, given in letters.items()
        if glob == "*" or not given <= everywhere
    )


def channel_rules(patterns: Iterable[Pattern]) -> tuple[str, ...]:
    """Return the rules that allow the use of channels."""
    globs = dict.fromkeys(map(acl_glob, patterns))
    return ("&*",) if "*" in globs else tuple(f"&{glob}" for glob in globs)


def may_reach(pattern: Pattern, prefix: str) -> bool:
    """Return whether the glob of a pattern may match a key that begins with *prefix*."""
    fixed = beginning(pattern)
    wanted = prefix.encode()
    is_whole = not any(isinstance(part, AnySuffix | Capture) for part in pattern.parts)
    return fixed.startswith(wanted) or (not is_whole and wanted.startswith(fixed))
