"""An attacker with an agent's credentials on a cluster: it keeps all requests and vouchers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from keyleash.commands import load_table
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.placement import control_tag, key_slot, tag_of
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.wire import guard_call, to_shard
from support.clusters import ClusterNode, RealCluster
from support.vouchers import Voucher

NEEDED = "LEASH LEASE_NEEDED request="
PUBLIC = Keyspace().at_home()
HOME = HOME_TAG.encode()


@dataclass
class ClusterIntruder:
    """Raw connections to all nodes.

    Attributes:
        seen: All requests and vouchers so far, also of others that it works with.
        replies: All replies so far, errors as their text.
    """

    cluster: RealCluster
    identity: str
    token: str
    seen: list[str] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    _slots: list[tuple[int, int, int]] = field(default_factory=list)
    _clients: dict[int, redis.Redis] = field(default_factory=dict)

    def at(self, port: int) -> redis.Redis:
        """Return a client of one node, which follows no redirection."""
        if port not in self._clients:
            node = next(item for item in self.cluster.nodes if item.port == port)
            self._clients[port] = node.client(socket_timeout=20)
        return self._clients[port]

    def refresh(self) -> None:
        """Read which node serves which slots, as every agent may."""
        found: Any = self.at(self.cluster.nodes[0].port).execute_command("CLUSTER SLOTS")
        self._slots = [(low, high, int(node[1])) for low, high, node, *_ in found]

    def port(self, key: bytes) -> int:
        """Return the port of the node of a key, as it was at the last refresh."""
        if not self._slots:
            self.refresh()
        slot = key_slot(key)
        return next(port for low, high, port in self._slots if low <= slot <= high)

    def tag(self, port: int) -> str:
        """Return the tag of a node's shard."""
        spans = [(low, high) for low, high, at in self._slots if at == port]
        return control_tag(spans) or "a"

    def a_tag(self, port: int) -> str:
        """Return the tag of any slot of a node."""
        low, high, _ = random.choice([item for item in self._slots if item[2] == port])
        return tag_of(random.randint(low, high))

    @property
    def record(self) -> GuardRecord:
        """The guard record of its identity."""
        return self.record_of(self.identity)

    def record_of(self, identity: str) -> GuardRecord:
        """Return the guard record of an identity, which everybody may read."""
        name = PUBLIC.guard(identity)
        raw: Any = self.at(self.port(name.encode())).hgetall(name)
        record = guard_record(raw)
        assert record is not None
        return record

    def say(self, port: int, *words: Any, asking: bool = False) -> str:
        """Send words to a node; return the reply as text, of an error its message."""
        try:
            with self.at(port).pipeline(transaction=False) as pipe:
                if asking:
                    pipe.execute_command("ASKING")
                pipe.execute_command(*words)
                reply = pipe.execute(raise_on_error=False)[-1]
        except redis.RedisError as error:
            reply = error
        text = _text(reply)
        self.replies.append(text)
        return text

    def call(
        self,
        record: GuardRecord,
        last: str,
        *words: str,
        port: int | None = None,
        asking: bool = False,
        token: str | None = None,
    ) -> str:
        """Call a guard with a tag or a voucher as the last word; keep the request it replies."""
        own = self.token if token is None else token
        call = guard_call(load_table(), record.digest, own, "intruder", words)
        at = self.port(words[1].encode()) if port is None else port
        reply = self.say(at, *to_shard(call, last), asking=asking)
        if reply.startswith(NEEDED):
            self.seen.append(reply.removeprefix(NEEDED))
        return reply

    def fetch(self, record: GuardRecord, request: str, token: str | None = None) -> str:
        """Take a request to the home; keep the voucher."""
        own = self.token if token is None else token
        name = PUBLIC.guard(self.identity)
        words = ("EVALSHA", record.lease, 1, name, own, "intruder", request, "SET", "")
        reply = self.say(self.port(HOME), *words)
        if reply.count(":") >= 8:
            self.seen.append(reply)
        return reply

    def lease(self, record: GuardRecord, *words: str) -> tuple[str, str]:
        """Return a request of the shard of a call, and the voucher for it, with units."""
        last = self.tag(self.port(words[1].encode()))
        for _ in range(3):
            # The first one is for the token alone.
            reply = self.call(record, last, *words)
            assert reply.startswith(NEEDED), reply
            request = reply.removeprefix(NEEDED)
            last = self.fetch(record, request)
            if Voucher.parse(last).limits[0].amount:
                return request, last
        raise AssertionError(last)


def _text(reply: Any) -> str:
    if isinstance(reply, redis.ResponseError):
        # A pipeline of redis-py puts the command before the reply.
        return str(reply).partition("caused error: ")[2] or str(reply)
    if isinstance(reply, Exception):
        return f"{type(reply).__name__} {reply}"
    return reply.decode("latin-1") if isinstance(reply, bytes) else str(reply)


def forgeries(text: str, others: Sequence[str]) -> list[str]:
    """Return a request or voucher with each field changed, also to that of others."""
    words = text.split(":")
    found = []
    for place, word in enumerate(words):
        theirs = [other.split(":")[place] for other in others if other.count(":") >= place]
        changes = [f"{word}7", word[:-1] or "1", *theirs]
        found += [":".join([*words[:place], new, *words[place + 1 :]]) for new in changes]
    return [item for item in found if item != text]


class Attack:
    """Random attacks of one thread: it writes a new key with every trick, and counts the rest.

    Attributes:
        acknowledged: The keys whose write was acknowledged.
        denied: The times that the budget was exhausted.
    """

    def __init__(self, intruder: ClusterIntruder, seed: int) -> None:
        self._by, self._dice, self._seed = intruder, random.Random(seed), seed
        self._record = intruder.record
        self._count = 0
        self.acknowledged: list[str] = []
        self.denied = 0

    def step(self) -> None:
        """Try to write one key, then replay and forge what was seen."""
        self._count += 1
        key = f"jobs:{self._seed}-{self._count}"
        by, dice = self._by, self._dice
        port = by.port(key.encode())
        # Any client can make a second shard on a node, by naming another of its slots.
        last = by.tag(port) if dice.random() < 0.9 else by.a_tag(port)
        for _ in range(4):
            reply = self._write(key, last)
            if not reply.startswith(NEEDED):
                break
            request = reply.removeprefix(NEEDED)
            voucher = by.fetch(self._record, request)
            if voucher.startswith(f"{request.partition(':')[0]}:"):
                last = voucher
            if dice.random() < 0.2:
                last = dice.choice(by.seen)
            if dice.random() < 0.2:
                by.fetch(self._record, dice.choice(by.seen))
        if dice.random() < 0.1:
            forged = dice.choice(forgeries(dice.choice(by.seen), by.seen[-1:])[:40])
            self._write(f"{key}-forged", forged)

    def _write(self, key: str, last: str) -> str:
        asking = self._dice.random() < 0.1
        reply = self._by.call(self._record, last, "SET", key, "x", asking=asking)
        if reply == "OK":
            self.acknowledged.append(key)
        elif reply.startswith("LEASH BUDGET_EXHAUSTED"):
            self.denied += 1
        elif not reply.startswith("LEASH"):
            self._by.refresh()
        return reply


def control_slots_of(nodes: Sequence[ClusterNode]) -> list[int]:
    """Return the slot of the shard of each node."""
    tags = [control_tag([(slot, slot) for slot in sorted(node.slots)]) for node in nodes]
    return [key_slot(tag.encode()) for tag in tags if tag is not None]
