"""Blocking commands: a script cannot block, so the client asks again until time is up.

A guard runs a blocking command without blocking. Its null says that nothing is there,
and takes nothing from a limit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from redis.client import NEVER_DECODE

from keyleash.client.flow import Flow, NothingYet, Pause, QueuedCommand, Waiting
from keyleash.errors import NotReplicatedError
from keyleash.store.wire import Argument

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.064
JITTER = 0.1

_SECONDS_AT = {
    "BLPOP": -1,
    "BRPOP": -1,
    "BZPOPMIN": -1,
    "BZPOPMAX": -1,
    "BLMOVE": -1,
    "BRPOPLPUSH": -1,
    "BLMPOP": 1,
    "BZMPOP": 1,
}
"""Where the timeout stands."""

_BLOCKING = frozenset({*_SECONDS_AT, "XREAD", "XREADGROUP"})

_WORDS_OF_OPTION = {"GROUP": 3, "COUNT": 2}
"""Options of XREAD and XREADGROUP whose values must not be taken for BLOCK."""

Words = tuple[Argument, ...]


@lru_cache(maxsize=512)
def may_block(name: str | bytes) -> bool:
    """Whether a command is one that blocks, if its arguments say so. Every call asks."""
    words = name.split(None, 1) if isinstance(name, str | bytes) else ()
    return bool(words) and _upper(words[0]) in _BLOCKING


def patient(
    words: Words, options: dict[str, Any], waiting: Waiting, clock: Callable[[], float]
) -> Flow:
    """Make a call until a rate lets it through and, if it blocks, until there is an answer."""
    if may_block(words[0]):
        words = _apart(words)
        timeout_s = timeout_of(words)
        if timeout_s is not None:
            deadline = clock() + timeout_s if timeout_s else math.inf
            # Who waits for a second does not want to sleep a minute for a rate.
            waiting = waiting.within(timeout_s or math.inf)
            words = yield from _pin_ids(words, waiting)
            try:
                return (
                    yield from _poll(
                        QueuedCommand(words, options, poll=True), waiting, deadline, clock
                    )
                )
            except NothingYet:
                # The last time, answered as a call is whose time ran out.
                pass
        return (
            yield from _nothing_lacks_no_replica(waiting.patiently(QueuedCommand(words, options)))
        )
    return (yield from waiting.patiently(QueuedCommand(words, options)))


def _nothing_lacks_no_replica(call: Flow) -> Flow:
    """Make a call of a blocking command: an answer that nothing is there wrote nothing."""
    try:
        return (yield from call)
    except NotReplicatedError as short:
        if short.reply:
            raise
        return short.reply


def _poll(
    call: QueuedCommand, waiting: Waiting, deadline: float, clock: Callable[[], float]
) -> Flow:
    """Make a call until it is answered, or time is up: then it is `NothingYet`."""
    for pause_s in pauses():
        try:
            return (yield from waiting.patiently(call))
        except NothingYet:
            left_s = deadline - clock()
            yield Pause(max(0, min(pause_s, left_s)))
            if left_s <= pause_s:
                raise
    return None


def pauses() -> Iterator[float]:
    """Seconds to sleep between polls, without end."""
    pause_s = FIRST_PAUSE_S
    while True:
        # A little apart, so that agents that wait for one key do not ask all at once.
        yield pause_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def timeout_of(words: Words) -> float | None:
    """Seconds that a call may block, 0 without end; None if it does not, or wrongly asks to.

    A timeout that is none is the command's own error, and the server's to tell.
    """
    at = _SECONDS_AT.get(_upper(words[0]))
    try:
        seconds = float(words[at]) if at is not None else _block_of(words)
    except (IndexError, OverflowError, TypeError, ValueError):
        return None
    return seconds if seconds is not None and 0 <= seconds < math.inf else None


def _block_of(words: Words) -> float | None:
    """Seconds of the BLOCK option, if it is there."""
    at = 1
    while at < len(words):
        option = _upper(words[at])
        if option == "STREAMS":
            break
        if option == "BLOCK":
            return int(words[at + 1]) / 1000
        at += _WORDS_OF_OPTION.get(option, 1)
    return None


def _pin_ids(words: Words, waiting: Waiting) -> Flow:
    """Put the last id of a stream for XREAD's `$`, which each poll would take anew."""
    if _upper(words[0]) != "XREAD":
        return words
    first = next((at for at, word in enumerate(words) if _upper(word) == "STREAMS"), len(words)) + 1
    count = (len(words) - first) // 2
    pinned = list(words)
    for at in range(first + count, len(words)):
        if words[at] in ("$", b"$"):
            # As bytes, since redis-py then has no callback that would change the reply.
            newest = (b"XREVRANGE", words[at - count], "+", "-", "COUNT", 1)
            last = QueuedCommand(newest, {NEVER_DECODE: True})
            entries = yield from waiting.patiently(last)
            pinned[at] = entries[0][0] if entries else "0-0"
    return tuple(pinned)


def _apart(words: Words) -> Words:
    """Redis-py lets the name carry arguments (`BLPOP key`); here they are apart."""
    name, *carried = words[0].split()
    return (name, *carried, *words[1:])


def _upper(word: Argument) -> str:
    if isinstance(word, bytes):
        word = word.decode("latin-1")
    return word.upper() if isinstance(word, str) else ""
