"""An agent of a real cluster that calls guards by hand, as docs/reference/wire.md describes."""

from __future__ import annotations

import time
from typing import Any

import redis

from keyleash.commands import load_table
from keyleash.store.keyspace import Keyspace
from keyleash.store.placement import control_tag
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.wire import BatchMode, guard_call, replies_of, runs_call, to_shard
from support.clusters import ClusterNode, RealCluster
from support.replication import PATIENCE_S

HOME = Keyspace().at_home()
NEEDED = "LEASH LEASE_NEEDED request="
WAITS = ("TRYAGAIN", "CLUSTERDOWN")
"""Replies on which nothing ran, and the call is made again."""
MOVING = ("during rehashing", "non local")
"""The same behind ASKING: a slot whose keys are partly at the other node."""


class ClusterAgent:
    """One identity's agent, with a token and the ACL user that its connections log in as.

    Attributes:
        waits: The calls that were repeated because a slot was being moved.
    """

    def __init__(self, cluster: RealCluster, identity: str, token: str, **user: Any) -> None:
        self._cluster, self._identity, self._token = cluster, identity, token
        self._user, self._table = user, load_table()
        self._clients: dict[int, redis.Redis] = {}
        self._tags: dict[int, str] = {}
        self.waits = 0

    def at(self, node: ClusterNode) -> redis.Redis:
        """Return a client of one node, which follows no redirection."""
        if node.port not in self._clients:
            self._clients[node.port] = node.client(**self._user)
        return self._clients[node.port]

    def tag(self, node: ClusterNode) -> str:
        """Return the tag of a node's shard, as it was at the first call."""
        if node.port not in self._tags:
            tag = control_tag([(slot, slot) for slot in sorted(node.slots)])
            assert tag is not None
            self._tags[node.port] = tag
        return self._tags[node.port]

    def record(self) -> GuardRecord:
        """Return the guard record."""
        name = HOME.guard(self._identity)
        raw: Any = self.at(self._cluster.owner(name)).hgetall(name)
        record = guard_record(raw)
        assert record is not None
        return record

    def call(self, *words: Any) -> Any:
        """Run one command, at the node that serves its first key."""
        return self.call_by(self.record(), *words)

    def call_by(self, record: GuardRecord, *words: Any) -> Any:
        """Run one command by the guard of a record, which may be an old one."""
        call = guard_call(self._table, record.digest, self._token, "c", words)
        return self._routed(record, call, words)

    def batch(self, mode: BatchMode, *commands: tuple[Any, ...]) -> Any:
        """Run a batch of commands on one slot."""
        record = self.record()
        call, shape = runs_call(
            self._table, record.batch_digest, self._token, "c", mode, commands,
            takes_runs=record.takes_runs,
        )  # fmt: skip
        return replies_of(self._routed(record, call, commands[0]), shape)

    def outcome(self, *words: Any) -> str:
        """Run one command; return the text of its error, or `ran`."""
        try:
            self.call(*words)
        except redis.ResponseError as error:
            return str(error)
        return "ran"

    def _routed(self, record: GuardRecord, call: Any, words: tuple[Any, ...]) -> Any:
        """Make a call at the node of its first key; fetch leases, and follow a moving slot."""
        key = call[3] if int(call[2]) else b"x"
        node = self._cluster.owner(key)
        voucher, asking = "", False
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self.at(node).pipeline(transaction=False) as pipe:
                    if asking:
                        pipe.execute_command("ASKING")
                    pipe.execute_command(*to_shard(call, self.tag(node), voucher))
                    return pipe.execute()[-1]
            except redis.exceptions.AskError as error:
                node, voucher, asking = self._named(error), "", True
            except redis.exceptions.MovedError as error:
                node, voucher, asking = self._named(error), "", False
            except redis.ResponseError as error:
                # A pipeline puts the command before the reply.
                text = str(error).partition("caused error: ")[2] or str(error)
                if text.startswith(NEEDED):
                    voucher = self._fetch(record, text.removeprefix(NEEDED), words)
                elif text.startswith(WAITS) or (asking and any(item in text for item in MOVING)):
                    self.waits += 1
                    time.sleep(0.02)
                    node, voucher, asking = self._cluster.owner(key), "", False
                else:
                    raise redis.ResponseError(text) from None
            assert time.monotonic() < until_s

    def _named(self, error: redis.exceptions.AskError) -> ClusterNode:
        return next(node for node in self._cluster.running if node.port == error.port)

    def _fetch(self, record: GuardRecord, request: str, words: tuple[Any, ...]) -> str:
        name = HOME.guard(self._identity)
        key = words[1] if len(words) > 1 else ""
        voucher: bytes = self.at(self._cluster.owner(name)).evalsha(
            record.lease, 1, name, self._token, "c", request, words[0], key
        )
        return voucher.decode()
