"""The blocking commands that wait: which is polled next, and how often."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from keyleash.client.actions import Words
from keyleash.client.calls import Call
from keyleash.client.command_words import upper

UNITS_PER_S = 1000
"""Polls of one key that an identity makes in a second; its tokens make half of them each."""
WORDS_OF_UNIT, WORDS_OF_SQUARE = 50, 250
"""A poll of n words is 1 + n / 50 + (n / 250)² units. One costs a server about 40 µs; the square is
for those that wait until a long one has ended."""
MAX_WAITING_KEYS = 50_000
"""Keys for which the commands of an identity wait, each counted per command; about 0.5 KB each."""
LOOK_S = 1.0
"""The longest time in which a waiting command does not notice that the gateway ends."""


class Pace:
    """Spaces polls by what they cost."""

    def __init__(self, units_per_s: float) -> None:
        self._units_per_s, self._free_at = units_per_s, 0.0

    async def take(self, units: float) -> None:
        """Return when polls of *units* may begin."""
        now = time.monotonic()
        starts_at = max(now, self._free_at)
        self._free_at = starts_at + units / self._units_per_s
        if starts_at > now:
            await asyncio.sleep(starts_at - now)


class Wait(NamedTuple):
    """A blocking command that waits.

    Attributes:
        identity: That of its token.
        line: Shared by the commands of which the first to come is the first to be served.
        words: The command with all its keys.
        keys: Those from which it takes, in its order.
        woken: Set when it is to be polled at once.
    """

    identity: str
    line: Any
    words: Words
    keys: Sequence[Any]
    woken: asyncio.Event


class Polls:
    """The blocking commands of all agents that wait.

    Of the commands of one identity that wait for a key, only the first is polled: so it gets what
    comes first, and the others cost nothing. A command is polled for those of its keys for which it
    is the first. XREAD takes nothing from others, so that each is polled.

    Attributes:
        is_draining: Whether commands stop to wait, as the gateway ends.
        paces: Those of identities.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self.paces: defaultdict[str, Pace] = defaultdict(lambda: Pace(UNITS_PER_S))
        self._waits: dict[Call, Wait] = {}
        self._lines: dict[Any, dict[Any, dict[Call, None]]] = {}
        self._counts = Counter[str]()

    def __len__(self) -> int:
        """Return the number of commands that wait."""
        return len(self._waits)

    async def wait(
        self, call: Call, seconds: float, keys: Sequence[Any], identity: str, pace: Pace
    ) -> bool:
        """Wait until a blocking command is polled again, and leave it the keys of this poll.

        Args:
            seconds: The time until then, if it is the first for one of *keys*.
            keys: Those from which it takes, in its order.
            pace: That of its token.

        Returns:
            False at its deadline if it is the first for none: what comes is for others.

        Raises:
            RedisConnectionError: the gateway ends.
            ResponseError: the commands of the identity wait for too many keys.
        """
        is_new, polled_at = call not in self._waits, time.monotonic() + seconds
        if is_new:
            line, words = _line(call, identity), call.commands[0]
            self._enter(call, Wait(identity, line, words, keys, asyncio.Event()))
        try:
            woken = self._waits[call].woken
            # It is woken when that changes: with many keys, to look takes a millisecond.
            ends_at = polled_at if self._is_first(call) else call.deadline or 0
            while not woken.is_set():
                left_s = ends_at - time.monotonic()
                if left_s <= 0:
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, LOOK_S)):
                        await woken.wait()
                self._check()
            woken.clear()
            # Also for the call that found nothing: with a short timeout, it is half of all.
            times = is_new + (is_polled := self._is_first(call))
            count = len(self._waits[call].words)
            units = times * (1 + count / WORDS_OF_UNIT + (count / WORDS_OF_SQUARE) ** 2)
            if times:
                await pace.take(units)
                await self.paces[identity].take(units)
            self._check()
            if is_polled and not call.once:
                # Its id is for all of its words.
                call.commands = [self._words_of_poll(call)]
        except BaseException:
            self.leave(call)
            raise
        return is_polled

    def _check(self) -> None:
        if self.is_draining:
            raise RedisConnectionError("the gateway ends")

    def require_room(self, identity: str, count: int) -> None:
        """Check that a command may wait for *count* keys more.

        Raises:
            ResponseError: it may not.
        """
        if self._counts[identity] + count > MAX_WAITING_KEYS:
            most = f"{MAX_WAITING_KEYS:,} keys, the most for one identity"
            raise ResponseError(f"blocking commands would wait for more than {most}")

    def _enter(self, call: Call, wait: Wait) -> None:
        self.require_room(wait.identity, len(wait.keys))
        self._counts[wait.identity] += len(wait.keys)
        self._waits[call] = wait
        for key in wait.keys:
            self._lines.setdefault(key, {}).setdefault(wait.line, {})[call] = None

    def _is_first(self, call: Call) -> bool:
        _, line, _, keys, _ = self._waits[call]
        return any(next(iter(self._lines[key][line])) is call for key in keys)

    def _words_of_poll(self, call: Call) -> Words:
        """Return a command with the keys for which it is the first."""
        _, line, words, keys, _ = self._waits[call]
        first = [at for at, key in enumerate(keys) if next(iter(self._lines[key][line])) is call]
        name, count = upper(words[0]), len(keys)
        if len(first) == count:
            return words
        is_read, is_counted = name == "XREADGROUP", name.endswith("MPOP")
        start = len(words) - 2 * count if is_read else 3 if is_counted else 1
        head, rest = words[:start], words[start + count :]
        if is_counted:
            head = (*words[:2], str(len(first)))
        if is_read:
            rest = tuple(rest[at] for at in first)
        return (*head, *(keys[at] for at in first), *rest)

    def leave(self, call: Call) -> None:
        """Forget a command that waits no more; the next of its line are polled at once."""
        if call not in self._waits:
            return
        identity, line, _, keys, _ = self._waits.pop(call)
        self._counts[identity] -= len(keys)
        for key in {*keys}:
            lines = self._lines[key]
            was_first = next(iter(lines[line])) is call
            del lines[line][call]
            if not lines[line]:
                del lines[line]
            elif was_first:
                self._wake_first(lines[line])
            if not lines:
                del self._lines[key]

    def wake(self, keys: Iterable[Any]) -> None:
        """Poll for the first commands that wait for *keys* at once: something may have come."""
        for key in self._lines.keys() & keys:
            for calls in self._lines[key].values():
                self._wake_first(calls)

    def _wake_first(self, calls: Iterable[Call]) -> None:
        self._waits[next(iter(calls))].woken.set()


def _line(call: Call, identity: str) -> Any:
    words = call.commands[0]
    if upper(words[0]) == "XREAD":
        return call
    if upper(words[0]) == "XREADGROUP":
        return identity, words[[*map(upper, words)].index("GROUP") + 1]
    # A server serves those that wait for a list and for a sorted set apart.
    return identity, upper(words[0]).startswith("BZ")
