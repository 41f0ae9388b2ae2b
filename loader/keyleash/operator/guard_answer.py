"""The answer of a guard about a call, asked with a token that exists for the question alone."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from redis.cluster import ClusterNode
from redis.connection import SSLConnection

from keyleash.client._sync.cluster import RedisCluster
from keyleash.client._sync.sync import Redis
from keyleash.errors import ReplyCode
from keyleash.evaluate.trace import ALLOWED, Decision
from keyleash.store.restrictions import Restrictions
from keyleash.store.store import Store
from keyleash.store.token_entries import asking_token

_OF_A_NODE = ("host", "port", "path", "db")


def ask_guard(
    store: Store, identity: str, words: tuple[str | bytes, ...], restrictions: Restrictions | None
) -> Decision:
    """Return the decision of a guard on a call; nothing is run, charged or recorded.

    Args:
        restrictions: Those of the calling token; its caps are not asked about.

    Raises:
        RedisError: The guard cannot be asked.
    """
    with (
        asking_token(store, identity, restrictions) as token,
        closing(_client(store, token)) as client,
    ):
        denial = client.can_i(*words).denial
    if denial is None:
        return ALLOWED
    return Decision(ReplyCode(denial.code), denial.details)


def _client(store: Store, token: str) -> Any:
    pool = store.client.connection_pool
    if store.cluster is None:
        client = Redis(connection_pool=pool, token=token)
        # The pool is a copy, which nobody else uses.
        client.auto_close_connection_pool = True
        return client
    options = {
        name: value for name, value in pool.connection_kwargs.items() if name not in _OF_A_NODE
    }
    node = ClusterNode(pool.connection_kwargs["host"], pool.connection_kwargs["port"])
    is_tls = issubclass(pool.connection_class, SSLConnection)
    return RedisCluster(startup_nodes=[node], token=token, ssl=is_tls, **options)
