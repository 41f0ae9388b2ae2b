"""Variants of a call, and their packed requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from enum import Enum, auto

from benchmarks.support.load import Exchange
from benchmarks.support.policy import Target

from keyleash.commands import load_table
from keyleash.store.keyspace import script_digest
from keyleash.store.wire import BatchMode, batch_call, guard_call

VALUE_BYTES = 64
VALUE = "v" * VALUE_BYTES
KEY = "agents:jobs:{job}:state"
KEY_OF_ANOTHER = "agents:context:{job}:state"
OK = "+OK\r\n"
THE_VALUE = f"${VALUE_BYTES}\r\n{VALUE}\r\n"


@dataclass(frozen=True, slots=True)
class Counts:
    """What keyleash counted, in calls: in a run, or in the life of a server.

    Attributes:
        passed: By the budget `requests`, which every call that passes is taken from.
        audited: Events appended to the identity's audit stream.
        denied: Refusals recorded, those that share an entry one by one.
    """

    passed: int = 0
    audited: int = 0
    denied: int = 0

    def minus(self, before: Counts) -> Counts:
        """What was counted since *before*."""
        return Counts(
            self.passed - before.passed,
            self.audited - before.audited,
            self.denied - before.denied,
        )

    @staticmethod
    def sum_of(several: Iterable[Counts]) -> Counts:
        """What all of them count."""
        passed, audited, denied = map(sum, zip(*map(astuple, several), strict=True))
        return Counts(passed, audited, denied)

    def times(self, calls: int) -> Counts:
        """What *calls* calls count, if one counts this."""
        return Counts(self.passed * calls, self.audited * calls, self.denied * calls)


class Way(Enum):
    """How the commands of a call travel to the server, several of them in one write.

    `RAW`: as they are. `GUARD`: each in a call of its guard. `BATCH`: all in one call of the
    batch script, in mode `all`. `BATCH_OF_SCRIPT`: the same call, word for word, but of the
    variant's own script instead.
    """

    RAW = auto()
    GUARD = auto()
    BATCH = auto()
    BATCH_OF_SCRIPT = auto()


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of call.

    Attributes:
        name: For the report; with `commands` it tells the variants of a benchmark apart.
        command: Its words; `{job}`, and `{script}` for the digest of `script`, are filled in.
        reply: The bytes that must come back for one command, filled in likewise.
        way: How it travels.
        baseline: Name of the variant, of as many commands, that it is compared with; its own
            for a baseline.
        counts: What one call must count.
        commands: How many commands travel in one call, each with another `{job}`.
        script: A script of the benchmark's own that is called.
    """

    name: str
    command: tuple[str, ...]
    reply: str
    way: Way
    baseline: str
    counts: Counts = Counts()
    commands: int = 1
    script: str = ""

    def piped(self, commands: int) -> Variant:
        """So many of these calls in one write, whose replies are awaited together."""
        return replace(self, commands=commands, counts=self.counts.times(commands))


CALLS_PER_CONNECTION = 8
"""Different ones, made in turn; each has keys of its own."""


def exchanges(
    variant: Variant, target: Target, *, protocol: int, connections: int
) -> tuple[tuple[Exchange, ...], ...]:
    """The calls of *variant*, for each connection its own.

    Args:
        variant: What is called.
        target: Guard and token of the guarded calls.
        protocol: RESP version, 2 or 3, that the connections speak.
        connections: How many there are.
    """
    script = script_digest(variant.script)

    def exchange(number: int) -> Exchange:
        first = number * variant.commands
        jobs = [f"{first + i:012d}" for i in range(variant.commands)]
        commands = [
            [word.format(job=job, script=script) for word in variant.command] for job in jobs
        ]
        replies = "".join(variant.reply.format(job=job) for job in jobs)
        # The correlation id is as long as those that the client makes.
        caller = (target.token, f"{number:012x}-{number:06d}", str(protocol))
        match variant.way:
            case Way.RAW:
                return Exchange(b"".join(map(packed, commands)), replies.encode())
            case Way.GUARD:
                calls = (
                    guard_call(load_table(), target.guard.digest, *caller, command)
                    for command in commands
                )
                return Exchange(b"".join(map(packed, calls)), replies.encode())
            case Way.BATCH | Way.BATCH_OF_SCRIPT:
                digest = target.guard.batch_digest if variant.way is Way.BATCH else script
                call = batch_call(load_table(), digest, *caller, BatchMode.ALL, commands)
                return Exchange(packed(call), f"*{len(jobs)}\r\n{replies}".encode())

    return tuple(
        tuple(
            exchange(connection * CALLS_PER_CONNECTION + turn)
            for turn in range(CALLS_PER_CONNECTION)
        )
        for connection in range(connections)
    )


def packed(words: Sequence[object]) -> bytes:
    """A command in RESP."""
    encoded = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(
        b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded
    )
