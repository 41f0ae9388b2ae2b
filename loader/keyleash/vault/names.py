"""Key names inside and outside the vault."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from keyleash.errors import OperationError, VaultConflictError
from keyleash.policy import Pattern
from keyleash.policy.patterns import beginning, match, parse_pattern
from keyleash.policy.problems import listing
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace
from keyleash.store.moves import NewName
from keyleash.store.prefixes import PrefixChange

SHOWN = 5
_REMEMBERED = re.compile(rb"\{[^}]+\}:once:")
"""The names of remembered calls of a cluster, which have the hash tags of data."""


def conflict(keys: Sequence[bytes]) -> VaultConflictError:
    """Return the error for *keys* with taken names, in their logical form."""
    named = listing((key.decode("utf-8", "backslashreplace") for key in keys), SHOWN)
    verb = "exists" if len(keys) == 1 else "exist"
    return VaultConflictError(
        f"{named} {verb} both inside and outside the vault; nothing was overwritten",
        keys,
        help="delete or rename one of the two, then run this again",
    )


def patterns_of(sources: Iterable[str], keyspace: Keyspace) -> tuple[Pattern, ...]:
    """
    Parse key patterns as in policies.

    Raises:
        PolicyError: A pattern is invalid.
        OperationError (vault): A pattern matches control keys only.
    """
    patterns = tuple(map(parse_pattern, sources))
    for pattern in patterns:
        if beginning(pattern).startswith(_own(keyspace)):
            raise OperationError(
                "vault",
                f"`{pattern.source}` matches control keys, which cannot be moved",
                help="specify keys of agents",
            )
    return patterns


def into_vault(keyspace: Keyspace, patterns: Sequence[Pattern]) -> NewName:
    """Return names in the vault for matching keys outside it."""
    own = _own(keyspace)

    def new_name(key: bytes) -> bytes | None:
        if key.startswith(own) or not _matches(patterns, key) or not keyspace.has_place(key):
            return None
        return keyspace.physical(key)

    return new_name


def out_of_vault(keyspace: Keyspace, patterns: Sequence[Pattern]) -> NewName:
    """Return names outside the vault for matching keys in it."""

    def new_name(key: bytes) -> bytes | None:
        name = keyspace.logical(key)
        # Outside, this would be the name of a control key.
        if name is None or name.startswith(_own(keyspace)) or not _matches(patterns, name):
            return None
        return name

    return new_name


def changed_names(change: PrefixChange, patterns: Sequence[Pattern]) -> NewName:
    """Return the names in a change for keys with old prefixes."""
    old, new = change.old, change.new
    prefix, root, vault = old.prefix.encode(), old.root.encode(), old.vault.encode()
    # Sources are written again, and switch_prefixes.lua moves states; the records in their place
    # must stay. Keys of other loads and of undos expire.
    placed = (old.sealed, old.guard_root, old.state_root, old.source_root)
    stays = tuple(name.encode() for name in (*placed, old.staged_prefix, old.undo_prefix))
    adopted = into_vault(new, patterns)

    def new_name(key: bytes) -> bytes | None:
        if key.startswith(stays):
            return None
        if key.startswith(prefix):
            if not key.startswith(root) and not (old.tag and _REMEMBERED.match(key, len(prefix))):
                # Keys of shards (see `store.shards.move_shards`), or control keys of one server.
                return None
            return new.prefix.encode() + key.removeprefix(prefix)
        if vault and key.startswith(vault):
            logical = old.logical(key)
            return None if logical is None else new.physical(logical)
        return adopted(key) if new.vault and patterns else None

    return new_name


def logical_names(keys: Iterable[bytes], *keyspaces: Keyspace) -> tuple[bytes, ...]:
    """Return the logical names of *keys*, each once, in order."""
    found: dict[bytes, None] = {}
    for key in keys:
        names = (keyspace.logical(key) for keyspace in keyspaces if keyspace.vault)
        found[next((name for name in names if name is not None), key)] = None
    return tuple(found)


def _own(keyspace: Keyspace) -> tuple[bytes, ...]:
    """Return the prefixes of keys that keyleash creates."""
    names = (PUBLIC_PREFIX, keyspace.prefix, keyspace.vault)
    return tuple(dict.fromkeys(name.encode() for name in names if name))


def _matches(patterns: Sequence[Pattern], key: bytes) -> bool:
    return any(match(pattern, key) is not None for pattern in patterns)
