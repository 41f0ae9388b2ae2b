"""How a guarded call heals, on the connection that it was made on.

Only two answers are healed, since both say that nothing has run: NOSCRIPT, or for a
function `Function not found` (the server lost the script, or a load took the old one away),
and POLICY_STALE (another policy became active).
"""

from __future__ import annotations

from redis.exceptions import NoPermissionError, NoScriptError

from keyleash.client.flow import Flow, Plain, Retry
from keyleash.client.session import Session
from keyleash.errors import PolicyStaleError
from keyleash.protocol.active import GuardRecord


def find_guard(session: Session) -> Flow:
    """Look up the identity's guard record, and remember it."""
    session.accept_record((yield Plain(session.record_request())))


def healing(
    session: Session, called: GuardRecord | None, error: PolicyStaleError | NoScriptError, kind: str
) -> Flow:
    """Make a call again whose answer says that nothing ran.

    Once by the record, for a guard that is no longer the active one, and once by the
    source, for a script that the server lost: a restart after a load needs both.

    Args:
        called: The guard whose script answered.
        kind: The field of the record that names the script.
    """
    yield from find_guard(session)
    lost: PolicyStaleError | NoScriptError = error
    if isinstance(error, PolicyStaleError) or session.guard != called:
        try:
            return (yield Retry.AGAIN)
        except NoScriptError as new:
            lost = new
    yield from _load_source(session, lost, kind)
    return (yield Retry.AGAIN)


def _load_source(session: Session, lost: Exception, kind: str) -> Flow:
    # Once, since another thread or task may find another guard at any time.
    guard = session.guard
    assert guard is not None  # noqa: S101 - it was looked up
    digest: str = getattr(guard, kind)
    try:
        raw = yield Plain(session.source_request(digest))
        script = session.accept_source(raw, lost, digest)
        yield Plain(session.load_request(guard.transport, digest, script))
    except NoPermissionError:
        # Neither the source nor loading is for an agent with a user of its own.
        raise lost from None
