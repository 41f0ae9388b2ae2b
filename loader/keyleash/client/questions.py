"""Questions of operators to a guard, with a token that exists for the question alone."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from redis.cluster import ClusterNode
from redis.connection import SSLConnection

from keyleash.client._sync.cluster import RedisCluster
from keyleash.client._sync.sync import Redis
from keyleash.client.permission import Permission
from keyleash.store.restrictions import Restrictions
from keyleash.store.server_check import pool_of
from keyleash.store.store import Store
from keyleash.store.token_entries import asking_token

_OF_A_NODE = ("host", "port", "path", "db")


def ask_guard(
    store: Store, identity: str, words: tuple[str | bytes, ...], restrictions: Restrictions | None
) -> Permission:
    """Return the answer of a guard about a call; nothing is run, charged or recorded.

    Args:
        restrictions: Those of the calling token; its caps are not asked about.

    Raises:
        RedisError: The guard cannot be asked.
    """
    with (
        asking_token(store, identity, restrictions) as token,
        closing(_client(store, token)) as client,
    ):
        answer: Permission = client.can_i(*words)
        return answer


def _client(store: Store, token: str) -> Any:
    pool = pool_of(store.client)
    if store.cluster is None:
        client = Redis(connection_pool=pool, token=token)
        # The pool is a copy of its own.
        client.auto_close_connection_pool = True
        return client
    options = dict(pool.connection_kwargs)
    node = ClusterNode(*(options.pop(name, None) for name in _OF_A_NODE[:2]))
    options = {name: value for name, value in options.items() if name not in _OF_A_NODE}
    is_tls = issubclass(pool.connection_class, SSLConnection)
    return RedisCluster(startup_nodes=[node], token=token, ssl=is_tls, **options)
