"""Which keys are renamed, and how, when prefixes change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keyleash.errors import VaultError
from keyleash.policy import Pattern
from keyleash.policy.patterns import beginning, match, parse_pattern
from keyleash.protocol.keyspace import PUBLIC_PREFIX, Keyspace
from keyleash.protocol.sealed import PrefixChange
from keyleash.vault.moving import NewName


def patterns_of(sources: Iterable[str], keyspace: Keyspace) -> tuple[Pattern, ...]:
    """
    Read patterns of keys, as policies have them.

    Raises:
        PolicyError: one is none.
        VaultError: one is about keyleash's own keys alone.
    """
    patterns = tuple(map(parse_pattern, sources))
    for pattern in patterns:
        if beginning(pattern).startswith(_own(keyspace)):
            raise VaultError(
                f"`{pattern.source}` is about keyleash's own keys, which are not moved by hand",
                help="name the keys of agents",
            )
    return patterns


def into_vault(keyspace: Keyspace, patterns: Sequence[Pattern]) -> NewName:
    """The names within the vault of keys outside it that match a pattern."""
    own = _own(keyspace)

    def new_name(key: bytes) -> bytes | None:
        if key.startswith(own) or not _is_meant(patterns, key):
            return None
        return keyspace.physical(key)

    return new_name


def out_of_vault(keyspace: Keyspace, patterns: Sequence[Pattern]) -> NewName:
    """The names outside the vault of keys within it that match a pattern."""
    vault = keyspace.vault.encode()

    def new_name(key: bytes) -> bytes | None:
        if not key.startswith(vault):
            return None
        name = key.removeprefix(vault)
        # Outside, such a name would be one of keyleash's own.
        if name.startswith(_own(keyspace)) or not _is_meant(patterns, name):
            return None
        return name

    return new_name


def changed_names(change: PrefixChange, patterns: Sequence[Pattern]) -> NewName:
    """The names by which a change has keys that are named by the old prefixes."""
    old, new = change.old, change.new
    prefix, vault = old.prefix.encode(), old.vault.encode()
    # Scripts are recorded anew. States are taken by switch_prefixes, and what stands in their place
    # must stay. What other loads staged, and what undos are at, is gone by itself.
    placed = (old.sealed, old.guard_root, old.state_root, old.source_root)
    stays = tuple(name.encode() for name in (*placed, old.staged_prefix, old.undo_prefix))
    adopted = into_vault(new, patterns)

    def new_name(key: bytes) -> bytes | None:
        if key.startswith(stays):
            return None
        if key.startswith(prefix):
            return new.prefix.encode() + key.removeprefix(prefix)
        if vault and key.startswith(vault):
            return new.physical(key.removeprefix(vault))
        return adopted(key) if new.vault and patterns else None

    return new_name


def logical_names(keys: Iterable[bytes], *keyspaces: Keyspace) -> tuple[bytes, ...]:
    """*keys* as agents have them, each once, in order."""
    vaults = [one.vault.encode() for one in keyspaces if one.vault]
    found: dict[bytes, None] = {}
    for key in keys:
        vault = next((one for one in vaults if key.startswith(one)), b"")
        found[key.removeprefix(vault)] = None
    return tuple(found)


def _own(keyspace: Keyspace) -> tuple[bytes, ...]:
    """What the names of keys that keyleash placed begin with."""
    names = (PUBLIC_PREFIX, keyspace.prefix, keyspace.vault)
    return tuple(dict.fromkeys(name.encode() for name in names if name))


def _is_meant(patterns: Sequence[Pattern], key: bytes) -> bool:
    return any(match(pattern, key) is not None for pattern in patterns)
