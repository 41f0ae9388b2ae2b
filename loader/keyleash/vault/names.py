"""Names of keys inside and outside the vault, and renaming keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from keyleash.errors import (
    OperationError,
    VaultConflictError,
)
from keyleash.policy import Pattern
from keyleash.policy.patterns import beginning, match, parse_pattern
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace
from keyleash.store.prefixes import PrefixChange
from keyleash.store.records import Client

# Giving keys other names: each at once, many in pieces, and again where it was interrupted.
#
# A key is renamed or it is not, with all that it holds and its expiry. One that is to get a name
# that is taken stays where it is, and is told of. So a walk over all keys that died can simply be
# made again.

PIECE = 500
"""Keys per walk and renames per round trip: about a millisecond of the server's time."""

SHOWN = 5

NewName = Callable[[bytes], bytes | None]
"""Says how a key is to be named from now on; None if it stays as it is."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a walk is.

    Attributes:
        seen: Keys that were looked at; some may be seen twice.
        total: Keys that the database had when it began.
        moved: Keys that have their new names.
    """

    seen: int
    total: int
    moved: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a walk did.

    Attributes:
        count: Of keys that it renamed.
        conflicts: Keys whose new name was taken; they have their old ones.
    """

    count: int
    conflicts: tuple[bytes, ...] = ()


def move_keys(
    client: Client, new_name: NewName, report: Report | None = None, before: int = 0
) -> Moved:
    """
    Rename every key that is to have another name.

    A key that others make while this walks may be missed.

    Args:
        client: A redis-py client of an operator, `decode_responses` off.
        new_name: Says which keys are renamed, and how.
        report: Told after each piece how far it is.
        before: How many were moved by walks before this one, for the report.
    """
    seen = moved = 0
    total = client.dbsize()
    conflicts: dict[bytes, None] = {}
    for found in _pieces(client):
        wanted = [(key, new) for key in found if (new := new_name(key)) is not None]
        for (key, _), answer in zip(wanted, _renamed(client, wanted), strict=True):
            if isinstance(answer, ResponseError):
                # It expired, or was deleted or moved by another, since it was seen.
                if "no such key" not in str(answer):
                    raise answer
            elif answer:
                moved += 1
            else:
                conflicts[key] = None
        seen += len(found)
        if report is not None:
            report(Progress(seen, total, before + moved))
    return Moved(moved, tuple(conflicts))


def find_conflicts(client: Client, new_name: NewName) -> tuple[bytes, ...]:
    """The keys whose new names are taken; nothing is changed."""
    conflicts: dict[bytes, None] = {}
    for found in _pieces(client):
        wanted = [(key, new) for key in found if (new := new_name(key)) is not None]
        with client.pipeline(transaction=False) as pipe:
            for _, new in wanted:
                pipe.exists(new)
            taken = pipe.execute() if wanted else []
        conflicts.update((key, None) for (key, _), is_taken in zip(wanted, taken) if is_taken)  # noqa: B905
    return tuple(conflicts)


def conflict(keys: Sequence[bytes]) -> VaultConflictError:
    """What to tell of *keys*, which cannot be moved; their names as agents have them."""
    named = ", ".join(f"`{key.decode('utf-8', 'backslashreplace')}`" for key in keys[:SHOWN])
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    which = "stands" if len(keys) == 1 else "stand"
    return VaultConflictError(
        f"{named}{more} {which} both within the vault and outside it; nothing was overwritten",
        keys,
        help="delete or rename the one that is not wanted, then run this again",
    )


def _pieces(client: Client) -> Iterator[list[bytes]]:
    cursor = 0
    while True:
        cursor, found = client.scan(cursor, count=PIECE)
        yield found
        if cursor == 0:
            return


def _renamed(client: Client, wanted: Sequence[tuple[bytes, bytes]]) -> list[Any]:
    if not wanted:
        return []
    with client.pipeline(transaction=False) as pipe:
        for key, new in wanted:
            pipe.renamenx(key, new)
        return list(pipe.execute(raise_on_error=False))


def patterns_of(sources: Iterable[str], keyspace: Keyspace) -> tuple[Pattern, ...]:
    """
    Read patterns of keys, as policies have them.

    Raises:
        PolicyError: one is none.
        OperationError (vault): one is about keyleash's own keys alone.
    """
    patterns = tuple(map(parse_pattern, sources))
    for pattern in patterns:
        if beginning(pattern).startswith(_own(keyspace)):
            raise OperationError(
                "vault",
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
    vaults = [keyspace.vault.encode() for keyspace in keyspaces if keyspace.vault]
    found: dict[bytes, None] = {}
    for key in keys:
        vault = next((item for item in vaults if key.startswith(item)), b"")
        found[key.removeprefix(vault)] = None
    return tuple(found)


def _own(keyspace: Keyspace) -> tuple[bytes, ...]:
    """What the names of keys that keyleash placed begin with."""
    names = (PUBLIC_PREFIX, keyspace.prefix, keyspace.vault)
    return tuple(dict.fromkeys(name.encode() for name in names if name))


def _is_meant(patterns: Sequence[Pattern], key: bytes) -> bool:
    return any(match(pattern, key) is not None for pattern in patterns)
