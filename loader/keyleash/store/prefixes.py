"""The prefixes of a server's keys: the record `keyleash:sealed`, readable only by operators.

Without the record the server is not sealed. While prefixes change, the record is also the
journal of the change, so that an interrupted change can be finished.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from keyleash.errors import OperationError
from keyleash.store.keyspace import Keyspace
from keyleash.store.server_check import Client, operator_client
from keyleash.store.wire import reading_record


class ChangeKind(StrEnum):
    """The kinds of prefix changes."""

    SEAL = "seal"
    ROTATE = "rotate"
    UNSEAL = "unseal"


@dataclass(frozen=True, slots=True)
class PrefixChange:
    """A prefix change in progress.

    Attributes:
        kind: The kind of change.
        old: The prefixes before it.
        new: The prefixes after it.
        is_switched: Whether the new prefixes are in force; then agents are suspended until the
            change is finished.
        adopt: Patterns of keys that the change moves into the vault.
    """

    kind: ChangeKind
    old: Keyspace
    new: Keyspace
    is_switched: bool = False
    adopt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SealRecord:
    """The contents of the record.

    Attributes:
        keyspace: The prefixes in force.
        change: The change in progress, if any.
    """

    keyspace: Keyspace
    change: PrefixChange | None = None


def read_seal(client: Client, tag: str = "") -> SealRecord:
    """Read the record, also while prefixes change.

    Args:
        client: The server, or the home of a cluster.
        tag: The hash tag of the keys; empty on one server.
    """
    raw: dict[bytes, bytes] = client.hgetall(Keyspace(tag=tag).sealed)
    with reading_record("the record of the prefixes"):
        return _seal_record(raw, tag)


def _seal_record(raw: dict[bytes, bytes], tag: str) -> SealRecord:
    fields = {name.decode(): value.decode() for name, value in raw.items()}
    keyspace = Keyspace(tag=tag)
    if "control" in fields:
        keyspace = Keyspace(fields["control"], fields["vault"], tag)
    if "change" not in fields:
        return SealRecord(keyspace)
    return SealRecord(
        keyspace,
        PrefixChange(
            kind=ChangeKind(fields["change"]),
            old=Keyspace(fields["from_control"], fields["from_vault"], tag),
            new=Keyspace(fields["to_control"], fields["to_vault"], tag),
            is_switched=fields["phase"] == "switched",
            adopt=tuple(json.loads(fields["adopt"])),
        ),
    )


def server_keyspace(client: Client, tag: str = "") -> Keyspace:
    """Return the prefixes of a server's keys.

    Args:
        client: The server, or the home of a cluster.
        tag: The hash tag of the keys; empty on one server.

    Raises:
        OperationError (vault-changing): keys are being moved between prefixes.
    """
    record = read_seal(operator_client(client), tag)
    if record.change is not None and record.change.is_switched:
        kind = record.change.kind.value
        raise OperationError(
            "vault-changing",
            f"`keyleash vault {kind}` is under way or was interrupted;"
            " until it is finished, agents are suspended and keys are in two places",
            help=f"let it finish, or run `keyleash vault {kind}` again: it resumes",
        )
    return record.keyspace


def change_fields(change: PrefixChange) -> dict[str, str]:
    """Return the record's fields of a change before it is switched."""
    return {
        "change": change.kind.value,
        "phase": "planned",
        "from_control": change.old.prefix,
        "from_vault": change.old.vault,
        "to_control": change.new.prefix,
        "to_vault": change.new.vault,
        "adopt": json.dumps(change.adopt),
    }
