"""What activating a policy would mean, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from keyleash.compiler.passes.protect_control_keys import protected_prefixes
from keyleash.deploy.prepare import PreparedPolicy
from keyleash.deploy.survey import survey
from keyleash.errors import PolicyError
from keyleash.policy import Policy, parse_policy
from keyleash.policy.diff import PolicyDiff, diff_policies
from keyleash.protocol.active import ActivePolicy, Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.transport import Transport

NAMES = 50
"""So many identities of a kind a summary names; the control stream keeps it for ever."""


@dataclass(frozen=True, slots=True)
class Preview:
    """
    What an activation would do.

    Attributes:
        active: The active policy; None if there is none.
        diff: From that policy to the new one.
        is_readable: Whether the active policy's document could be read; if not, `diff` takes
            every identity for a new one.
        is_first: Whether no policy was ever active here. If none is now and one was, its record
            was lost, and what it allowed is not known.
        transport: How guards are to be called.
        to_mend: Identities whose rules stay, and whose guard must be made anew all the same: the
            server has other commands, guards are called otherwise, or something was lost.
        lost: Active identities whose state is gone from the server: their limits begin at 0.
        removed: Active identities that the policy lacks.
    """

    active: ActivePolicy | None
    diff: PolicyDiff
    is_readable: bool
    is_first: bool
    transport: Transport
    to_mend: tuple[str, ...]
    lost: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be written."""
        return not (self.diff.identities or self.to_mend) and self.active is not None

    @property
    def generation(self) -> int:
        """Of the active policy, 0 if there is none."""
        return self.active.generation if self.active else 0

    @property
    def needs_permission(self) -> bool:
        """Whether access widens beyond what somebody activated before."""
        return not self.is_first and self.diff.widens


def preview_load(
    client: Client, prepared: PreparedPolicy, keyspace: Keyspace, transport: Transport
) -> Preview:
    """
    Compare a prepared policy with what is active. Writes nothing.

    Raises:
        redis.ResponseError: a key of keyleash's own is not of the type that it must have.
    """
    client = operator_client(client)
    found = survey(client, prepared, keyspace, transport)
    before = Policy(()) if found.active is None else _read(found.active)
    diff = diff_policies(
        before or Policy(()), prepared.policy, prepared.table, protected_prefixes(keyspace)
    )
    to_mend = [name for name in found.to_mend if name in set(diff.unchanged)]
    return Preview(
        active=found.active,
        diff=diff,
        is_readable=before is not None,
        is_first=found.active is None and not found.layouts,
        transport=transport,
        to_mend=tuple(to_mend),
        lost=found.lost,
        removed=found.removed,
    )


def summary_of_plan(preview: Preview) -> str:
    """What a preview says, as JSON of bounded size, for the control stream."""
    diffs = preview.diff.identities
    lists = {
        "added": [one.name for one in diffs if one.before is None],
        "removed": [one.name for one in diffs if one.after is None],
        "changed": [one.name for one in diffs if one.before and one.after],
        "widened": [one.name for one in diffs if one.widens],
        "narrowed": [one.name for one in diffs if one.narrows],
        "mended": list(preview.to_mend),
    }
    return json.dumps(
        {kind: _bounded(names) for kind, names in lists.items() if names}, separators=(",", ":")
    )


def _bounded(names: Iterable[str]) -> list[str | int]:
    """The first names, and as the last entry how many more there are."""
    listed = list(names)
    more = len(listed) - NAMES
    return [*listed[:NAMES], more] if more > 0 else [*listed]


def _read(active: ActivePolicy) -> Policy | None:
    """The active policy; None if this version cannot read its document."""
    try:
        # It was checked when it was loaded, by a server that may have had other commands.
        return parse_policy(active.document, file="<active policy>", commands=None)
    except PolicyError:
        return None
