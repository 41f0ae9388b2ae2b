"""How a guarded call heals, on the connection that it was made on.

Only two answers are healed, since both say that nothing has run: NOSCRIPT (the server
lost the script) and POLICY_STALE (another policy became active).
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
    try:
        raw = yield Plain(session.source_request(kind))
        yield Plain(("SCRIPT", "LOAD", session.accept_source(raw, lost, kind)))
    except NoPermissionError:
        # Neither the source nor SCRIPT LOAD is for an agent with a user of its own.
        raise lost from None
