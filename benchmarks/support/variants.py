"""The calls that are compared, as data: what is sent, what comes back, what must be counted."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.support.load import Exchange
from benchmarks.support.policy import Target

from keyleash.commands import load_table
from keyleash.protocol.request import guard_call

VALUE_BYTES = 64
VALUE = "v" * VALUE_BYTES
KEY = "agents:jobs:{job}:state"
KEY_OF_ANOTHER = "agents:context:{job}:state"
KEYS_PER_CONNECTION = 8
OK = "+OK\r\n"
THE_VALUE = f"${VALUE_BYTES}\r\n{VALUE}\r\n"

SET_ONLY_SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1])"
"""The least that a script which runs a SET can do."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What keyleash counted, in calls: in a run, or in the life of a server.

    Attributes:
        passed: By the budget `requests`, which every call that passes is taken from.
        audited: Events appended to the identity's audit stream.
        denied: Events appended to its stream of refusals.
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

    def times(self, calls: int) -> Counts:
        """What *calls* calls count, if one counts this."""
        return Counts(self.passed * calls, self.audited * calls, self.denied * calls)


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of call.

    Attributes:
        name: For the report.
        command: Its words; `{job}` and `{set_only}` are filled in.
        reply: The bytes that must come back, filled in likewise.
        guarded: Whether the command goes through the guard.
        baseline: Name of the variant that it is compared with; its own for a baseline.
        counts: What one call must count.
    """

    name: str
    command: tuple[str, ...]
    reply: str
    guarded: bool
    baseline: str
    counts: Counts = Counts()


RAW_SET = Variant("raw SET", ("SET", KEY, VALUE), OK, False, "raw SET")
GUARDED_SET = Variant(
    "guarded SET", ("SET", KEY, VALUE), OK, True, "raw SET", Counts(passed=1, audited=1)
)
SET_ONLY = Variant(
    "EVALSHA that only SETs", ("EVALSHA", "{set_only}", "1", KEY, VALUE), OK, False, "raw SET"
)
REFUSED_SET = Variant(
    "guarded SET, refused",
    ("SET", KEY_OF_ANOTHER, VALUE),
    f"-LEASH KEY_NOT_GRANTED key={KEY_OF_ANOTHER}\r\n",
    True,
    "raw SET",
    Counts(denied=1),
)
RAW_GET = Variant("raw GET", ("GET", KEY), THE_VALUE, False, "raw GET")
GUARDED_GET = Variant("guarded GET", ("GET", KEY), THE_VALUE, True, "raw GET", Counts(passed=1))

VARIANTS = (RAW_SET, GUARDED_SET, SET_ONLY, REFUSED_SET, RAW_GET, GUARDED_GET)


def exchanges(
    variant: Variant, target: Target, *, set_only: str, protocol: int, connections: int
) -> tuple[tuple[Exchange, ...], ...]:
    """The calls of *variant*, for each connection those on its own `KEYS_PER_CONNECTION` keys.

    Args:
        variant: What is called.
        target: Guard and token of the guarded calls.
        set_only: Digest of `SET_ONLY_SCRIPT`.
        protocol: RESP version, 2 or 3, that the connections speak.
        connections: How many there are.
    """

    def exchange(number: int) -> Exchange:
        job = f"{number:012d}"
        words: list[str] = [word.format(job=job, set_only=set_only) for word in variant.command]
        if variant.guarded:
            # Correlation ids as long as those that the client makes.
            words = [
                str(argument)
                for argument in guard_call(
                    load_table(),
                    target.guard.digest,
                    target.token,
                    f"{number:012x}-{number:06d}",
                    str(protocol),
                    words,
                )
            ]
        return Exchange(packed(words), variant.reply.format(job=job).encode())

    return tuple(
        tuple(
            exchange(connection * KEYS_PER_CONNECTION + turn) for turn in range(KEYS_PER_CONNECTION)
        )
        for connection in range(connections)
    )


def packed(words: list[str]) -> bytes:
    """A command in RESP."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(
        b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded
    )
