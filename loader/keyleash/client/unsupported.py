"""Denials of what no guard can check, each with a reason."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import redis.asyncio.lock
import redis.lock

from keyleash.errors import CommandRefusedError

_LOCKS = (redis.lock.Lock, redis.asyncio.lock.Lock)
_ACQUIRING = {lock.do_acquire.__code__ for lock in _LOCKS}
_RELEASING = {lock.do_release for lock in _LOCKS}


def refused(command: str, reason: str, instead: str) -> CommandRefusedError:
    """Return the denial of a feature that the client does not support."""
    return CommandRefusedError({"command": command, "reason": reason}, help=instead)


def reject_options(options: Mapping[str, Any]) -> None:
    """Deny options that no client or pool of this kind has.

    Args:
        options: The arguments of a client or of its pool.

    Raises:
        CommandRefusedError: one of them asks for redis-py's client-side cache, which never holds a
            reply of a guarded client.
        TypeError: `coalesce` is one of them.
    """
    if "coalesce" in options:
        raise TypeError("`coalesce` is an option of the clients of `keyleash.asyncio` alone")
    caches = [options.get("cache"), options.get("cache_config")]
    caches.append(getattr(options.get("connection_pool"), "cache", None))
    if any(cache is not None for cache in caches):
        raise caching()


def require_kind(name: str, kind: Any, wanted: type) -> None:
    """Raise TypeError if a class is not of the right kind of client."""
    if not (isinstance(kind, type) and issubclass(kind, wanted)):
        what = "connection" if name == "base" else "pool"
        client = "asyncio" if wanted.__module__.startswith("redis.asyncio") else "sync"
        raise TypeError(f"{name} must be a {what} class of redis-py's {client} client")


def _is_locking(caller: FrameType) -> bool:
    """Return whether a lock of redis-py is being acquired that is released by a script.

    Its class registers its scripts once in a process, perhaps with another client, so
    `register_script` is not called for every lock.
    """
    if caller.f_code not in _ACQUIRING:
        return False
    return type(caller.f_locals["self"]).do_release in _RELEASING


def takes_lock(words: Sequence[Any]) -> bool:
    """Return whether a lock of redis-py sends the SET that takes it, and a script will release it.

    Only SET with NX is looked at closer, since the frames of all callers are.
    """
    if len(words) < 4 or words[0] != "SET" or "NX" not in words[3:]:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_locking(frame):
            return True
        frame = frame.f_back
    return False


caching = partial(
    refused,
    "CLIENT TRACKING",
    "a cached reply is read without a call that a guard could check",
    "leave `cache` and `cache_config` out, of the pool as well",
)
"""The denial of a client-side cache."""

push_handler = partial(
    refused,
    "SUBSCRIBE",
    "a guarded connection speaks RESP2, which has no push messages",
    "give handlers to `subscribe`, or read with `get_message`",
)
"""The denial of a handler of push messages."""

monitoring = partial(
    refused, "MONITOR", "it shows the commands of all clients", "use `keyleash audit follow`"
)
"""The denial of MONITOR."""

subscription_in_pipeline = partial(
    refused,
    reason="a subscription is no part of a pipeline or transaction",
    instead="subscribe outside of the pipeline or transaction",
)
"""The denial of a subscription within a pipeline or transaction."""

transaction_in_pipeline = partial(
    refused,
    reason="the commands of this pipeline are sent to several nodes",
    instead="use `pipeline(transaction=True)`, or the pipeline's methods `watch` and `multi`",
)
"""The denial of MULTI, WATCH and the like in a pipeline over the nodes of a cluster."""

foreign_bytes = partial(
    refused,
    "bytes",
    "they are not whole commands, so a guard cannot check them",
    "send commands as redis-py packs them: arrays of bulk strings",
)
"""The denial of bytes that are no commands."""
