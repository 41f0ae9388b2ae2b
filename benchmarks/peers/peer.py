"""What a peer is: a name, its libraries, its guarantees, and how its calls are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import redis
from benchmarks.peers.guarantees import Guarantees
from benchmarks.support.policy import Target


@dataclass(frozen=True, slots=True)
class Bed:
    """Where a peer works, and under which limits.

    Attributes:
        url: Of the server.
        admin: An operator's client of it.
        target: An identity's guard, and a token for it, which peers look up by its hash.
        budget: Calls a day that are allowed.
    """

    url: str
    admin: redis.Redis
    target: Target
    budget: int

    @property
    def identity(self) -> str:
        """Whose counters are used: each identity has its own."""
        return self.target.guard.identity


@dataclass(frozen=True, slots=True)
class Tally:
    """What a peer has counted by now; None is what it does not count.

    Attributes:
        charged: Taken from the daily budget.
        events: Appended to the audit stream, ever.
    """

    charged: int | None = None
    events: int | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """A client library. Calls through one are compared with calls through the same.

    Attributes:
        floor: Name of the peer that only SETs through it.
        ours: Name of keyleash through it.
    """

    name: str
    floor: str
    ours: str


REDIS_PY = Client("redis-py", "plain SET", "keyleash")
IOREDIS = Client("ioredis", "plain SET, ioredis", "keyleash, ioredis")


class Caller(Protocol):
    """Makes calls; a call sets one key to a value of 64 bytes, if it is allowed."""

    def run(self, keys: Sequence[str]) -> list[int]:
        """One call after the other; the time of each, ns. All must be allowed."""

    def race(self, shares: Sequence[Sequence[str]]) -> None:
        """Each worker calls for its share, all at once; a refusal is passed over."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to do the work.

    Attributes:
        name: For the report.
        made_of: The libraries, with their versions.
        guarantees: What it promises.
        open: Prepares calls on a bed.
        tally: Reads what it has counted there.
        revoke: Takes a bed's token back; None if there is none.
        client: The client library underneath.
    """

    name: str
    made_of: str
    guarantees: Guarantees
    open: Callable[[Bed], AbstractContextManager[Caller]]
    tally: Callable[[Bed], Tally]
    revoke: Callable[[Bed], object] | None
    client: Client = REDIS_PY


def versions(*libraries: str) -> str:
    """The installed versions, such as `limits 5.8.0, redis 8.1.0`."""
    return ", ".join(f"{library} {version(library)}" for library in libraries)
