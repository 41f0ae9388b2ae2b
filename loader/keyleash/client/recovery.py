"""How a guarded call heals, on the connection that it was made on.

Only two answers are healed, since both say that nothing has run: NOSCRIPT, or for a
function `Function not found` (the server lost the script, or a load took the old one away),
and POLICY_STALE (another policy became active).
"""

from __future__ import annotations

import random

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from keyleash.client.flow import Flow, Pause, Plain, Retry
from keyleash.client.session import Session
from keyleash.errors import CallNotPermittedError, GuardLostError, PolicyStaleError
from keyleash.store.records import GuardRecord

PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5)
"""3.25 s: `keyleash watch` looks every second by default."""
JITTER = 0.1


def find_guard(session: Session) -> Flow:
    """Look up the identity's guard record, and remember it."""
    try:
        raw = yield Plain(session.record_request())
    except ResponseError as error:
        raise session.record_unread(error) from None
    session.accept_record(raw)


def healing(
    session: Session, called: GuardRecord | None, error: PolicyStaleError | NoScriptError, kind: str
) -> Flow:
    """Make a call again whose answer says that nothing ran.

    Once by the record, for a guard that is no longer the active one, and once by the
    source, for a script that the server lost: a restart after a load needs both. An agent that
    may not load asks again for a while, on the same connection, until somebody else has.

    Args:
        called: The guard whose script answered.
        kind: The field of the record that names the script.

    Raises:
        RightMissingError: The user may not call the guard that is active now either.
    """
    yield from find_guard(session)
    lost: PolicyStaleError | NoScriptError = error
    if isinstance(error, PolicyStaleError) or session.guard != called:
        try:
            return (yield Retry.AGAIN)
        except CallNotPermittedError as new:
            raise session.call_right_missing(new, kind) from None
        except NoScriptError as new:
            lost = new
    try:
        yield from _load_source(session, lost, kind)
    except NoPermissionError:
        # Neither the source nor SCRIPT LOAD is for an agent with a user of its own.
        return (yield from _loaded_by_others(session))
    return (yield Retry.AGAIN)


def _loaded_by_others(session: Session) -> Flow:
    """Make a call again until somebody who may load the script has done so.

    Raises:
        GuardLostError: nobody did in time.
    """
    for pause_s in PAUSES_S:
        # A little apart, since a failover strikes all agents in one moment.
        yield Pause(pause_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311
        yield from find_guard(session)
        try:
            return (yield Retry.AGAIN)
        except (NoScriptError, PolicyStaleError):
            # Nothing has run; another policy may be active by now, or another server.
            continue
    raise GuardLostError(session.identity) from None


def _load_source(session: Session, lost: Exception, kind: str) -> Flow:
    # Once, since another thread or task may find another guard at any time.
    guard = session.guard
    assert guard is not None  # noqa: S101 - it was looked up
    digest: str = getattr(guard, kind)
    raw = yield Plain(session.source_request(digest))
    script = session.accept_source(raw, lost, digest)
    yield Plain(session.load_request(guard.transport, digest, script))
