"""Recover a guarded call on the connection that it was made on.

Only replies are recovered from that mean that nothing ran: NOSCRIPT (the server lost the script),
POLICY_STALE (another policy became active), and TOKEN_EXPIRED and TOKEN_REVOKED if there may be a
new token.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from keyleash.client.actions import AskForToken, Flow, Unguarded
from keyleash.client.session import TOKEN_OVER, Session
from keyleash.errors import (
    ClusterError,
    LeaseNeededError,
    NotActiveError,
    PolicyStaleError,
    RightMissingError,
)
from keyleash.store.records import GuardRecord
from keyleash.store.server_check import too_old


def fetch_guard(session: Session) -> Flow:
    """Fetch the identity's guard record and store it in the session."""
    if not session.identity:
        yield AskForToken()
    try:
        raw = yield session.at_home(session.record_request())
        if raw:
            session.accept_record(raw)
            return
        typed: Exception | None = None
    except ResponseError as error:
        typed = session.lookup_error(error, session.record_request()[1])
    # Records of a cluster have other names, which neither a client nor the rules of a user for one
    # server lead to.
    if isinstance(typed, RightMissingError | None) and (yield from _is_unexpected_cluster(session)):
        raise ClusterError from None
    if typed is not None:
        raise typed from None
    try:
        session.accept_record(raw)
    except NotActiveError as error:
        with suppress(ResponseError, UnicodeDecodeError):
            lines = (yield session.at_home(("INFO", "server"))).decode().splitlines()
            error.help = too_old(dict(line.partition(":")[::2] for line in lines)) or error.help
        raise


def _is_unexpected_cluster(session: Session) -> Flow:
    """Return whether the server is a node of a cluster, and the session one of a single server."""
    if session.at_home is not Unguarded:
        return False
    try:
        return bool((yield Unguarded(("CLUSTER", "SLOTS"))))
    except ResponseError:
        return False


def recover(
    session: Session, called: GuardRecord | None, error: ResponseError, kind: str, tried: list[Any]
) -> Flow:
    """Remove the cause of an error after which a call can be made again, each cause once.

    | error | step |
    |---|---|
    | the token has ended | `token`: use what its callable returns now |
    | another policy became active | `guard`: fetch the guard record |
    | the server lost the script | `guard`, then `source`: load its source |

    The second step is taken at once if the record names the guard that was called. Otherwise it
    follows the next error, which says that the script is lost, too: as after a restart and a load.

    Args:
        called: The guard whose script was called.
        error: One of `session.recoverable`.
        kind: The field of the record that names the script.
        tried: The steps for this call so far; this one is added.

    Raises:
        ResponseError: *error*, if its cause was removed before.
        RightMissingError: The server's user may not load the script.
    """
    step = "token" if isinstance(error, TOKEN_OVER) else "guard"
    if step == "guard" and tried[-1:] == ["guard"] and isinstance(error, NoScriptError):
        step = "source"
    if step in tried or isinstance(error, LeaseNeededError):
        raise error from None
    tried.append(step)
    if step == "token":
        yield AskForToken()
        return
    if step == "guard":
        yield from fetch_guard(session)
        if isinstance(error, PolicyStaleError) or session.guard != called:
            return
        tried.append("source")
    yield from _load_source(session, error, kind)


def _load_source(session: Session, lost: Exception, kind: str) -> Flow:
    # Read once, since another thread or task may replace the guard at any time.
    guard = session.guard
    assert guard is not None  # noqa: S101 - it was looked up
    digest: str = getattr(guard, kind)
    request = session.source_request(digest)
    try:
        script = session.accept_source((yield session.at_home(request)), lost, digest)
        # Leases are granted at the home; every other script runs where this connection leads.
        action = session.at_home if kind == "lease" else Unguarded
        yield action(("SCRIPT", "LOAD", script))
    except NoPermissionError as error:
        raise session.lookup_error(error, request[1]) from None
