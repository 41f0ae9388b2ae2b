"""How a server stands towards a prepared policy: read, and nothing written."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.compiler import CompiledGuard
from keyleash.deploy.plan import Change, How, activation_plan
from keyleash.deploy.prepare import PreparedPolicy, server_time_us
from keyleash.deploy.standing import Standing, read_standings
from keyleash.protocol.active import ActivePolicy, Client, read_active
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import Layout
from keyleash.protocol.transport import Transport


@dataclass(frozen=True, slots=True)
class Survey:
    """
    What a load finds.

    Attributes:
        active: The active policy; None if there is none.
        layouts: Of all states that there are, by identity.
        standings: Of all identities that there are or are to be.
        unrecorded: The guards whose texts are not all kept.
        changes: What activating the policy does to each identity.
        is_active: Whether the policy is active as it is, so that there is nothing to do.
    """

    active: ActivePolicy | None
    layouts: dict[str, Layout]
    standings: dict[str, Standing]
    unrecorded: tuple[CompiledGuard, ...]
    changes: tuple[Change, ...]
    is_active: bool

    @property
    def to_mend(self) -> tuple[str, ...]:
        """The identities whose guard, or its record, state or text, is not as it should be."""
        changed = {one.identity for one in self.changes if one.how is not How.KEPT}
        changed |= {one.identity for one in self.unrecorded}
        return tuple(one.identity for one in self.changes if one.identity in changed)

    @property
    def removed(self) -> tuple[str, ...]:
        """The identities that the policy lacks and that can act now."""
        return tuple(one.identity for one in self.changes if one.how is How.REMOVED)

    @property
    def lost(self) -> tuple[str, ...]:
        """The active identities whose state is gone, and with it what their limits counted."""
        return tuple(
            one.identity
            for one in self.changes
            if one.how is How.FRESH and self.standings[one.identity].record is not None
        )


def survey(
    client: Client, prepared: PreparedPolicy, keyspace: Keyspace, transport: Transport
) -> Survey:
    """
    Read what activating *prepared* has to do.

    Raises:
        redis.ResponseError: a key is not of the type that it must have.
    """
    guards = prepared.guards
    active = read_active(client, keyspace)
    raw = client.hgetall(keyspace.layouts)
    layouts = {name.decode(): Layout.from_json(text) for name, text in raw.items()}
    names = {guard.identity for guard in guards} | layouts.keys()
    standings = read_standings(client, keyspace, names)
    unrecorded = tuple(
        one for one in guards if not standings[one.identity].sources >= {*one.scripts}
    )
    changes = activation_plan(
        guards, standings, layouts, server_time_us(client), prepared.commands, transport
    )
    is_active = (
        active is not None
        and active.digest == prepared.digest
        and not unrecorded
        and all(change.how is How.KEPT for change in changes[: len(guards)])
    )
    return Survey(active, layouts, standings, unrecorded, changes, is_active)
