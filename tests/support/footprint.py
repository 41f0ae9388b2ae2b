"""Count the commands that a server runs for a call."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from keyleash.commands import load_table
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.token import TokenRecord, token_digest
from keyleash.store.wire import BatchMode, batch_call, guard_call
from support.leash import NAMES, Leash, put_token

MEASURING = {"evalsha", "info", "config|resetstat"}
"""What counting runs itself. No guard can: they are not for scripts."""

ATTEMPTS = 5_000
"""For what happens in one millisecond of seven, as the clock wills."""

Call = list[Any]


@dataclass(frozen=True, slots=True)
class Footprint:
    """
    The commands that the server ran for one call.

    Attributes:
        outcome: `passed`, `error`, or the code of the denial.
        calls: The number of runs per command, subcommands as `xinfo|groups`.
    """

    outcome: str
    calls: Counter[str]

    def __str__(self) -> str:
        ran = ", ".join(f"{name} {times}" for name, times in sorted(self.calls.items()))
        return f"{self.outcome:<20} {self.calls.total():>3}  {ran}"


class Footprints:
    """Calls of identities of one policy, packed as a client would, and what they made run."""

    def __init__(self, leash: Leash, document: str) -> None:
        self.leash, self.admin = leash, leash.admin
        leash.load(document)
        identities = json.loads(document)["identities"]
        self.tokens = {name: leash.issue(name).token for name in identities}
        self.records = {name: self._record(name) for name in identities}

    def of(self, call: Call) -> Footprint:
        """Make the call, and count; whether it trims is the clock's, and not counted."""
        footprint = self._of(call)
        del footprint.calls["xtrim"]
        return footprint

    def _of(self, call: Call) -> Footprint:
        self.admin.config_resetstat()
        outcome = "passed"
        try:
            self.admin.execute_command(*call)
        except redis.ResponseError as error:
            words = str(error).split()
            outcome = words[1] if words[0] == "LEASH" else "error"
        stats = self.admin.info("commandstats")
        calls = Counter({name.removeprefix("cmdstat_"): of["calls"] for name, of in stats.items()})
        return Footprint(outcome, Counter({n: calls[n] for n in calls if n not in MEASURING}))

    def until(self, done: Callable[[Footprint], bool], call: Call) -> Footprint:
        """Make the call until one is as *done* says, and give that one's."""
        for _ in range(ATTEMPTS):
            footprint = self._of(call)
            if done(footprint):
                return footprint
        raise AssertionError(f"{ATTEMPTS} calls, and none was the one")

    def call(self, identity: str, *command: Any, token: str | None = None) -> Call:
        digest, token = self.records[identity].digest, token or self.tokens[identity]
        return [*guard_call(load_table(), digest, token, "test", command)]

    def batch(self, identity: str, mode: str, commands: list[tuple[Any, ...]]) -> Call:
        digest, token = self.records[identity].batch_digest, self.tokens[identity]
        return [*batch_call(load_table(), digest, token, "test", BatchMode(mode), commands)]

    def rewrite_token(self, identity: str, **times_us: int) -> None:
        """Change `expires_us` or `used_us` of the token, as if that time had come."""
        name = NAMES.token(identity, token_digest(self.tokens[identity]))
        record = TokenRecord.unpack(self.admin.get(name))
        times: dict[str, Any] = {
            "expires_us": record.expires_us,
            "used_us": record.used_us,
        } | times_us
        rewritten = TokenRecord(record.id, revoked=record.revoked, **times)
        put_token(self.admin, identity, self.tokens[identity], rewritten)

    def now_us(self) -> int:
        seconds, micros = self.admin.time()
        return int(seconds) * 1_000_000 + int(micros)

    def _record(self, identity: str) -> GuardRecord:
        record = guard_record(self.admin.hgetall(NAMES.guard(identity)))
        assert record is not None
        return record
