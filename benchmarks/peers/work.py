"""Parts of the work that libraries lack, made by hand as cheaply as possible.

The token is a record with the identity's name and an expiry, the key check one compiled pattern,
the budget one INCR on a key with the date, the event one XADD with the fields that keyleash
records, trimmed as often.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import redis
from benchmarks.peers.peer import Bed, RefusedError, Tally
from benchmarks.support.variants import VALUE

PREFIX = "peers:"
"""Prefix of the peers' keys that are not data."""

RATE = 6_000_000
"""Writes per minute: never exceeded, and the rate of keyleash's guard here."""

RETAIN = 100_000
TRIM_EVERY = 97
"""As keyleash's guard: trimming costs more than appending."""

POLICY = hashlib.sha256(b"the policy").hexdigest()[:12]
TOKEN_ID = "0123456789ab"
GRANTED = re.compile(r"agents:jobs:[^:]+:(?:state|result)")
BERLIN = ZoneInfo("Europe/Berlin")
LIFE = timedelta(hours=12)
COUNTER_LIFE = timedelta(days=2)


class Work:
    """The steps of a call, each one round trip or none."""

    def __init__(self, client: redis.Redis, bed: Bed) -> None:
        self.client = client
        self.identity = bed.identity
        self.budget = bed.budget
        self._token = bed.target.token
        self._identity = bed.identity.encode()
        self._stream = audit_stream(bed)
        self._process, self._numbers = secrets.token_hex(6), count(1)

    def token_key(self) -> str:
        """Return the key of the token's record; only its hash is stored."""
        digest = hashlib.sha256(self._token.encode()).hexdigest()
        return f"{PREFIX}token:{digest}"

    def require_token(self) -> None:
        """Raise RefusedError unless the token is valid."""
        self.require_record(self.client.get(self.token_key()))

    def require_record(self, record: object) -> None:
        """Raise RefusedError unless *record* is the identity's."""
        if record != self._identity:
            raise RefusedError("token")

    def require_key(self, key: str) -> None:
        """Raise RefusedError unless a grant matches *key*."""
        if GRANTED.fullmatch(key) is None:
            raise RefusedError("key")

    def budget_key(self) -> str:
        """Return the key of today's counter, by the client's date."""
        return budget_key(self.identity)

    def take_budget(self) -> None:
        """Count the call before the check, so that no race exceeds the budget."""
        key = self.budget_key()
        used = self.client.incr(key)
        if used == 1:
            self.client.expire(key, COUNTER_LIFE)
        if used > self.budget:
            raise RefusedError("budget")

    def write(self, key: str) -> None:
        """Run the SET."""
        self.client.set(key, VALUE)

    def append_event(self, key: str) -> None:
        """Append the audit event of a SET."""
        self.append_to(self.client, key)

    def append_to(self, client: Any, key: str) -> None:
        """Append the event through a client or a pipeline."""
        number = next(self._numbers)
        fields = {
            "token": TOKEN_ID,
            "op": "SET",
            "key": key,
            "correlation": f"{self._process}-{number}",
            "policy": POLICY,
        }
        client.xadd(self._stream, fields, maxlen=RETAIN if number % TRIM_EVERY == 0 else None)


def budget_key(identity: str) -> str:
    """Return the key of today's counter."""
    return f"{PREFIX}budget:{identity}:{datetime.now(BERLIN):%Y-%m-%d}"


def audit_stream(bed: Bed) -> str:
    """Return the audit stream; all peers share it, because they run in turn."""
    return f"{PREFIX}audit:{bed.identity}"


def prepare(bed: Bed) -> None:
    """Store the record of the token and reset the counters of the identity."""
    forget_limits(bed)
    store_token(bed)


def store_token(bed: Bed) -> None:
    """Store the record of the bed's token."""
    bed.admin.set(Work(bed.admin, bed).token_key(), bed.identity, ex=LIFE)


def revoke_token(bed: Bed) -> None:
    """Delete the record of the bed's token."""
    bed.admin.delete(Work(bed.admin, bed).token_key())


def forget_limits(bed: Bed) -> None:
    """Delete all counters of peers for the identity."""
    if found := list(bed.admin.scan_iter(f"*{bed.identity}*", count=10_000)):
        own = [key for key in found if not key.startswith(b"keyleash:")]
        if own:
            bed.admin.unlink(*own)


def tally(bed: Bed) -> Tally:
    """Return the counters made by hand."""
    used = bed.admin.get(budget_key(bed.identity))
    return Tally(int(used or 0), events_in(bed))


def events_in(bed: Bed) -> int:
    """Return the number of events ever appended to the peers' stream."""
    try:
        return int(bed.admin.xinfo_stream(audit_stream(bed))["entries-added"])
    except redis.ResponseError:
        return 0  # there is none yet
