"""Variants of a call, and their packed requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from enum import Enum, auto

from benchmarks.support.load import Exchange, packed
from benchmarks.support.policy import Target

from keyleash.commands import load_table
from keyleash.store.keyspace import script_digest
from keyleash.store.wire import BatchMode, guard_call, runs_call, to_shard

VALUE_BYTES = 64
VALUE = "v" * VALUE_BYTES
KEY = "agents:jobs:{job}:state"
KEY_OF_ANOTHER = "agents:context:{job}:state"
OK = "+OK\r\n"
THE_VALUE = f"${VALUE_BYTES}\r\n{VALUE}\r\n"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of keyleash, of a run or since the start of the server.

    Attributes:
        passed: Calls charged to the budget `requests`.
        audited: Events appended to the identity's audit stream.
        denied: Recorded denials, including those that share an entry.
    """

    passed: int = 0
    audited: int = 0
    denied: int = 0

    def minus(self, before: Counts) -> Counts:
        """Return the difference from *before*."""
        return Counts(
            self.passed - before.passed, self.audited - before.audited, self.denied - before.denied
        )

    @staticmethod
    def sum_of(several: Iterable[Counts]) -> Counts:
        """Return the sum."""
        passed, audited, denied = map(sum, zip(*map(astuple, several), strict=True))
        return Counts(passed, audited, denied)

    def times(self, calls: int) -> Counts:
        """Return the counts of *calls* calls."""
        return Counts(self.passed * calls, self.audited * calls, self.denied * calls)


class Way(Enum):
    """How commands are sent: `RAW` without a guard, `GUARD` in a call each, `BATCH` in one call of
    the batch script in mode `all`, `BATCH_OF_SCRIPT` in the same call of the variant's script.
    """

    RAW = auto()
    GUARD = auto()
    BATCH = auto()
    BATCH_OF_SCRIPT = auto()


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of call.

    Attributes:
        name: For the report; unique together with `commands`.
        command: Words, with placeholders `{job}` and `{script}` (digest of `script`).
        reply: Expected bytes per command, with the same placeholders.
        baseline: Name of the variant with as many commands that it is compared with, or its own.
        counts: Expected counts of a call.
        commands: Commands per call, each with another `{job}`.
        script: Text of the called script, if any.
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
        """Return a variant with *commands* calls in one write."""
        return replace(self, commands=commands, counts=self.counts.times(commands))


CALLS_PER_CONNECTION = 8
"""Number of different calls, made in turn, each with its own keys."""


def exchanges(
    variant: Variant, target: Target, *, connections: int
) -> tuple[tuple[Exchange, ...], ...]:
    """Return the calls of *variant* per connection."""
    script = script_digest(variant.script)

    def exchange(number: int) -> Exchange:
        first = number * variant.commands
        jobs = [f"{first + i:012d}" for i in range(variant.commands)]
        commands = [
            [word.format(job=job, script=script) for word in variant.command] for job in jobs
        ]
        replies = "".join(variant.reply.format(job=job) for job in jobs)
        # The correlation id is as long as those that the client makes.
        caller = (target.token, f"{number:012x}-{number:06d}")
        match variant.way:
            case Way.RAW:
                return Exchange(b"".join(map(packed, commands)), replies.encode())
            case Way.GUARD:
                calls = [
                    guard_call(load_table(), target.guard.digest, *caller, command)
                    for command in commands
                ]
                if target.tag:
                    calls = [to_shard(call, target.tag, "") for call in calls]
                return Exchange(b"".join(map(packed, calls)), replies.encode())
            case Way.BATCH | Way.BATCH_OF_SCRIPT:
                digest = target.guard.batch_digest if variant.way is Way.BATCH else script
                call, _ = runs_call(load_table(), digest, *caller, BatchMode.ALL, commands)
                return Exchange(packed(call), f"*1\r\n{variant.reply}".encode())

    return tuple(
        tuple(
            exchange(connection * CALLS_PER_CONNECTION + turn)
            for turn in range(CALLS_PER_CONNECTION)
        )
        for connection in range(connections)
    )


def guarded_set(name: str, key: str = KEY) -> Variant:
    """Return a SET through the guard: allowed, counted and audited."""
    return Variant(name, ("SET", key, VALUE), OK, Way.GUARD, name, Counts(passed=1, audited=1))
