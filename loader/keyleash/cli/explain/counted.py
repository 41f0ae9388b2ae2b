"""What the limits of an identity have counted on the server, read and never taken."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keyleash.cli.settings import Settings
from keyleash.errors import ReplyCode

if TYPE_CHECKING:
    from keyleash.commands import CommandTable
    from keyleash.decision import ModelState
    from keyleash.policy import Identity


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
    from keyleash.policy import SubjectKind
    from keyleash.protocol.request import declared_keys

    state = counted_by_identity(settings, identity, now_us)
    keys = [bytes(key) for key in declared_keys(table, as_sent(words))]
    for limit in identity.limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            continue
        for subject in subjects(identity, limit, keys, token_id):
            read_subject(settings, identity, limit.name, subject, state, now_us)
    return state


def counted_by_identity(settings: Settings, identity: Identity, now_us: int) -> ModelState:
    """What limits of the identity itself have counted, and whether it may act at all."""
    import struct

    from keyleash.decision import ModelState
    from keyleash.decision.stored import count_of
    from keyleash.protocol.state import Layout, unpack_state

    client, keyspace, found = settings.client, settings.keyspace, ModelState()
    packed = client.get(keyspace.state(identity.name))
    layout = client.hget(keyspace.layouts, identity.name)
    try:
        state = unpack_state(packed, Layout.from_json(layout)) if packed and layout else None
    except struct.error:
        # Shorter than its layout: somebody wrote to it. The guard fails on it as well.
        state = None
    if state is None:
        found.refuses = ReplyCode.NOT_ACTIVE
        return found
    if state.suspended:
        found.refuses = ReplyCode.SUSPENDED
    held = {one.slot.name: one for one in state.limits}
    for limit in identity.limits:
        if limit.name in held:
            found.counts[limit.name, b""] = count_of(limit, held[limit.name])
    hard_max = identity.audit.hard_max
    if hard_max is not None:
        found.is_full = client.xlen(keyspace.audit(identity.name)) >= hard_max
    return found


def read_subject(
    settings: Settings,
    identity: Identity,
    limit_name: str,
    subject: bytes,
    state: ModelState,
    now_us: int,
) -> None:
    """Put into *state* what one token (by its id) or one captured segment has used."""
    from keyleash.decision.stored import count_of_subject
    from keyleash.policy import SubjectKind

    limit = next(one for one in identity.limits if one.name == limit_name)
    is_token = limit.subject.kind is SubjectKind.TOKEN
    # As guards name them: a token by its id, a segment, which may be long, by its SHA-1.
    name = (
        subject.decode() if is_token else hashlib.sha1(subject, usedforsecurity=False).hexdigest()
    )
    record = settings.client.get(settings.keyspace.limit_prefix(identity.name, limit.name) + name)
    if record:
        state.counts[limit.name, subject] = count_of_subject(limit, record, now_us)
