"""Recorded calls, whatever recorded them, and what a log of them speaks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from keyleash.commands import CommandSpec, KeyUse, OperationClass, known_table
from keyleash.commands.spec import Needs
from keyleash.limits import Counter
from keyleash.policy import Policy
from keyleash.results import Progress, Result

EVERY = 2_000
"""Calls between two reports of progress."""
SHOWN = 5
"""Lines that are located."""
COUNTERS: Mapping[OperationClass, Counter] = {
    OperationClass.READ: Counter.READS,
    OperationClass.WRITE: Counter.WRITES,
    OperationClass.DELETE: Counter.DELETES,
}


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded command: one call, or one command of a batch or of a script.

    Attributes:
        identity: Who called; in a capture a client's name or address.
        time_ms: Server time, Unix milliseconds.
        command: In upper case, a sub-command after its container: `XGROUP CREATE`.
        keys: Its keys in their order, perhaps masked; the channels of commands of channels, the
            pattern of SCAN, the index of FT commands, the keys in KEYS of EVALSHA.
        token_id: The caller's token; in a capture its address.
        depth: The number of delegations from the issued token to the caller.
        cost: What the call took of limits; the first command of a batch or script has all of it.
        argv: The whole call; None if the log does not have it.
        is_variant: Whether the needs are those of `spec.variant` (SET … GET); None if unknown.
        script: The name of the script that made the call, in a capture its SHA-1. With EVALSHA,
            the call of the script.
        code: The reply code of a denial; empty for an allowed call.
        reason: As in `Denial`.
        count: The number of such denials in that minute.
        event: The id of its entry; in a capture the number of its line, or of that of MULTI.
    """

    identity: str
    time_ms: int
    command: str
    keys: tuple[bytes, ...] = ()
    token_id: str = ""
    depth: int = 0
    cost: Mapping[Counter, int] = field(default_factory=dict)
    argv: tuple[bytes, ...] | None = None
    is_variant: bool | None = False
    script: str = ""
    correlation: str = ""
    code: str = ""
    reason: str = ""
    count: int = 1
    event: str = ""

    @property
    def spec(self) -> CommandSpec | None:
        """The command's row in the table; None if keyleash does not know it."""
        return known_table().get(self.command)

    def uses(self) -> tuple[KeyUse, ...]:
        """Return its keys with the classes needed on each; none for channels, indexes and SCAN."""
        needs = _needs(self.command, self.is_variant) if self.keys else None
        if needs is None:
            return ()
        first, *others = self.keys
        return (KeyUse(first, needs[0]), *(KeyUse(key, needs[1]) for key in others))


@lru_cache(maxsize=1024)
def _needs(command: str, is_variant: bool | None) -> tuple[Needs, Needs] | None:
    """Return the needs of the first key of a command and of the others; None without keys."""
    spec = known_table().get(command)
    if spec is None or not spec.keys:
        return None
    if spec.variant is None or is_variant is False:
        return spec.keys[0].needs, spec.keys[-1].needs
    needed = {*spec.variant.needs, *(spec.needs if is_variant is None else ())}
    needs = tuple(item for item in OperationClass if item in needed)
    return needs, needs


@dataclass(slots=True)
class Coverage(Result):
    """The part of a log about one identity.

    Attributes:
        since_ms: From when on it has all calls of the recorded kinds; None if it has none.
        begun_ms: From when on it has some, if some are missing between; else None.
        until_ms: Until when.
        reads_since_ms: From when on it has reads; None if it has none.
        calls: The number of calls, with each command of a batch.
        denied: The number of denied calls.
        holes: What is missing, in words.
        is_cut: Whether earlier calls, which limits count, may be missing.
    """

    identity: str
    since_ms: int | None = None
    begun_ms: int | None = None
    until_ms: int | None = None
    reads_since_ms: int | None = None
    calls: int = 0
    denied: int = 0
    holes: list[str] = field(default_factory=list)
    is_cut: bool = False


@dataclass(slots=True)
class NotUnderstood(Result):
    """Lines of a source that are left out: their number, and the first of each reason."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str) -> None:
        """Count a line."""
        self.count += 1
        is_new = not any(example.endswith(f": {reason}") for example in self.examples)
        if is_new and len(self.examples) < SHOWN:
            self.examples.append(f"{place}: {reason}")


class CallLog:
    """The recorded calls of a source: an iterable of `RecordedCall` by time.

    Each pass reads the source again, in bounded memory, and completes the attributes.

    Attributes:
        name: The source, in words.
        coverage: What it speaks for, by identity.
        not_understood: Lines that were left out.
        scripts: Texts of scripts by `RecordedCall.script`; each character is a byte.
        active: The document of the active policy, if the source is its server.
        wanted_ms: The earliest time that is wanted; None if any.
        gaps_ms: By identity, the longest time in which reads may not have been recorded.
        policies: The policies that were active, each with its time; the newest first, and None for
            one that is not stored.
        is_capture: Whether it has KEYS of scripts and polls without a result, and masks no key.
    """

    is_capture = False
    total: int | None = None
    """Entries that a pass reads, if that is known."""

    def __init__(self, name: str, on_progress: Progress | None) -> None:
        self.name = name
        self.coverage: dict[str, Coverage] = {}
        self.not_understood = NotUnderstood()
        self.scripts: dict[str, str] = {}
        self.active = ""
        self.wanted_ms: int | None = None
        self.policies: list[tuple[int, Policy | None]] = []
        self._report = on_progress or (lambda _done, _total: None)

    def __iter__(self) -> Iterator[RecordedCall]:
        self.coverage = {}
        self.gaps_ms: dict[str, int] = {}
        self.not_understood = NotUnderstood()
        done = 0
        for done, call in enumerate(self._calls(), 1):
            coverage = self.covered(call.identity)
            if call.code:
                coverage.denied += call.count
            else:
                coverage.calls += 1
            if coverage.since_ms is None:
                coverage.since_ms = call.time_ms
            if self.is_capture:
                # It has reads, and the clock of its server may have been set back.
                coverage.since_ms = min(coverage.since_ms, call.time_ms)
                coverage.reads_since_ms = coverage.since_ms
            coverage.until_ms = max(coverage.until_ms or 0, call.time_ms)
            if done % EVERY == 0:
                self._report(done, self.total)
            yield call
        self._report(done, done)

    def covered(self, identity: str) -> Coverage:
        """Return the coverage of an identity."""
        if identity not in self.coverage:
            self.coverage[identity] = Coverage(identity)
        return self.coverage[identity]

    def note_hole(self, identity: str, hole: str, time_ms: int) -> None:
        """Note that calls before a time are missing."""
        found = self.covered(identity)
        found.holes.append(hole)
        found.begun_ms = found.since_ms if found.begun_ms is None else found.begun_ms
        found.since_ms, found.is_cut = max(time_ms, found.since_ms or 0), True
        if found.reads_since_ms is not None:
            found.reads_since_ms = max(found.reads_since_ms, time_ms)

    def _calls(self) -> Iterator[RecordedCall]:
        raise NotImplementedError
