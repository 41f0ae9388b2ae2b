"""What a compared call is, as data: what is sent, what comes back, what must be counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from enum import Enum, auto

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
