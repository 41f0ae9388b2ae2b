"""Variants become bytes: packed requests, and the exact replies that they may have."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.support.load import Exchange
from benchmarks.support.policy import Target
from benchmarks.support.variants import Variant, Way

from keyleash.commands import load_table
from keyleash.store.keyspace import script_digest
from keyleash.store.wire import BatchMode, batch_call, guard_call

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
