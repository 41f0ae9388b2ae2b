"""Key names inside and outside the vault, and renaming keys.

Each key is renamed atomically, with its value and expiry. A key whose new name is taken keeps its
name and is reported. An interrupted walk can therefore be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from redis.exceptions import ResponseError

from keyleash.errors import OperationError, VaultConflictError
from keyleash.policy import Pattern
from keyleash.policy.patterns import beginning, match, parse_pattern
from keyleash.policy.problems import listing
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace
from keyleash.store.prefixes import PrefixChange
from keyleash.store.server_check import Client

PIECE = 500
"""Keys per SCAN and renames per round trip: about a millisecond of the server's time."""

SHOWN = 5

NewName = Callable[[bytes], bytes | None]
"""Returns the new name of a key; None if it keeps its name."""


Report = Callable[[int, int | None], None]
"""Called with the number of scanned keys, of which some may count twice, and with their total."""


def move_keys(
    client: Client, new_name: NewName, report: Report | None = None
) -> tuple[int, tuple[bytes, ...]]:
    """
    Rename every key with a new name.

    Keys that others create meanwhile may be missed.

    Args:
        client: A client of the server.
        new_name: Returns the new name of a key.
        report: Called with the progress after each piece.

    Returns:
        The number of renamed keys, and the keys whose new name is taken.
    """
    seen = moved = 0
    total = client.dbsize()
    conflicts: dict[bytes, None] = {}
    for count, renames in _scan(client, new_name):
        with client.pipeline(transaction=False) as pipe:
            for key, new in renames:
                pipe.renamenx(key, new)
            replies = pipe.execute(raise_on_error=False)
        for (key, _), reply in zip(renames, replies, strict=True):
            if isinstance(reply, ResponseError):
                # It expired, or was deleted or renamed meanwhile.
                if "no such key" not in str(reply):
                    raise reply
            elif reply:
                moved += 1
            else:
                conflicts[key] = None
        seen += count
        if report is not None:
            report(seen, max(total, seen))
    return moved, tuple(conflicts)


def find_conflicts(client: Client, new_name: NewName) -> tuple[bytes, ...]:
    """Return the keys whose new names are taken; nothing is changed."""
    conflicts: dict[bytes, None] = {}
    for _, renames in _scan(client, new_name):
        with client.pipeline(transaction=False) as pipe:
            for _, new in renames:
                pipe.exists(new)
            taken = pipe.execute()
        conflicts |= {
            key: None for (key, _), is_taken in zip(renames, taken, strict=True) if is_taken
        }
    return tuple(conflicts)


def _scan(client: Client, new_name: NewName) -> Iterator[tuple[int, list[tuple[bytes, bytes]]]]:
    """Yield the number of keys in each piece of a SCAN, and those with their new names."""
    cursor = None
    while cursor != 0:
        cursor, keys = client.scan(cursor or 0, count=PIECE)
        yield len(keys), [(key, new) for key in keys if (new := new_name(key)) is not None]


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
        if key.startswith(own) or not _matches(patterns, key):
            return None
        return keyspace.physical(key)

    return new_name


def out_of_vault(keyspace: Keyspace, patterns: Sequence[Pattern]) -> NewName:
    """Return names outside the vault for matching keys in it."""
    vault = keyspace.vault.encode()

    def new_name(key: bytes) -> bytes | None:
        if not key.startswith(vault):
            return None
        name = key.removeprefix(vault)
        # Outside, this would be the name of a control key.
        if name.startswith(_own(keyspace)) or not _matches(patterns, name):
            return None
        return name

    return new_name


def changed_names(change: PrefixChange, patterns: Sequence[Pattern]) -> NewName:
    """Return the names in a change for keys with old prefixes."""
    old, new = change.old, change.new
    prefix, vault = old.prefix.encode(), old.vault.encode()
    # Sources are written again, and switch_prefixes.lua moves states; the records in their place
    # must stay. Keys of other loads and of undos expire.
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
    """Return the logical names of *keys*, each once, in order."""
    vaults = [keyspace.vault.encode() for keyspace in keyspaces if keyspace.vault]
    found: dict[bytes, None] = {}
    for key in keys:
        vault = next((item for item in vaults if key.startswith(item)), b"")
        found[key.removeprefix(vault)] = None
    return tuple(found)


def _own(keyspace: Keyspace) -> tuple[bytes, ...]:
    """Return the prefixes of keys that keyleash creates."""
    names = (PUBLIC_PREFIX, keyspace.prefix, keyspace.vault)
    return tuple(dict.fromkeys(name.encode() for name in names if name))


def _matches(patterns: Sequence[Pattern], key: bytes) -> bool:
    return any(match(pattern, key) is not None for pattern in patterns)
