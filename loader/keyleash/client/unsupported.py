"""redis-py features that bypass `execute_command`: each raises with a reason."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import redis.asyncio.lock
import redis.lock
from redis.exceptions import ResponseError

from keyleash.client.flow import Flow, Queued, RateWait, all_or_none, each_on_its_own
from keyleash.client.session import GuardedTransport
from keyleash.errors import CommandRefusedError, LeashError

_LOCKS = (redis.lock.Lock, redis.asyncio.lock.Lock)
_ACQUIRING = {lock.do_acquire.__code__ for lock in _LOCKS}
_RELEASING = {lock.do_release for lock in _LOCKS}


class UnsupportedInClient:
    """Mixed in before redis-py's class, sync or async, client or pipeline."""

    def pubsub(self, *_: Any, **__: Any) -> NoReturn:
        """Deny: messages arrive without a call that a guard could check."""
        raise subscribing("SUBSCRIBE")

    def watch(self, *_: Any, **__: Any) -> NoReturn:
        """Deny: a script cannot run WATCH."""
        raise watching()

    def monitor(self) -> NoReturn:
        """Deny: MONITOR shows all clients' commands."""
        raise unscoped("MONITOR", "it shows all clients' commands", "use an operator's client")

    def lock(self, name: Any, *args: Any, lock_class: Any = None, **options: Any) -> Any:
        """Deny redis-py's own lock, which could be acquired but not released.

        A *lock_class* that uses no scripts is allowed.
        """
        if lock_class is None:
            raise locking()
        above: Any = super()
        return above.lock(name, *args, lock_class=lock_class, **options)

    def register_script(self, script: Any) -> NoReturn:
        """Deny a script before a call whose effect only the script can revert."""
        raise unscoped(
            "EVALSHA",
            "a script may touch any key, so a guard cannot check it",
            "use commands that are atomic themselves, or a batch",
        )

    if not TYPE_CHECKING:  # The types are those of redis-py.

        def set(self, *args: Any, **options: Any) -> Any:
            """Like redis-py's, except for its locks, which could be acquired but not released."""
            if options.get("nx") and _is_locking(sys._getframe(1)):
                raise locking()
            return super().set(*args, **options)

    def json(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; its commands go through the guard."""
        above: Any = super()
        return _without_pipeline(above.json(*args, **options))

    def ts(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; its commands go through the guard."""
        above: Any = super()
        return _without_pipeline(above.ts(*args, **options))

    def ft(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; its commands go through the guard."""
        above: Any = super()
        return _without_pipeline(above.ft(*args, **options))


def unscoped(command: str, reason: str, instead: str) -> CommandRefusedError:
    """Return the denial of a feature that the client does not support."""
    return CommandRefusedError({"command": command, "reason": reason}, help=instead)


def require_no_watches(keys: Sequence[Any]) -> None:
    """Deny WATCH, which a script cannot run.

    Raises:
        CommandRefusedError: there is a key to watch.
    """
    if keys:
        raise watching()


def require_no_cache(options: Mapping[str, Any]) -> None:
    """Deny redis-py's client-side cache, which never holds a reply of a guarded client.

    Args:
        options: The arguments of a client or of its pool.

    Raises:
        CommandRefusedError: one of them asks for a cache.
    """
    caches = [options.get("cache"), options.get("cache_config")]
    caches.append(getattr(options.get("connection_pool"), "cache", None))
    if any(cache is not None for cache in caches):
        raise caching()


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


def locking() -> CommandRefusedError:
    """Return the denial of a lock that could be taken but not released."""
    return unscoped(
        "EVALSHA",
        "redis-py releases a lock by its own script, and a guard cannot check a script",
        "use `set(name, value, nx=True, px=...)` and let it expire, or a `lock_class` that"
        " releases without a script",
    )


def subscribing(command: str) -> CommandRefusedError:
    """Return the denial of a subscription."""
    return unscoped(
        command,
        "a subscription does not go through the guard",
        "use a client of its own, with a user for channels",
    )


def caching() -> CommandRefusedError:
    """Return the denial of a client-side cache."""
    return unscoped(
        "CLIENT TRACKING",
        "a cached reply is read without a call that a guard could check",
        "leave `cache` and `cache_config` out, of the pool as well",
    )


def watching_sealed() -> CommandRefusedError:
    """Return the denial of WATCH on a sealed server."""
    return unscoped(
        "WATCH",
        "on a sealed server the agent's names of keys are not the server's",
        "use a batch, or commands that are atomic themselves",
    )


def watching() -> CommandRefusedError:
    return unscoped(
        "WATCH",
        "a guard checks and runs a batch in one call, so nothing can be read before it",
        "use a batch without WATCH, or commands that are atomic themselves",
    )


def _without_pipeline(helper: Any) -> Any:
    """Disable the pipelines of a module's helper, which would use the pool directly."""

    def deny(*_: Any, **__: Any) -> NoReturn:
        raise unscoped(
            "MULTI",
            "the pipeline of a module's helper does not go through the guard",
            "use the helper of a pipeline, as in `client.pipeline().json()`",
        )

    helper.pipeline = deny
    return helper


class UnsupportedInPipeline(UnsupportedInClient):
    """Mixed in before redis-py's Pipeline, sync or async: only `execute` sends anything."""

    def __init__(
        self, client: Any, transport: GuardedTransport, transaction: bool, shard_hint: Any = None
    ) -> None:
        above: Any = super()
        above.__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client
        self._transport = transport
        self._atomic = transaction

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """Return another pipeline of the same client."""
        return self._client.pipeline(transaction, shard_hint)

    def _flow(self, commands: Sequence[Queued]) -> Flow:
        """Return the flow that sends *commands*."""
        queue: Any = self
        waiting = RateWait(self._transport.wait_s)
        if self._atomic or queue.explicit_transaction:
            return all_or_none(commands, waiting)
        return each_on_its_own(commands, waiting, self._transport.encoder)

    def immediate_execute_command(self, *_: Any, **__: Any) -> NoReturn:
        """Deny: redis-py sends WATCH this way, and the commands after it."""
        raise watching()

    def load_scripts(self) -> NoReturn:
        """Deny: redis-py loads the scripts of `register_script` this way."""
        raise watching()

    def raise_first_error(self, commands: Sequence[Queued], response: Iterable[Any]) -> None:
        """Raise the first exception among the results, with the number of its command."""
        for number, result in enumerate(response, start=1):
            if isinstance(result, ResponseError):
                self._annotate(result, number, commands)
                raise result
            if isinstance(result, Exception):
                raise result

    def _name_denied(self, denial: LeashError, commands: Sequence[Queued]) -> None:
        """Add to the denial of a batch the command that caused it."""
        item = denial.details.get("item")
        if item is not None:
            self._annotate(denial, int(item), commands)

    def _annotate(self, error: Exception, number: int, commands: Sequence[Queued]) -> None:
        pipeline: Any = self
        pipeline.annotate_exception(error, number, commands[number - 1][0])
