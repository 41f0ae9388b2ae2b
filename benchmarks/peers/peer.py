"""A peer: its libraries, its guarantees, and how it makes calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from threading import Barrier
from typing import Protocol

import redis
from benchmarks.support.policy import Target

from keyleash import LeashError


class Answer(StrEnum):
    """An answer to whether a guarantee is given; `PART`: see the remark."""

    YES = "yes"
    PART = "part"
    NO = "no"


QUESTIONS = ("atomic", "race-free", "free", "audited", "enforced", "clock", "revocable")
"""Guarantees whatever other clients do, and if this one dies during a call; see README.md."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """An answer per question, with exceptions in words."""

    answers: Mapping[str, Answer]
    remark: str

    @classmethod
    def of(cls, answers: str, remark: str) -> Guarantees:
        """Return guarantees from a word per question."""
        return cls(dict(zip(QUESTIONS, map(Answer, answers.split()), strict=True)), remark)

    def promises(self, question: str) -> bool:
        """Return whether the answer is yes."""
        return self.answers[question] is Answer.YES


@dataclass(frozen=True, slots=True)
class Bed:
    """The server, identity and limits that a peer uses.

    Attributes:
        url: Of the server.
        admin: An operator's client of it.
        target: An identity's guard and a token, which peers look up by its hash.
        budget: Allowed calls per day.
    """

    url: str
    admin: redis.Redis
    target: Target
    budget: int

    @property
    def identity(self) -> str:
        """Return the identity; each has its own counters."""
        return self.target.guard.identity


@dataclass(frozen=True, slots=True)
class Tally:
    """Counters of a peer; None if it does not count.

    Attributes:
        charged: Calls charged to the daily budget.
        events: Events ever appended to the audit stream.
    """

    charged: int | None = None
    events: int | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """A client library; only calls through the same library are compared.

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
    """Makes calls; a call sets a key to 64 bytes, if it is allowed."""

    def run(self, keys: Sequence[str]) -> list[int]:
        """Make calls in sequence; return the time of each in ns. All must be allowed."""

    def race(self, shares: Sequence[Sequence[str]]) -> None:
        """Make the calls of all workers concurrently; denials are ignored."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to do the work.

    Attributes:
        name: For the report.
        made_of: The libraries, with their versions.
        guarantees: What it promises.
        open: Prepares calls on a bed.
        tally: Reads its counters.
        revoke: Revokes a bed's token; None if there is none.
        client: The client library.
    """

    name: str
    made_of: str
    guarantees: Guarantees
    open: Callable[[Bed], AbstractContextManager[Caller]]
    tally: Callable[[Bed], Tally]
    revoke: Callable[[Bed], object] | None
    client: Client = REDIS_PY


def versions(*libraries: str) -> str:
    """Return the installed versions, such as `limits 5.8.0, redis 8.1.0`."""
    return ", ".join(f"{library} {version(library)}" for library in libraries)


class RefusedError(Exception):
    """A check made by hand denied the call."""


@dataclass(frozen=True, slots=True)
class Local:
    """A `Caller` of one function, which sets a key or raises."""

    call: Callable[[str], object]

    def run(self, keys: Sequence[str]) -> list[int]:
        """Make calls in sequence."""
        call, clock = self.call, time.perf_counter_ns
        taken = []
        for key in keys:
            begun = clock()
            call(key)
            taken.append(clock() - begun)
        return taken

    def race(self, shares: Sequence[Sequence[str]]) -> None:
        """Use a thread per share; all start together."""
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
