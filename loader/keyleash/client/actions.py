"""The actions of code without I/O, which a connection carries out.

Each returns None if it says nothing else, and raises redis-py's classes: `ResponseError` for an
error reply, `ConnectionError` or `TimeoutError` if there is none.
A cluster has one more, `FetchLease`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from keyleash.store.records import GuardRecord
from keyleash.store.wire import Argument

Words: TypeAlias = tuple[Argument, ...]
"""A command: its name and arguments, as redis-py is given them."""
Flow: TypeAlias = Generator[Any, Any, Any]
"""A generator that yields actions and is sent their outcome, or thrown their error.

A plain command that succeeds needs no flow, for speed.
"""


@dataclass(frozen=True, slots=True)
class Send:
    """Send calls of guards, each a `calls.Call`, in one packet; what is lost may have been sent.

    Attributes:
        is_due: Whether they become due, so that redis-py reads their replies.
    """

    calls: Sequence[Any]
    is_due: bool = False


@dataclass(frozen=True, slots=True)
class Receive:
    """Read one reply of the server; return it.

    Attributes:
        undecoded: Whether to read it as bytes.
        is_exec: Whether a transaction may be lost with it.
        longer_s: Seconds to wait beyond the timeout of the connection.
    """

    undecoded: bool = False
    is_exec: bool = False
    longer_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Unguarded:
    """Send a command without the guard; return its reply, undecoded."""

    words: Words


@dataclass(frozen=True, slots=True)
class AtHome:
    """Send a command without the guard to the home of a cluster; return its reply, undecoded.

    It is sent like a `calls.Call`.

    Attributes:
        words: The command, or a callable that returns it, if it contains the token.
        waits_for: The guard whose policy waits for replicas of what the command writes, if any.
        runs_once: Whether it must not be sent again after its reply is lost.
    """

    words: Words | Callable[[], Words]
    waits_for: GuardRecord | None = None
    runs_once: bool = False
    commands: ClassVar[Sequence[Words]] = ()
    is_watched: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class SendUnguarded:
    """Send a command without the guard; redis-py reads what the server sends."""

    words: Words


@dataclass(frozen=True, slots=True)
class CheckSubscriptions:
    """Check subscriptions, on another connection: this one sends no other commands then."""

    subscriptions: Sequence[Words]


@dataclass(frozen=True, slots=True)
class AskForToken:
    """Call the callable that was given as token, and use what it returns."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep; return True to end the wait of *polled* without another poll.

    Attributes:
        polled: The blocking call that is polled again then; None if it is no poll.
    """

    seconds: float
    polled: Any = None
