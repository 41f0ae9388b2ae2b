"""The scripts of a cluster on one server: shards are tags, and a test carries the vouchers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
import redis

from keyleash.commands import load_table
from keyleash.compiler import Shards, compile_policy
from keyleash.doubles import DOUBLE
from keyleash.policy import parse_policy
from keyleash.store.keyspace import Keyspace
from keyleash.store.leases import (
    EPOCH_FIELD,
    MASTER_KEY_BYTES,
    LeaseEntry,
    ShardState,
    identity_key,
    unpack_entry,
    unpack_shard,
)
from keyleash.store.restrictions import Restrictions
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, TokenRecord, token_digest
from keyleash.store.wire import BatchMode, guard_call, replies_of, runs_call, to_shard
from support.leash import policy

HOME = Keyspace().at_home()
MASTER_KEY = bytes(range(MASTER_KEY_BYTES))
NEEDED = "LEASH LEASE_NEEDED request="
HOUR_MS = 3_600_000


def most_in_a_second(times_ms: list[int]) -> int:
    """Return the largest number of times within a second."""
    # The times of events are cut to milliseconds.
    return max(sum(begin <= at < begin + 999 for at in times_ms) for begin in times_ms)


class Sharded:
    """The guard of one identity `agent`, its home and its shards, and one token.

    Attributes:
        home: The names of keys at the home.
        homes: The number of calls of the home.
        sent: All requests and vouchers so far.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        between: bool = True,
        keyspace: Keyspace | None = None,
        **body: Any,
    ) -> None:
        self.client = client
        self.home = (keyspace or Keyspace()).at_home()
        self.table = load_table()
        self.key = identity_key(MASTER_KEY, "agent")
        self.token = f"kl_agent_{'0' * 32}"
        self.homes = 0
        self.sent: list[str] = []
        self.activate(between=between, **body)
        client.hset(self.home.leases("agent"), EPOCH_FIELD, 1)
        self.put_token(self.token)

    def activate(self, *, between: bool = True, **body: Any) -> None:
        """Make a policy active at the home, without a word to the shards."""
        self.activate_document(policy(agent=body), between=between)

    def activate_document(self, document: str, *, between: bool = True) -> None:
        """The same for a whole policy, whose only identity is `agent`."""
        parsed = parse_policy(document, file="agents.json", commands=self.table)
        shards = Shards(MASTER_KEY, between=between)
        (self.guard,) = compile_policy(parsed, self.table, keyspace=self.home, shards=shards)
        for script in self.guard.scripts.values():
            self.client.script_load(script)
        numbers = self.guard.layout.header_bytes // DOUBLE
        state = struct.pack(f"<{numbers}d", self.guard.stamp, *[0.0] * (numbers - 1))
        self.client.set(self.home.state("agent"), state)

    def put_token(self, token: str, restrictions: Restrictions | None = None) -> None:
        """Write the record of a token that expires in an hour."""
        now_ms = int(self.client.time()[0]) * 1000
        tail = None if restrictions is None else restrictions.pack()
        record = TokenRecord(token[-12:], (now_ms + HOUR_MS) * 1000, now_ms * 1000, tail=tail)
        name = self.home.token("agent", token_digest(token))
        self.client.set(name, record.pack(), pxat=now_ms + HOUR_MS + KEEP_AFTER_EXPIRY_MS)

    def single(self, tag: str, voucher: str, *words: str) -> Any:
        """Make one call of the guard at a shard, with a voucher or an empty text."""
        call = guard_call(self.table, self.guard.digest, self.token, "c", words)
        return self.client.execute_command(*to_shard(call, tag, voucher))

    def batch(self, tag: str, voucher: str, mode: BatchMode, *commands: tuple[str, ...]) -> Any:
        """Make one call of the batch script at a shard."""
        call, shape = runs_call(
            self.table,
            self.guard.batch_digest,
            self.token,
            "c",
            mode,
            commands,
            takes_runs=self.guard.plan.takes_runs,
        )
        return replies_of(self.client.execute_command(*to_shard(call, tag, voucher)), shape)

    def grant(self, request: str, command: str = "SET", key: str = "") -> str:
        """Call the home, and return its voucher."""
        self.homes += 1
        name = self.home.guard("agent")
        words = (self.token, "c", request, command, key)
        voucher = self.client.evalsha(self.guard.lease_digest, 1, name, *words)
        self.sent += [request, voucher.decode()]
        return self.sent[-1]

    def request(self, tag: str, *words: str) -> str:
        """Return the request with which a call is answered that lacks a lease."""
        with pytest.raises(redis.ResponseError, match=NEEDED) as error:
            self.single(tag, "", *words)
        return str(error.value).removeprefix(NEEDED)

    def leased(self, call: Callable[..., Any], tag: str, *arguments: Any) -> Any:
        """Make a call, and fetch leases for it as a client does."""
        voucher = ""
        for _ in range(5):
            try:
                return call(tag, voucher, *arguments)
            except redis.ResponseError as error:
                if not str(error).startswith(NEEDED):
                    raise
                voucher = self.grant(str(error).removeprefix(NEEDED))
        # Others took the units, or the shard asks for ever.
        raise redis.ResponseError(NEEDED)

    def call(self, tag: str, *words: str) -> Any:
        """Run one command at a shard."""
        return self.leased(self.single, tag, *words)

    def outcome(self, tag: str, *words: str) -> str:
        """Run one command at a shard; return the text of its denial, or `ran`."""
        try:
            self.call(tag, *words)
        except redis.ResponseError as error:
            return str(error)
        return "ran"

    def ran_ms(self, token: str = "") -> list[int]:
        """Return the times of the events of all shards, or of those of one token."""
        found: list[int] = []
        for name in self.client.keys(self.home.at_shard("*").audit("agent")):
            entries: Any = self.client.xrange(name)
            for id, fields in entries:
                if not token or token.endswith(fields.get(b"token", b"-").decode()):
                    found.append(int(id.split(b"-")[0]))
        return found

    def shard(self, tag: str) -> ShardState:
        """Return the state of a shard."""
        state = self.client.get(self.home.at_shard(tag).state("agent"))
        assert isinstance(state, bytes)
        return unpack_shard(state)

    def entry(self, tag: str) -> LeaseEntry:
        """Return what the home knows of a shard."""
        entry = self.client.hget(self.home.leases("agent"), tag)
        assert isinstance(entry, bytes)
        return unpack_entry(entry)

    def denials(self, stream: str) -> list[bytes]:
        """Return the codes in a stream of denials."""
        entries: Any = self.client.xrange(stream)
        return [fields[b"code"] for _, fields in entries]

    def used(self) -> int:
        """Return what the home has charged to the only limit, a budget."""
        state = self.client.get(self.home.state("agent"))
        assert isinstance(state, bytes)
        return int(struct.unpack_from("<d", state, 4 * DOUBLE)[0])
