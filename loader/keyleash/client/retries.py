"""Retries of redis-py that repeat nothing that may have run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.exceptions import WatchError

from keyleash.client.once import Ids


def mark_run(error: Any) -> Any:
    """Return an error, marked as one after which nothing must be sent again."""
    error.has_run = True
    return error


class FinalError(BaseException):
    """Carries an error past redis-py's Retry, also past one that repeats after any `Exception`."""


def mark_sent(error: Any, *, is_exec: bool = False) -> Any:
    """Return a lost connection or timeout, marked as one that came after a call was sent."""
    error.is_exec = is_exec
    return mark_run(error)


def mark_final(error: Any) -> Any:
    """Return a lost connection or timeout, marked as one after which no attempt may follow."""
    error.is_final = True
    return mark_run(error)


def unmark(error: Any) -> Any:
    """Return an error without the mark of `mark_sent`."""
    error.has_run = False
    return error


def closed() -> Any:
    """Return the error of replies that are lost, since another thread or task disconnected."""
    return mark_sent(RedisConnectionError("the connection was closed before the reply was read"))


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that there was no reply: some subclasses are replies."""
    return type(error) in (RedisConnectionError, RedisTimeoutError) or isinstance(error, OSError)


def is_sent(error: BaseException) -> bool:
    """Return whether an error says that the reply to a call that was sent is lost."""
    return is_lost(error) and getattr(error, "has_run", False)


class RetryWrapper:
    """A redis-py Retry that repeats nothing that was sent, but calls with idempotency ids.

    redis-py calls `connection.retry.call_with_retry(send and read)`. What may have run is raised
    past it; what says that nothing ran (READONLY, LOADING), and what failed before it was sent,
    follows the policy.

    Attributes:
        ids: The ids of the calls on the connection.
        dialogue: The state of the connection.
    """

    def __init__(self, retry: Any, dialogue: Any) -> None:
        self.policy = retry
        self.dialogue = dialogue
        self.ids: Ids = dialogue.caller.ids

    def __getattr__(self, name: str) -> Any:
        if name == "policy":  # not set yet: it is being copied
            raise AttributeError(name)
        return getattr(self.policy, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # redis-py copies the policy that a new pool is given.
        return deepcopy(self.policy, memo)

    def _wrapped(self, error: Exception) -> BaseException:
        if is_lost(error) and self.ids.may_repeat and not getattr(error, "is_final", False):
            if getattr(error, "has_run", False):
                self.ids.lose(error)
            return error
        # redis-py would repeat a transaction whose watch is lost without the watch.
        is_final = getattr(error, "has_run", self.dialogue.is_answered) or isinstance(
            error, WatchError
        )
        return FinalError(error) if is_final else error

    def _failures(self, options: dict[str, Any]) -> tuple[int, ...]:
        """Return the further arguments of a callback for failures."""
        return (max(self.get_retries(), 0) + 1,) if options.get("with_failure_count") else ()
