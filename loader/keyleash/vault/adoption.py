"""Moving keys into the vault of a sealed server, and out of it, while agents are at work."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.errors import VaultError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.sealed import server_keyspace
from keyleash.vault.moving import Moved, NewName, Report, conflict, move_keys
from keyleash.vault.names import into_vault, logical_names, out_of_vault, patterns_of


def adopt_keys(client: Client, patterns: Sequence[str], report: Report | None = None) -> Moved:
    """
    Move keys into the vault: from then on agents have them, and others have not.

    Each moves at once, with its expiry. What was interrupted is gone on with by calling this
    again.

    Args:
        client: A redis-py client of an operator.
        patterns: Of keys, as policies have them.
        report: Told now and again how far it is.

    Raises:
        VaultError: the server is not sealed, or a pattern is about keyleash's own keys.
        VaultConflictError: keys of these names are in the vault already. All others were moved.
    """
    client = operator_client(client)
    keyspace = _sealed_keyspace(client)
    names = into_vault(keyspace, patterns_of(patterns, keyspace))
    return _moved(client, keyspace, names, report)


def release_keys(client: Client, patterns: Sequence[str], report: Report | None = None) -> Moved:
    """
    Move keys out of the vault, under the names that agents have for them; see `adopt_keys`.

    Raises:
        VaultError: the server is not sealed, or a pattern is about keyleash's own keys.
        VaultConflictError: keys of these names are outside already. All others were moved.
    """
    client = operator_client(client)
    keyspace = _sealed_keyspace(client)
    names = out_of_vault(keyspace, patterns_of(patterns, keyspace))
    return _moved(client, keyspace, names, report)


def _sealed_keyspace(client: Client) -> Keyspace:
    keyspace = server_keyspace(client)
    if not keyspace.vault:
        raise VaultError("the server is not sealed", help="see `keyleash vault seal --help`")
    return keyspace


def _moved(client: Client, keyspace: Keyspace, names: NewName, report: Report | None) -> Moved:
    moved = move_keys(client, names, report)
    if moved.conflicts:
        raise conflict(logical_names(moved.conflicts, keyspace))
    return moved
