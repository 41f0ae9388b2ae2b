"""Recover a guarded call on the connection that it was made on.

Only replies are recovered from that mean that nothing ran: NOSCRIPT (the server lost the script),
POLICY_STALE (another policy became active), and TOKEN_EXPIRED and TOKEN_REVOKED if there may be a
new token.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from keyleash.client.actions import AskForToken, Flow, Pause, Unguarded
from keyleash.client.session import TOKEN_OVER, Session
from keyleash.errors import (
    CallNotPermittedError,
    ClusterError,
    GuardLostError,
    LeaseNeededError,
    NotActiveError,
    PolicyStaleError,
    RightMissingError,
)
from keyleash.store.records import GuardRecord
from keyleash.store.server_check import too_old

RELOAD_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5)
"""3.25 s: another client, or `keyleash load`, may be loading the script."""
JITTER = 0.1


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
        typed = session.record_error(error)
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
    session: Session,
    called: GuardRecord | None,
    error: ResponseError,
    kind: str,
    again: Callable[[], Flow],
) -> Flow:
    """Repeat a call whose reply says that nothing ran, for each reason once.

    If the token has ended, use what its callable returns now.

    Args:
        called: The guard whose script was called.
        error: One of `session.recoverable`.
        kind: The field of the record that names the script.
        again: Repeats the call.

    Raises:
        RightMissingError: The user may not call the active guard either.
    """
    handled = set()
    while True:
        is_of_token = isinstance(error, TOKEN_OVER)
        handled.add(is_of_token)
        try:
            if not is_of_token:
                return (yield from _recover_guard(session, called, error, kind, again))
            yield AskForToken()
            return (yield from again())
        except session.recoverable as new:
            if isinstance(new, LeaseNeededError) or isinstance(new, TOKEN_OVER) in handled:
                raise
            error = new


def _recover_guard(
    session: Session,
    called: GuardRecord | None,
    error: ResponseError,
    kind: str,
    again: Callable[[], Flow],
) -> Flow:
    """Repeat a call with the current guard.

    First with the current guard record, if the guard is no longer active, then after loading the
    script's source, if the server lost it: a restart after a load needs both. An agent that may
    not load scripts retries for a while, on the same connection, until another client has.
    """
    yield from fetch_guard(session)
    lost = error
    if isinstance(error, PolicyStaleError) or session.guard != called:
        try:
            return (yield from again())
        except CallNotPermittedError as new:
            raise session.call_right_missing(new, kind) from None
        except NoScriptError as new:
            lost = new
    try:
        yield from _load_source(session, lost, kind)
    except NoPermissionError:
        # A fenced agent may neither read the source nor run SCRIPT LOAD.
        return (yield from _await_reload(session, again))
    return (yield from again())


def _await_reload(session: Session, again: Callable[[], Flow]) -> Flow:
    """Repeat a call until another client has loaded the script.

    Raises:
        GuardLostError: no client did in time.
    """
    for pause_s in RELOAD_PAUSES_S:
        # Jitter, since a failover hits all agents at the same moment.
        yield Pause(pause_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311
        yield from fetch_guard(session)
        try:
            return (yield from again())
        except (NoScriptError, PolicyStaleError):
            # Nothing ran; another policy may be active by now, or another server in use.
            continue
    raise GuardLostError(session.identity) from None


def _load_source(session: Session, lost: Exception, kind: str) -> Flow:
    # Read once, since another thread or task may replace the guard at any time.
    guard = session.guard
    assert guard is not None  # noqa: S101 - it was looked up
    digest: str = getattr(guard, kind)
    raw = yield session.at_home(session.source_request(digest))
    script = session.accept_source(raw, lost, digest)
    # Leases are granted at the home; every other script runs where this connection leads.
    action = session.at_home if kind == "lease" else Unguarded
    yield action(("SCRIPT", "LOAD", script))
