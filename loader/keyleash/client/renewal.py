"""The renewal of a token by its holder, without I/O."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from keyleash.client.actions import Flow
from keyleash.results import Instant, Result
from keyleash.store.token import TokenRecord
from keyleash.store.wire import reading_reply

RENEW = "RENEW"
"""The item of a batch in mode `renew`, and its name in events."""
MIN_RETRY_S = 1.0
"""After a renewal that failed."""


@dataclass(frozen=True, slots=True)
class Renewal(Result):
    """A renewed token.

    Attributes:
        id: The id of the token.
        identity: Its identity.
        expires_ms: When it expires, server time, Unix milliseconds.
        capped: Whether the requested life was longer than the policy's `max_ttl` allows.
        expires_at: `expires_ms` as a `datetime`.
    """

    id: str
    identity: str
    expires_ms: int
    capped: bool
    expires_at = Instant[datetime]()


def life_word(ttl: str | timedelta | None) -> str:
    """Return the life that a renewal asks for, in seconds; empty for that of the issue.

    Raises:
        TypeError, ValueError: *ttl* is no duration.
    """
    if ttl is None:
        return ""
    # Here, since few clients need it.
    from keyleash.policy.quantities import seconds_of  # noqa: PLC0415

    return str(seconds_of("ttl", ttl))


def read_renewal(identity: str, reply: Any) -> Renewal:
    """Read the reply to a batch in mode `renew`.

    Raises:
        UnexpectedReplyError: It is malformed.
    """
    with reading_reply("renew"):
        _, token_id, expires_ms, capped = reply
        return Renewal(token_id.decode(), identity, int(expires_ms), bool(capped))


class Schedule:
    """When the client of a session renews its token next; shared by its connections.

    A renewal is due when two thirds of the life that the token was issued with have gone by since
    the last one. The times come from the guard, so at first the token is only described.
    """

    def __init__(self) -> None:
        self._due_s = 0.0
        self._retry_s = MIN_RETRY_S
        self._busy = threading.Lock()

    def is_due(self, now_s: float) -> bool:
        """Return whether the next call is to look after the token before it is made."""
        return now_s >= self._due_s and not self._busy.locked()

    def reset(self) -> None:
        """Start again: the token is another one, or was renewed elsewhere."""
        self._due_s, self._retry_s = 0.0, MIN_RETRY_S

    def renewing(self, clock: Callable[[], float], describe: Flow, renew: Flow) -> Flow:
        """Describe the token, and renew it if that is due.

        Args:
            clock: Returns the seconds of a clock that never goes back.
            describe: Returns the reply to a batch in mode `whoami`.
            renew: Returns the reply to one in mode `renew`.
        """
        if not self._busy.acquire(blocking=False):
            return
        try:
            # If it fails. The times are those of the server and this clock together.
            self._due_s = clock() + self._retry_s
            reply = yield from describe
            with reading_reply("whoami"):
                now_us, record, *_, latest_ms, life_ms = reply
                self._plan(clock, now_us, TokenRecord.unpack(record).expires_us, latest_ms, life_ms)
            if clock() < self._due_s:
                return
            self._due_s = clock() + self._retry_s
            reply = yield from renew
            with reading_reply("renew"):
                now_us, _, expires_ms, _ = reply
                self._plan(clock, now_us, int(expires_ms) * 1000, latest_ms, life_ms)
        finally:
            self._busy.release()

    def _plan(
        self, clock: Callable[[], float], now: Any, expires_us: int, latest: Any, life: Any
    ) -> None:
        life_us = int(life) * 1000
        self._retry_s = max(MIN_RETRY_S, life_us / 30e6)
        due_us = expires_us - life_us // 3
        is_latest = int(latest) * 1000 <= expires_us
        self._due_s = math.inf if is_latest else clock() + (due_us - int(now)) / 1e6
