"""A peer: its libraries, its guarantees, and how it makes calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from enum import StrEnum
from importlib.metadata import version
from threading import Barrier
from typing import Protocol

import redis
from benchmarks.support.policy import Target

from keyleash import LeashError


class Answer(StrEnum):
    """Whether a guarantee is given; `PART`: only as the remark says."""

    YES = "yes"
    PART = "part"
    NO = "no"


YES, PART, NO = Answer.YES, Answer.PART, Answer.NO


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What holds whatever other clients do meanwhile, and if this one dies in the middle.

    Attributes:
        atomic: All of checking, charging, writing and recording happens, or none.
        race_free: No order of concurrent calls lets one pass that a limit refuses.
        free: A refused call takes nothing from any limit.
        audited: There is no write without its event.
        enforced: The server refuses, not the goodwill of the program that calls.
        clock: Every time is the server's.
        revocable: A revoke binds the very next write.
        remark: What the answers leave out, in words.
    """

    atomic: Answer
    race_free: Answer
    free: Answer
    audited: Answer
    enforced: Answer
    clock: Answer
    revocable: Answer
    remark: str

    @property
    def answers(self) -> tuple[Answer, ...]:
        """In the order of `QUESTIONS`."""
        return astuple(self)[:-1]


QUESTIONS = ("atomic", "race-free", "free", "audited", "enforced", "clock", "revocable")
"""The table's columns."""


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


class RefusedError(Exception):
    """A check made by hand said no."""


@dataclass(frozen=True, slots=True)
class Local:
    """A `Caller` made of one function, which sets one key or raises."""

    call: Callable[[str], object]

    def run(self, keys: Sequence[str]) -> list[int]:
        """One call after the other."""
        call, clock = self.call, time.perf_counter_ns
        taken = []
        for key in keys:
            begun = clock()
            call(key)
            taken.append(clock() - begun)
        return taken

    def race(self, shares: Sequence[Sequence[str]]) -> None:
        """A thread for each share; all begin together."""
        together = Barrier(len(shares))

        def work(keys: Sequence[str]) -> None:
            together.wait()
            for key in keys:
                try:
                    self.call(key)
                except (RefusedError, LeashError):
                    continue

        with ThreadPoolExecutor(len(shares)) as threads:
            for done in [threads.submit(work, keys) for keys in shares]:
                done.result()
