"""Poll blocking commands until their timeout, since a script cannot block.

A guard runs a blocking command without blocking. A null reply means that there is no data yet,
and charges no limit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from keyleash.client.actions import Flow, Words
from keyleash.client.command_words import upper

FIRST_PAUSE_S = 0.001
MAX_PAUSE_S = 0.064
PAUSE_OF_WORD_S = 2e-5
"""A server takes nearly 1 µs for each key of a poll, which is at most a twentieth of the time."""
JITTER = 0.1

_TIMEOUT_POSITIONS = {
    **dict.fromkeys(("BLPOP", "BRPOP", "BZPOPMIN", "BZPOPMAX", "BLMOVE", "BRPOPLPUSH"), -1),
    **dict.fromkeys(("BLMPOP", "BZMPOP"), 1),
}
"""The position of the timeout argument; -1 is the last."""

_WORDS_OF_OPTION = {"GROUP": 3, "COUNT": 2}
"""Options of XREAD and XREADGROUP whose values must not be taken for BLOCK."""


def pauses(words: Words) -> Iterator[float]:
    """Yield the seconds to sleep between polls, endlessly: more for a command of many keys."""
    pause_s = max(FIRST_PAUSE_S, len(words) * PAUSE_OF_WORD_S)
    while True:
        # Jitter, so that agents that wait for one key do not poll at the same time.
        yield pause_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        pause_s = max(pause_s, min(2 * pause_s, MAX_PAUSE_S))


def timeout_of(words: Words) -> float | None:
    """Return the seconds that a call may block, 0 for no limit; None if it does not block.

    An invalid timeout is None too: the server reports the error of the command.
    """
    at = _TIMEOUT_POSITIONS.get(upper(words[0]))
    try:
        seconds = float(words[at]) if at is not None else _block_of(words)
    except (IndexError, OverflowError, TypeError, ValueError):
        return None
    return seconds if seconds is not None and 0 <= seconds < math.inf else None


def _block_of(words: Words) -> float | None:
    """Return the seconds of the BLOCK option, if present."""
    at = 1
    while at < len(words):
        option = upper(words[at])
        if option == "STREAMS":
            break
        if option == "BLOCK":
            return int(words[at + 1]) / 1000
        at += _WORDS_OF_OPTION.get(option, 1)
    return None


def pin_ids(words: Words, ask: Callable[[Words], Flow]) -> Flow:
    """Replace `$` of XREAD by the last id of the stream, which each poll would move.

    Args:
        ask: Runs a command; its reply is not decoded.
    """
    if upper(words[0]) != "XREAD":
        return words
    first = next((at for at, word in enumerate(words) if upper(word) == "STREAMS"), len(words)) + 1
    count, is_odd = divmod(len(words) - first, 2)
    pinned = list(words)
    for at in range(first + count, len(words)):
        if words[at] in ("$", b"$") and not is_odd:
            entries = yield from ask(("XREVRANGE", words[at - count], "+", "-", "COUNT", 1))
            pinned[at] = entries[0][0] if entries else "0-0"
    return tuple(pinned)
