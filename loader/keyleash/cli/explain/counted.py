"""What the limits of an identity have counted on the server, read and never taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keyleash.cli.settings import Settings

if TYPE_CHECKING:
    from keyleash.commands import CommandTable
    from keyleash.decision import ModelState
    from keyleash.policy import Identity, Limit


def counted_on_server(
    settings: Settings,
    identity: Identity,
    table: CommandTable,
    words: Sequence[str],
    token_id: str,
    now_us: int,
) -> ModelState:
    """
    What counts for a call with *words*, at *now_us* of the server's clock.

    Counters of a token are read if *token_id* names one, those of a captured segment if the
    keys of the call have it; those of others do not matter to it.
    """
    from keyleash.decision.command import as_sent
    from keyleash.decision.limits import subjects
    from keyleash.deploy.sizes import ServerSizes
    from keyleash.policy import SubjectKind
    from keyleash.protocol.request import declared_keys

    state = counted_by_identity(settings, identity)
    state.sizes = ServerSizes(settings.client, settings.keyspace)
    keys = [bytes(key) for key in declared_keys(table, as_sent(words))]
    for limit in identity.limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            continue
        for subject in subjects(identity, limit, keys, token_id):
            read_subject(settings, identity, limit, subject, state, now_us)
    return state


def counted_by_identity(settings: Settings, identity: Identity) -> ModelState:
    """What limits of the identity itself have counted, and whether it may act at all."""
    from keyleash.decision.stored import stored_state
    from keyleash.protocol.state import Layout

    client, keyspace = settings.client, settings.keyspace
    packed = client.get(keyspace.state(identity.name))
    layout = client.hget(keyspace.layouts, identity.name)
    reason = client.hget(keyspace.suspension(identity.name), "reason") or b""
    found = stored_state(
        identity,
        packed,
        Layout.from_json(layout) if layout else None,
        reason.decode("utf-8", "surrogateescape"),
    )
    hard_max = identity.audit.hard_max
    if hard_max is not None:
        found.is_full = client.xlen(keyspace.audit(identity.name)) >= hard_max
    return found


def read_subject(
    settings: Settings,
    identity: Identity,
    limit: Limit,
    subject: bytes,
    state: ModelState,
    now_us: int,
) -> None:
    """Put into *state* what one token (by its id) or one captured segment has used."""
    from keyleash.decision.stored import count_of_subject, subject_key

    record = settings.client.get(subject_key(settings.keyspace, identity, limit, subject))
    if record:
        state.counts[limit.name, subject] = count_of_subject(limit, record, now_us)
