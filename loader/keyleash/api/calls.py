"""Functions of a store that `Operator` calls, made of those of the packages below."""

from __future__ import annotations

from datetime import datetime

from keyleash.store.identities import require_known
from keyleash.store.store import Store
from keyleash.text import moment


def server_time(store: Store) -> datetime:
    """Return the time by the server's clock."""
    return moment(store.now_ms())


def all_identities(store: Store) -> tuple[str, ...]:
    """Return the names of all identities that were ever active, sorted."""
    return tuple(require_known(store, None))
